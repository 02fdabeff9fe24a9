"""What every section of the page is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffmech.config.root import Config
from diffmech.report import markup
from diffmech.report.heads.artifacts import ReportInputs, Tables, run_timesteps


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

    def chart(self, name: str, caption: str) -> str:
        """Return the chart `name` with its caption."""
        return markup.chart(name, self.specs[name], caption)
