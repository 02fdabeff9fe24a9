"""The causal account of each mechanism: does it matter, when, and for which attributes of the image? Ours.

One row per mechanism and domain puts together what three studies found: local ablation over all timesteps, the same per
window of timesteps, and images sampled again with the mechanism removed. The verdict needs all of its evidence:

- `causal`: removing it raises the loss, corrected over mechanisms, by more than equally many matched heads do,
  corrected jointly over mechanisms;
- `not beyond matched heads`: it raises the loss, but was not shown to by more than matched random heads;
- `helps when removed`: the loss falls;
- `no effect found`: nothing can be told from zero.

`window` is the one with the largest effect among those whose own effect can be told from zero, empty where there is
none. `attributes` are those that changed at all, corrected over mechanisms x attributes, and `attribute` the one that
changed most; `not measured` where images of the domain were not sampled, or nobody judges them. `attribute_measure`
says how: `asked`, by how much more or less sure the judge is of what the image was asked to show, or `attribute`, of
the attribute itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffmech.artifacts import read_csv, write_csv

CAUSAL, NOT_BEYOND, HELPS, NOTHING = "causal", "not beyond matched heads", "helps when removed", "no effect found"

COLUMNS = [
    "mechanism",
    "label",
    "domain",
    "heads",
    "verdict",
    "effect_percent",
    "low",
    "high",
    "p_zero_holm",
    "control_mean",
    "control_low",
    "control_high",
    "p_control_adjusted",
    "n",
    "window",
    "window_effect",
    "window_low",
    "window_high",
    "window_p_zero_max",
    "window_p_control_adjusted",
    "attributes",
    "attribute",
    "attribute_measure",
    "attribute_change",
    "attribute_low",
    "attribute_high",
    "attribute_p_holm",
    "attribute_control_low",
    "attribute_control_high",
    "attribute_p_control_adjusted",
]
JUDGED = ("asked:", "attribute:")
WHOLE = "all"
UNKNOWN = "not measured"

_TARGET = ("domain", "group", "target")
_EFFECT = COLUMNS[5:13]
_CHANGE = ("effect", "low", "high", "p_zero_holm", "control_low", "control_high", "p_control_adjusted")


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
    heads = read_csv(heads_csv, ["mechanism", "label", "head"])
    effects = read_csv(effects_csv, [*_TARGET, "method", "timestep", *_EFFECT, "heads", "n"])
    windows = read_csv(windows_csv, [*_TARGET, "method", "window", *_EFFECT, "p_zero_max"])
    resampled = read_csv(resampling_csv, [*_TARGET, "window", "measure", *_CHANGE])
    write_csv(output_csv, account(heads, effects, windows, resampled, method=method, alpha=alpha))


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
    labels = heads.dropna(subset=["mechanism"]).groupby("mechanism")["label"].first()
    over_all = effects[(effects["timestep"].astype(str) == WHOLE)]
    rows = []
    effect: Any  # a row, with the columns as attributes
    for effect in _of_mechanisms(over_all, method).itertuples(index=False):
        here = windows[(windows["target"] == effect.target) & (windows["domain"] == effect.domain)]
        changes = resampled[(resampled["target"] == effect.target) & (resampled["window"].astype(str) == WHOLE)]
        rows.append(
            {
                "mechanism": effect.target,
                "label": labels.get(effect.target, ""),
                "domain": effect.domain,
                "heads": effect.heads,
                "verdict": verdict(effect.effect_percent, effect.p_zero_holm, effect.p_control_adjusted, alpha),
                **{name: getattr(effect, name) for name in (*_EFFECT, "n")},
                **_strongest_window(_of_mechanisms(here, method), alpha),
                **_strongest_attribute(changes, str(effect.domain), alpha),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["mechanism", "domain"], kind="stable", ignore_index=True)


def verdict(effect: float, p_zero: float, p_control: float, alpha: float) -> str:
    """Return what an effect in percent shows, by its corrected p-values against zero and against matched heads."""
    if not p_zero < alpha:
        return NOTHING
    if effect < 0:
        return HELPS
    return CAUSAL if p_control < alpha else NOT_BEYOND


def _of_mechanisms(table: pd.DataFrame, method: str) -> pd.DataFrame:
    return table[(table["group"] == "mechanisms") & (table["method"] == method)]


def _strongest_window(windows: pd.DataFrame, alpha: float) -> dict[str, object]:
    found = windows[windows["p_zero_max"] < alpha].sort_values("effect_percent", kind="stable")
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
    }


def _strongest_attribute(changes: pd.DataFrame, domain: str, alpha: float) -> dict[str, object]:
    """Return what changed most in sampled images of `domain`."""
    judged = changes[(changes["domain"] == domain) & changes["measure"].str.startswith(JUDGED)]
    if judged.empty:
        return {"attributes": UNKNOWN, "attribute": ""}
    found = judged[judged["p_zero_holm"] < alpha]
    found = found.iloc[np.argsort(-found["effect"].abs().to_numpy(), kind="stable")]
    kinds, names = (found["measure"].str.split(":", n=1).str[part] for part in (0, 1))
    if found.empty:
        return {"attributes": "none", "attribute": ""}
    best = found.iloc[0]
    return {
        "attributes": " ".join(dict.fromkeys(names)),
        "attribute": names.iloc[0],
        "attribute_measure": kinds.iloc[0],
        "attribute_change": best["effect"],
        "attribute_low": best["low"],
        "attribute_high": best["high"],
        "attribute_p_holm": best["p_zero_holm"],
        "attribute_control_low": best["control_low"],
        "attribute_control_high": best["control_high"],
        "attribute_p_control_adjusted": best["p_control_adjusted"],
    }
