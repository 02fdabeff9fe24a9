"""All charts of the report, by name: each is drawn from the tables alone and written as Vega-Lite and as SVG."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffmech.artifacts import atomic_path
from diffmech.config.analysis import AblationConfig
from diffmech.report.drawing import specification, write_text
from diffmech.report.heads import (
    charts_ablation,
    charts_attention,
    charts_circuit,
    charts_mechanisms,
    charts_model,
    charts_patching,
    charts_resampling,
    charts_telling,
)
from diffmech.report.heads.artifacts import ReportInputs, Tables, read_tables
from diffmech.report.heads.findings import head_labels, mechanism_names
from diffmech.report.heads.published import published

Drawer = Callable[[Tables, AblationConfig], Any]

CHARTS: dict[str, Drawer] = {
    "power_spectrum": lambda t, _: charts_model.power_spectrum(t.comparison, t.domains),
    "training_history": lambda t, _: charts_model.training_history(t.history),
    "heldout_loss": lambda t, _: charts_model.heldout_loss(t.heldout, t.domains),
    "recognition": lambda t, _: charts_model.recognition(t.recognition),
    "entropy_map": lambda t, _: charts_attention.entropy_map(t.entropy, t.heads, t.domains),
    "entropy_layers": lambda t, _: charts_attention.entropy_layers(t.entropy, t.sites, t.domains),
    "entropy_divergence": lambda t, _: charts_attention.entropy_divergence(t.divergence),
    "jensen_shannon": lambda t, _: charts_attention.jensen_shannon(t.divergence),
    "telling": lambda t, _: charts_telling.telling(t.divergence, t.telling),
    "factorial_map": lambda t, _: charts_telling.factorial_map(t.factorial, t.heads),
    "cluster_quality": lambda t, _: charts_mechanisms.cluster_quality(t.clusters),
    "mechanism_grid": lambda t, _: charts_mechanisms.mechanism_grid(t.mechanisms, t.heads),
    "ablation_mechanisms": lambda t, a: _forest(t, a, "mechanisms"),
    "ablation_layers": lambda t, a: _forest(t, a, "layers"),
    "ablation_heads": lambda t, a: _forest(t, a, "heads"),
    "ablation_map": lambda t, a: charts_ablation.ablation_map(t.effects, a.methods[0], t.heads, t.domains, a.alpha),
    "ablation_methods": lambda t, _: charts_ablation.ablation_methods(t.effects, t.domains, mechanism_names(t)),
    "resampling_attributes": lambda t, a: charts_resampling.resampling_attributes(
        t.resampling, a.alpha, mechanism_names(t)
    ),
    "resampling_measures": lambda t, a: charts_resampling.resampling_measures(
        t.resampling, a.alpha, mechanism_names(t)
    ),
    "windows_map": lambda t, a: charts_patching.windows_map(t.windows, a.methods[0], t.heads, t.domains),
    "patching_sufficient": lambda t, _: charts_patching.patching_map(t.patching, "denoising", t.heads, t.domains),
    "patching_necessary": lambda t, _: charts_patching.patching_map(t.patching, "noising", t.heads, t.domains),
    "patching_doses": lambda t, _: charts_patching.patching_doses(t.patching, t.domains),
    "circuit_curve": lambda t, _: charts_circuit.circuit_curve(t.circuits),
    "circuit_graph": lambda t, _: charts_circuit.circuit_graph(t.circuits, t.sites, head_labels(t)),
    "circuit_timesteps": lambda t, _: charts_circuit.circuit_timesteps(t.circuits),
    "complexity_ratio": lambda t, _: charts_ablation.complexity_ratio(
        t.complexity, published(t.references, "complexity_ratio"), t.domains
    ),
}


def draw_charts(inputs: ReportInputs, folder: Path, *, ablation: AblationConfig) -> None:
    """Write `<name>.vl.json` (Vega-Lite with its data) and `<name>.svg` of every chart to `folder`."""
    import vl_convert

    tables = read_tables(inputs)
    for name, draw in CHARTS.items():
        spec = specification(draw(tables, ablation))
        with atomic_path(Path(folder) / f"{name}.vl.json") as path:
            path.write_text(write_text(spec), encoding="utf-8")
        with atomic_path(Path(folder) / f"{name}.svg") as path:
            path.write_text(vl_convert.vegalite_to_svg(json.dumps(spec)), encoding="utf-8")


def _forest(tables: Tables, ablation: AblationConfig, group: str) -> Any:
    return charts_ablation.ablation_forest(
        tables.effects, group, ablation.methods[0], tables.domains, mechanism_names(tables)
    )
