"""Published figures beside what was measured here: never averaged over kinds of attention, whose bounds differ."""

from typing import Any

import pandas as pd

from diffmech.errors import StoreError
from diffmech.mechanisms.labels import ENDINGS
from diffmech.report.heads.artifacts import Tables, records
from diffmech.report.heads.terms import VARIANTS, attention
from diffmech.report.wording import count, interval, number


def published(references: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the published figure `key`; StoreError if the references lack it."""
    for entry in references["published"]:
        if entry["key"] == key:
            return dict(entry)
    raise StoreError(f"references.yaml: has no published figure {key!r}; restore the file")


def measured_counterparts(tables: Tables, method: str) -> dict[str, str]:
    """Return, for each published figure, what was measured here, or why nothing was."""
    divergence = tables.divergence.groupby("kind", sort=False)["divergence"].agg(["min", "max"])
    effects = tables.effects[
        (tables.effects["group"] == "mechanisms")
        & (tables.effects["method"] == method)
        & (tables.effects["timestep"] == "all")
    ]["effect_percent"]
    ratios = [
        f"{VARIANTS.get(row.variant, row.variant)} {interval(row.ratio, row.low, row.high)}"
        for row in records(tables.complexity)
    ]
    counterparts = {
        "complexity_ratio": "; ".join(ratios),
        "entropy_divergence": "; ".join(
            f"{attention(kind)} {number(row['min'])} to {number(row['max'])} nats"
            for kind, row in divergence.iterrows()
        ),
        "ablation_degradation": (
            f"{number(effects.min())} to {number(effects.max())} % ({method} ablation of mechanisms)"
            if len(effects)
            else "mechanisms were not ablated"
        ),
    }
    for label in ("edge", "texture", "semantic"):
        counterparts[f"entropy_{label}"] = _labelled_entropy(tables, label)
    return counterparts


def _labelled_entropy(tables: Tables, label: str) -> str:
    """Return the entropy of heads that confirm a label in both domains, and of those that do in one domain alone."""
    table = tables.mechanisms
    both = table[(table["label"] == label) & table["confirmed"]]
    parts = [_entropies(tables.entropy, both)] if len(both) else []
    for domain, ending in zip(tables.domains, ENDINGS, strict=True):
        alone = table[(table["label"] != label) & (table[f"label{ending}"] == label) & table[f"confirmed{ending}"]]
        if len(alone):
            own = tables.entropy[tables.entropy["domain"] == domain]
            parts.append(f"on {domain} images alone {_entropies(own, alone)}")
    if both.empty:
        parts.insert(0, f"no head earned the label {label}{' in both domains' if parts else ''}")
    return "; ".join(parts)


def _entropies(entropy: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Return the entropies of heads in the phases of `cells`, by kind of attention, with their bounds."""
    joined = entropy.merge(cells[["head", "phase_first", "phase_last"]], on="head")
    joined = joined[joined["timestep"].between(joined["phase_first"], joined["phase_last"])]
    told = []
    for kind, part in joined.groupby("kind", sort=False):
        most = " or ".join(f"{value:.3f}" for value in sorted({round(float(value), 3) for value in part["h_max"]}))
        told.append(
            f"{attention(kind)} {number(part['entropy'].mean())} nats, mean over"
            f" {count(part['head'].nunique(), 'head')} ({number(part['entropy'].min())} to"
            f" {number(part['entropy'].max())}; most possible {most}; {number(100 * part['normalised'].mean(), 2)} % of"
            " it on average)"
        )
    return "; ".join(told)
