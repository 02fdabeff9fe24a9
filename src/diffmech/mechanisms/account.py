"""The causal account of each mechanism: does it matter, when, and for which attributes of the image? Ours.

One row per mechanism and domain puts together what three studies found: local ablation over all timesteps, the same per
window of timesteps, and images sampled again with the mechanism removed. `verdict` and `window_verdict` are those of
the tables of effects (`interventions.decisions`): the first is over all timesteps, the second of the window alone, in
a family of its own, so that the two can differ.

`window` is the one with the largest effect among those whose own effect can be told from zero, empty where there is
none. `attributes` are those that changed at all, corrected over mechanisms x attributes, and `attribute` the one that
changed most; `not measured` where images of the domain were not sampled, or nobody judges them. `attribute_verdict`
says whether it changed by more than without as many matched heads, which alone makes it the mechanism's;
`attributes_beyond` are all of which that is so. `attribute_measure` says how: `asked`, by how much more or less sure
the judge is of what the image was asked to show, or `attribute`, of the attribute itself. A probability can change in
one direction by next to nothing: `attribute_flipped` is the share of images whose verdict changed, `attributes_flipped`
are the changed attributes of which any did.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffmech.interventions.decisions import NOT_BEYOND, ROUNDING, UNFAIR, UNTOLD
from diffmech.interventions.tables import EFFECTS, WINDOWS
from diffmech.mechanisms.labels import UNASSIGNED, labels_by_domain
from diffmech.mechanisms.tables import ACCOUNT, MECHANISMS
from diffmech.resampling.tables import RESAMPLING
from diffmech.statistics.reach import draws_needed
from diffmech.tables import ALL

BEYOND = "beyond matched heads"

_EFFECT = [
    *["verdict", "effect_percent", "low", "high", "p_zero_max", "smallest_effect"],
    *["control_mean", "control_low", "control_high", "p_control_adjusted", "smallest_effect_control"],
    *["controls", "controls_fair"],
]
JUDGED = ("asked:", "attribute:")
UNKNOWN = "not measured"


def mechanism_account(
    heads_csv: Path | str,
    effects_csv: Path | str,
    windows_csv: Path | str,
    resampling_csv: Path | str,
    output_csv: Path | str,
    *,
    method: str,
    alpha: float,
) -> None:
    """Write the account of every mechanism that was ablated, sorted by mechanism and domain.

    `method` is the ablation method it is about, `alpha` the level of its verdicts. Raises StoreError naming the file
    and the columns where a table is not whole.
    """
    heads, effects = MECHANISMS.read(heads_csv), EFFECTS.read(effects_csv)
    windows, resampled = WINDOWS.read(windows_csv), RESAMPLING.read(resampling_csv)
    ACCOUNT.write(output_csv, account(heads, effects, windows, resampled, method=method, alpha=alpha))


def account(
    heads: pd.DataFrame,
    effects: pd.DataFrame,
    windows: pd.DataFrame,
    resampled: pd.DataFrame,
    *,
    method: str,
    alpha: float,
) -> pd.DataFrame:
    """Return the account; the tables are those of the mechanisms, of their effects and of resampled images."""
    labels = labels_by_domain(heads)
    over_all = effects[(effects["timestep"] == ALL)]
    rows = []
    effect: Any  # a row, with the columns as attributes
    for effect in _of_mechanisms(over_all, method).itertuples(index=False):
        here = windows[(windows["target"] == effect.target) & (windows["domain"] == effect.domain)]
        changes = resampled[(resampled["target"] == effect.target) & (resampled["window"] == ALL)]
        rows.append(
            {
                "mechanism": effect.target,
                "label": labels.get((effect.target, effect.domain), UNASSIGNED),
                "domain": effect.domain,
                "heads": effect.heads,
                **{name: getattr(effect, name) for name in (*_EFFECT, "n")},
                **_strongest_window(_of_mechanisms(here, method), alpha),
                **_strongest_attribute(changes, effect.domain, alpha),
            }
        )
    table = ACCOUNT.frame(rows)
    return table.sort_values(["mechanism", "domain"], kind="stable", ignore_index=True)


def _of_mechanisms(table: pd.DataFrame, method: str) -> pd.DataFrame:
    return table[(table["group"] == "mechanisms") & (table["method"] == method)]


def _strongest_window(windows: pd.DataFrame, alpha: float) -> dict[str, object]:
    found = windows[windows["p_zero_max"] <= alpha + ROUNDING].sort_values("effect_percent", kind="stable")
    if found.empty:
        return {"window": ""}
    best = found.iloc[-1]
    return {
        "window": best["window"],
        "window_effect": best["effect_percent"],
        "window_low": best["low"],
        "window_high": best["high"],
        "window_p_zero_max": best["p_zero_max"],
        "window_p_control_adjusted": best["p_control_adjusted"],
        "window_verdict": best["verdict"],
    }


def _strongest_attribute(changes: pd.DataFrame, domain: str, alpha: float) -> dict[str, object]:
    """Return what changed most in sampled images of `domain`."""
    judged = changes[(changes["domain"] == domain) & changes["measure"].str.startswith(JUDGED)]
    if judged.empty:
        return {"attributes": UNKNOWN, "attributes_beyond": "", "attributes_flipped": "", "attribute": ""}
    found = judged[judged["p_zero_holm"] <= alpha + ROUNDING]
    found = found.iloc[np.argsort(-found["effect"].abs().to_numpy(), kind="stable")]
    kinds, names = (found["measure"].str.split(":", n=1).str[part] for part in (0, 1))
    if found.empty:
        return {"attributes": "none", "attributes_beyond": "", "attributes_flipped": "", "attribute": ""}
    verdicts = [_beyond(row, alpha) for row in found.to_dict("records")]
    beyond = [name for name, verdict in zip(names, verdicts, strict=True) if verdict == BEYOND]
    best = found.iloc[0]
    return {
        "attributes": " ".join(dict.fromkeys(names)),
        "attributes_beyond": " ".join(dict.fromkeys(beyond)),
        "attributes_flipped": " ".join(dict.fromkeys(names[found["flipped"] > 0])),
        "attribute": names.iloc[0],
        "attribute_measure": kinds.iloc[0],
        "attribute_change": best["effect"],
        "attribute_low": best["low"],
        "attribute_high": best["high"],
        "attribute_p_holm": best["p_zero_holm"],
        "attribute_flipped": best["flipped"],
        "attribute_control_low": best["control_low"],
        "attribute_control_high": best["control_high"],
        "attribute_controls": best["controls"],
        "attribute_p_control_adjusted": best["p_control_adjusted"],
        "attribute_verdict": verdicts[0],
    }


def _beyond(row: Mapping[Any, Any], alpha: float) -> str:
    """Return whether a change exceeds that without as many other heads, which takes enough fair controls."""
    if not row["controls_fair"]:
        return UNTOLD if pd.isna(row["control_ratio"]) else UNFAIR
    if row["controls"] < draws_needed(alpha):
        return UNTOLD
    return BEYOND if row["p_control_adjusted"] <= alpha + ROUNDING else NOT_BEYOND
