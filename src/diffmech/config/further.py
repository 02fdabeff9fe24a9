"""Further studies: each is found by the file of its section in `diffmech.config.studies`, and listed nowhere. Ours."""

import importlib
import keyword
import pkgutil
from collections.abc import Collection
from typing import Any

from pydantic import Field

from diffmech.config import studies
from diffmech.config.section import StudySection


def further_sections() -> dict[str, type[StudySection]]:
    """Return the section of every further study, by its name.

    TypeError for a file that does not hold just one, or whose name cannot be that of a module: the name is also that
    of the study's package, its key in config.yaml and its page.
    """
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(studies.__path__)):
        if not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"{studies.__name__}: {name}.py is no name of a study; name the file as a Python module")
        module = importlib.import_module(f"{studies.__name__}.{name}")
        own = [value for value in vars(module).values() if _is_section(value) and value.__module__ == module.__name__]
        if len(own) != 1:
            raise TypeError(f"{module.__name__}: has {len(own)} classes derived from StudySection, expected one")
        found[name] = own[0]
    return found


def further_fields(taken: Collection[str]) -> dict[str, Any]:
    """Return the optional keys of the further studies; TypeError where one is among those `taken`.

    No dump of the whole configuration holds them: the main study, whose rules track all of it, depends on none.
    """
    fields = {}
    for name, section in further_sections().items():
        if name in taken:
            raise TypeError(f"{studies.__name__}.{name}: {name} is another key of config.yaml; name the file otherwise")
        description = f"{section.title}: a further study; null = not asked for."
        fields[name] = (section | None, Field(None, exclude=True, description=description))
    return fields


def _is_section(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, StudySection)
