"""What every section of the page is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from diffmech.charts import Chart
from diffmech.config.root import Config
from diffmech.report import markup
from diffmech.report.heads.artifacts import ReportInputs, Tables, run_timesteps
from diffmech.report.heads.charts import every_chart


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

    @property
    def ablated_timesteps(self) -> list[float]:
        """The timesteps at which heads were replaced, ascending."""
        return run_timesteps(self.tables.effects)

    @property
    def patched_timesteps(self) -> list[float]:
        """The timesteps at which heads were patched, ascending; empty where the tables do not say."""
        if self.config.latents.kind == "noised":
            return [float(timestep) for timestep in self.config.patching_timesteps]
        return self.ablated_timesteps if self.config.patching.timesteps is None else []

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """All charts of the study by name."""
        return {chart.name: chart for chart in every_chart()}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the study as captions read them."""
        return self.config.model_dump(mode="json", exclude={"runtime"})

    def chart(self, name: str, more: str = "") -> Markup:
        """Return the chart `name` under its declared caption, and under what only this page can say of it."""
        caption = self.charts[name].words(self.settings, self.tables.domains)
        return markup.chart(name, self.specs[name], f"{caption} {more}".strip())
