"""How a chart is declared: its name, chapter, caption and tables, and which function draws it. Imports nothing heavy.

A declaration is read where the workflow is parsed, where charts are drawn and where a page is written; only drawing
imports what draws.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jinja2


@dataclass(frozen=True)
class Chart:
    """One chart of a study.

    `chapter` is where `snakemake --report` lists it; `caption` is Jinja text over the `settings` and the `domains` of
    the study. `draw` names, as "module:function", what draws it: the function gets by the names of its parameters
    the tables that `tables` lists, and facts of the study.
    """

    name: str
    chapter: str
    caption: str
    tables: tuple[str, ...]
    draw: str

    def function(self) -> Callable[..., Any]:
        """Import and return the function that draws it."""
        module, _, function = self.draw.partition(":")
        drawing: Callable[..., Any] = getattr(import_module(module), function)
        return drawing

    def drawn(self, known: Mapping[str, Any]) -> Any:
        """Return the chart, drawn from what its function asks for of the tables and facts in `known`."""
        function = self.function()
        return function(**{name: known[name] for name in inspect.signature(function).parameters})

    def words(self, settings: Mapping[str, Any], domains: tuple[str, ...]) -> str:
        """Return the caption for one study, as plain text."""
        template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(self.caption)
        return template.render(settings=settings, domains=domains)


def declared_in(package: str) -> tuple[Chart, ...]:
    """Return the charts that the modules of `package` declare at their top, in the order of the modules' names."""
    found = sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))
    modules = [import_module(f"{package}.{name}") for name in found]
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Chart))
