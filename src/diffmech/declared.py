"""All tables that the package declares, found by file: `tables` modules, and measures in modules of their own. Ours."""

import importlib
from collections.abc import Iterable
from pathlib import Path

from diffmech.tables import Table

PACKAGE = Path(__file__).parent
MEASURES = "measures/*.py"


def every_table() -> list[Table]:
    """Return all tables that the package declares, by the modules that declare them.

    Raises ValueError where two of them have one name.
    """
    return _declared(_modules("*/tables.py") + _modules(MEASURES))


def measured_tables() -> list[Table]:
    """Return the tables that modules of `diffmech.measures` declare."""
    of_rooms = {table.name for table in _declared(_modules("*/tables.py"))}
    return [table for table in every_table() if table.name not in of_rooms]


def _modules(pattern: str) -> list[str]:
    files = (file for file in sorted(PACKAGE.glob(pattern)) if file.stem != "__init__")
    return [".".join((PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]


def _declared(modules: Iterable[str]) -> list[Table]:
    found: dict[str, tuple[str, Table]] = {}
    for module in modules:
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, Table):
                where, first = found.setdefault(value.name, (module, value))
                if first is not value:  # one that is imported is met again
                    raise ValueError(f"{module}: a table of {where} is called {value.name} too; give it another name")
    return [table for _, table in found.values()]
