"""The number that a finding rests on, with its interval, and the chart that shows it: for the front page. Ours."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from diffmech.config.root import Config
from diffmech.findings import Estimate, Finding
from diffmech.interventions.decisions import CAUSAL
from diffmech.mechanisms.told import TOLD
from diffmech.report.heads.artifacts import Tables, effect_title, largest
from diffmech.report.heads.findings import mechanism_names
from diffmech.report.heads.terms import VARIANTS, attention
from diffmech.report.wording import count


def with_evidence(finding: Finding, tables: Tables, config: Config) -> Finding:
    """Return a finding with its estimate and its picture, as it is where no single number stands for it."""
    if finding.section not in _EVIDENCE:
        return finding
    measured, chart = _EVIDENCE[finding.section]
    estimate = measured(tables, config)
    picture = f"charts/{chart}.svg" if chart and estimate else None
    return replace(finding, estimate=estimate, picture=picture)


def _divergence(tables: Tables, config: Config) -> Estimate | None:
    peak = largest(tables.divergence, "divergence")
    return _estimate(f"Largest mean entropy difference of heads, {_place(peak)}", peak, "divergence", "nats")


def _telling(tables: Tables, config: Config) -> Estimate | None:
    peak = largest(tables.telling[tables.telling["effect"] == TOLD], "divergence")
    return _estimate(f"Largest mean change of entropy of heads, {_place(peak)}", peak, "divergence", "nats")


def _ablation(tables: Tables, config: Config) -> Estimate | None:
    effects = tables.effects
    own = (effects["group"] == "mechanisms") & (effects["method"] == config.ablation.methods[0])
    rows = effects[own & (effects["timestep"] == "all")]
    if rows.empty:
        return None
    causal = rows[rows["verdict"] == CAUSAL]
    top = largest(causal if len(causal) else rows, "effect_percent")
    name = mechanism_names(tables).get(top["target"], top["target"])
    title = effect_title(effects).removesuffix(", %")
    what = f"{title[0].upper()}{title[1:]} without {name}, {top['domain']} images"
    return _estimate(what, top, "effect_percent", "%")


def _circuit(tables: Tables, config: Config) -> Estimate | None:
    for domain, circuit in tables.circuits.items():
        share = circuit.summary["faithfulness"] if circuit.chosen else None
        if share is not None and None not in share.values():
            heads = count(circuit.summary["size"], "head")
            what = f"Share of what attention contributes that {heads} carry, {domain} images"
            percent = {end: 100 * share[end] for end in ("estimate", "low", "high")}
            return _estimate(what, percent, "estimate", "%")
    return None


def _complexity(tables: Tables, config: Config) -> Estimate | None:
    first, second = tables.domains
    table = tables.complexity
    table = table[table["significant"]] if table["significant"].any() else table
    top = table.iloc[int(np.abs(np.log(table["ratio"])).to_numpy().argmax())]
    what = f"Ratio of {first} to {second} images, {VARIANTS.get(top['variant'], top['variant'])}"
    return _estimate(what, top, "ratio", "")


def _place(row: Any) -> str:
    return f"{attention(row['kind'])} at t = {row['timestep']:g}"


def _estimate(what: str, row: Any, column: str, unit: str) -> Estimate | None:
    value, low, high = (float(row[name]) for name in (column, "low", "high"))
    return Estimate(what, value, low, high, unit) if np.isfinite([value, low, high]).all() else None


# By the section of a finding: its number, and the chart that a front page may show of it.
_EVIDENCE: dict[str, tuple[Callable[[Tables, Config], Estimate | None], str | None]] = {
    "divergence": (_divergence, "entropy_divergence"),
    "telling": (_telling, None),
    "ablation": (_ablation, "ablation_mechanisms"),
    "circuit": (_circuit, "circuit_curve"),
    "complexity": (_complexity, "complexity_ratio"),
}
