"""How much of an erased concept the probes bring back.

The unit is the seed: its images under a probe, under the edit alone and of the unedited denoiser are paired. What comes
back is (rate - edited) / (original - edited). Its interval is a bootstrap over seeds, which says nothing where a rate
is 0 or 1; so it is never narrower than the score interval of the rate makes it, with the other two rates as they are.
Intervals of this share hold together for all probes of an edit (Bonferroni): whether any or none brings the concept
back is asked of all of them. Ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import open_store
from diffmech.concepts.tables import PROBES
from diffmech.judging.recognition import wilson_interval
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic

Ends = tuple[float, float, float]
NONE: Ends = (float("nan"),) * 3


def concept_probes(
    originals: Mapping[str, Path | str],
    evaluations: Sequence[Path | str],
    probes: Sequence[Path | str],
    output_csv: Path | str,
    *,
    draws: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the table of all probes; `originals` are by concept, `evaluations` those of the probed edits, in order."""
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    rows: list[dict[str, object]] = []
    for evaluation, probed in zip(evaluations, probes, strict=True):
        store = open_store(probed).to_dataset()
        attribute = store.attrs["attribute"]
        if attribute not in store["attribute"].values:  # nothing judges it
            continue
        original = seen(open_store(originals[store.attrs["concept"]]).to_dataset(), attribute, edit="original")
        edited = seen(open_store(evaluation).to_dataset(), attribute, edit="own")
        rows += recovery(store, original["asked"], edited["asked"], **settings)
    PROBES.write(output_csv, PROBES.frame(rows))


def seen(store: Any, attribute: str, *, edit: str) -> dict[str, np.ndarray]:
    """Return whether the attribute is seen in each image `(seed,)` of an edit, by the way of asking."""
    column = [str(name) for name in store["attribute"].values].index(attribute)
    pairs = zip(store["edit"].values, store["way"].values, strict=True)
    return {
        str(way): store["seen"][row].values[:, column] > 0.5 for row, (kind, way) in enumerate(pairs) if kind == edit
    }


def recovery(
    store: Any, original: np.ndarray, edited: np.ndarray, *, draws: int, confidence: float, seed: int
) -> Iterator[dict[str, object]]:
    """Yield the rows of one edit; `original` and `edited` `(seed,)` say where the concept is seen without a probe."""
    about = store.attrs
    column = [str(name) for name in store["attribute"].values].index(about["attribute"])
    found: dict[tuple[str, float], dict[str, np.ndarray]] = {}
    keys = zip(store["probe"].values, store["setting"].values, store["edit"].values, strict=True)
    for row, (probe, setting, edit) in enumerate(keys):
        found.setdefault((str(probe), float(setting)), {})[str(edit)] = store["seen"][row].values[:, column] > 0.5
    level = 1 - (1 - confidence) / max(len(found), 1)
    for (probe, setting), images in found.items():
        own, unedited = images["own"], images.get("original", original)
        low, high = wilson_interval(int(own.sum()), len(own), confidence)
        settings: dict[str, Any] = {"draws": draws, "seed": seed}
        back = recovered(own, edited, unedited, confidence=level, **settings)
        above = NONE
        if "control" in images:
            interval = bootstrap_mean(own * 1.0 - images["control"], confidence=level, **settings)
            above = float(interval.estimate), float(interval.low), float(interval.high)
        yield {
            **{name: about[name] for name in ("concept", "objective", "dose", "count")},
            "probe": probe,
            "setting": setting,
            "rate": float(own.mean()),
            "low": low,
            "high": high,
            "edited": float(edited.mean()),
            "original": float(unedited.mean()),
            **{edit: float(images[edit].mean()) if edit in images else None for edit in ("random", "control")},
            **dict(zip(("recovered", "recovered_low", "recovered_high"), back, strict=True)),
            **dict(zip(("above_control", "above_control_low", "above_control_high"), above, strict=True)),
            "cut": about["cut"].get(f"{setting:g}") if probe == "noise" else None,
            "steps": about["steps"],
            "n": len(own),
        }


def recovered(
    own: np.ndarray, edited: np.ndarray, original: np.ndarray, *, draws: int, confidence: float, seed: int
) -> Ends:
    """Return the share of what the edit took away that comes back, and its interval; NaN where it took nothing away.

    `own`, `edited` and `original` `(seed,)` say where the concept is seen: with the probe, without it, and unedited.
    """
    base, gone = edited.mean(), original.mean() - edited.mean()
    if not gone > 0:
        return NONE

    def share(rate: np.ndarray, without: np.ndarray, before: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(before > without, (rate - without) / (before - without), np.nan)

    means = (own * 1.0, edited * 1.0, original * 1.0)
    interval = bootstrap_statistic(share, *means, draws=draws, confidence=confidence, seed=seed)
    ends = [(end - base) / gone for end in wilson_interval(int(own.sum()), len(own), confidence)]
    return float(interval.estimate), min(float(interval.low), ends[0]), max(float(interval.high), ends[1])
