"""All tables that the package declares, found by file: `tables` modules, and measures in modules of their own. Ours."""

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffmech.tables import Table

PACKAGE = Path(__file__).parent
MEASURES = "measures/*.py"


def every_table() -> list[Table]:
    """Return all tables that the package declares, by the modules that declare them."""
    return list(_declared(_modules("*/tables.py") + _modules(MEASURES)))


def measured_tables() -> list[Table]:
    """Return the tables that modules of `diffmech.measures` declare."""
    others = {table.name for table in _declared(_modules("*/tables.py"))}
    return [table for table in _declared(_modules(MEASURES)) if table.name not in others]


def _modules(pattern: str) -> list[str]:
    files = (file for file in sorted(PACKAGE.glob(pattern)) if file.stem != "__init__")
    return [".".join((PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]


def _declared(modules: Iterable[str]) -> Iterator[Table]:
    names: dict[str, str] = {}
    for module in modules:
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, Table) and value.name not in names:
                names[value.name] = module
                yield value
