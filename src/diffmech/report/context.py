"""What every section of the page is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffmech.config.root import Config
from diffmech.report import markup
from diffmech.report.artifacts import ReportInputs, Tables


@dataclass(frozen=True)
class Context:
    """The tables, the settings and the drawn charts of one study."""

    inputs: ReportInputs
    tables: Tables
    config: Config
    specs: Mapping[str, Mapping[str, Any]]

    @property
    def method(self) -> str:
        """The ablation method that rankings and controls use."""
        return str(self.config.ablation.methods[0])

    def chart(self, name: str, caption: str) -> str:
        """Return the chart `name` with its caption."""
        return markup.chart(name, self.specs[name], caption)
