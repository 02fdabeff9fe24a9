"""From images to tables: rates, what an edit changes beside equal ones, and what becomes of other images.

The unit is the seed: its images under two edits are paired, and random edits are averaged over their draws first. The
target rate is the share of images, asked for the concept (weakly, for amplification), in which the judge sees it.
Retention is the mean, over all other attributes that are judged, of the share of images told to have one in which it is
seen, over images with and without the concept where both edits have both; attributes that none is told are left out.
Ours; the dimensions are those of HUB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import open_store
from diffmech.concepts.edits import ORIGINAL, OWN, REFERENCE, TARGET
from diffmech.concepts.tables import EFFECTS, QUALITY, RATES
from diffmech.judging.distances import DISTANCES, distance_excess
from diffmech.judging.recognition import wilson_interval
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation


@dataclass(frozen=True)
class Images:
    """What is known of the images of one edit, asked in one way: `seen`, a share of draws, and `told`
    `(image, attribute)`; `features` `(image, feature)` and `likeness` `(image,)`, of the first draw."""

    seen: np.ndarray
    told: np.ndarray
    features: np.ndarray
    likeness: np.ndarray
    draws: int


@dataclass(frozen=True)
class Edited:
    """One edit of one concept, its baselines and its originals: images by the edit and the way of asking."""

    concept: str
    objective: str
    dose: float
    count: int
    attribute: str
    attributes: tuple[str, ...]
    way: str
    images: Mapping[tuple[str, str], Images]

    @property
    def key(self) -> dict[str, object]:
        """The columns that every table begins with."""
        return {"concept": self.concept, "objective": self.objective, "dose": self.dose, "count": self.count}


def concept_effects(
    originals: Mapping[str, Path | str],
    evaluations: Sequence[Path | str],
    rates_csv: Path | str,
    effects_csv: Path | str,
    quality_csv: Path | str,
    *,
    draws: int,
    permutations: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the tables over all edits; `originals` are by concept, `evaluations` in the order of the rows."""
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    edits = [_open(originals, path) for path in evaluations]
    RATES.write(rates_csv, RATES.frame(row for edited in edits for row in rates(edited, **settings)))
    found = [row for edited in edits for row in effects(edited, permutations=permutations, **settings)]
    EFFECTS.write(effects_csv, EFFECTS.frame(corrected(found)))
    QUALITY.write(
        quality_csv,
        QUALITY.frame(row for edited in edits for row in quality(edited, permutations=permutations, **settings)),
    )


def _open(originals: Mapping[str, Path | str], path: Path | str) -> Edited:
    store = open_store(path).to_dataset()
    about = store.attrs
    shared = open_store(originals[about["concept"]]).to_dataset()
    return Edited(
        concept=about["concept"],
        objective=about["objective"],
        dose=float(about["dose"]),
        count=int(about["count"]),
        attribute=about["attribute"],
        attributes=tuple(str(name) for name in store["attribute"].values),
        way=TARGET[about["objective"]],
        images=_images(shared) | _images(store),
    )


def _images(store: Any) -> dict[tuple[str, str], Images]:
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (edit, way) in enumerate(zip(store["edit"].values, store["way"].values, strict=True)):
        rows.setdefault((str(edit), str(way)), []).append(row)
    return {
        key: Images(
            seen=(store["seen"][own].values > 0.5).mean(axis=0),
            told=store["told"][own[0]].values.astype(bool),
            features=store["features"][own[0]].values,
            likeness=store["likeness"][own[0]].values,
            draws=len(own),
        )
        for key, own in rows.items()
    }


def rates(edited: Edited, *, draws: int, confidence: float, seed: int) -> Iterator[dict[str, object]]:
    """Yield the rate of each attribute in images of each edit, apart for those told and not told to have it."""
    for (edit, way), images in edited.images.items():
        if edit == REFERENCE:
            continue
        for column, attribute in enumerate(edited.attributes):
            for told in (True, False):
                seen = images.seen[images.told[:, column] == told, column]
                if not len(seen):
                    continue
                if images.draws == 1:
                    low, high = wilson_interval(int(seen.sum()), len(seen), confidence)
                else:
                    interval = bootstrap_mean(seen, draws=draws, confidence=confidence, seed=seed)
                    low, high = float(interval.low), float(interval.high)
                yield {
                    **edited.key,
                    "edit": edit,
                    "way": way,
                    "attribute": attribute,
                    "told": told,
                    "rate": float(seen.mean()),
                    "low": low,
                    "high": high,
                    "n": len(seen),
                }


def effects(
    edited: Edited, *, permutations: int, draws: int, confidence: float, seed: int
) -> Iterator[dict[str, object]]:
    """Yield the edit against the original and every baseline, with p-values that nothing corrects yet."""
    if edited.attribute not in edited.attributes:  # nothing judges it
        return
    column = edited.attributes.index(edited.attribute)
    own = edited.images[OWN, edited.way].seen[:, column]
    # against the unedited model first, then in the order in which baselines were sampled
    others = [edit for edit, way in edited.images if way == edited.way and edit not in (OWN, REFERENCE)]
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    for other in others:
        theirs = edited.images[other, edited.way].seen[:, column]
        change = bootstrap_mean(own - theirs, **settings)
        relative = _relative(own, theirs, settings)
        observed, null = sign_flip_permutation(np.abs, own - theirs, permutations=permutations, seed=seed)
        yield {
            **edited.key,
            "against": other,
            "target": float(own.mean()),
            "target_against": float(theirs.mean()),
            "target_change": float(change.estimate),
            "target_low": float(change.low),
            "target_high": float(change.high),
            "p": float(permutation_p(observed, null)),
            **{f"target_relative{end}": value for end, value in zip(ENDS, relative, strict=True)},
            **_retention(edited, other, settings),
            "n": len(own),
        }


def corrected(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, object]]:
    """Yield rows of the table with p-values corrected over all doses and comparisons of a concept and objective."""
    families = [(row["concept"], row["objective"]) for row in rows]
    p = np.array([row["p"] for row in rows], dtype=np.float64)
    adjusted = np.empty(len(rows))
    for family in dict.fromkeys(families):
        own = [number for number, each in enumerate(families) if each == family]
        adjusted[own] = holm(p[own])
    for row, value in zip(rows, adjusted, strict=True):
        yield {name: {**row, "p_corrected": float(value)}.get(name) for name in EFFECTS.columns}


ENDS = ("", "_low", "_high")


def _relative(own: np.ndarray, theirs: np.ndarray, settings: Mapping[str, Any]) -> tuple[float, float, float]:
    if not theirs.any():
        return (float("nan"),) * 3
    if np.count_nonzero(theirs) == 1:  # without that seed there is no ratio, and so no interval
        return float(own.mean() / theirs.mean() - 1), float("nan"), float("nan")
    interval = bootstrap_statistic(lambda mine, other: mine / other - 1, own, theirs, **settings)
    return float(interval.estimate), float(interval.low), float(interval.high)


def _retention(edited: Edited, other: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the rates of the other attributes under both edits, and how much one is of the other, less one."""
    ways = [way for way in (edited.way, "base") if (other, way) in edited.images and (OWN, way) in edited.images]
    kept = [column for column, name in enumerate(edited.attributes) if name != edited.attribute]

    def counts(edit: str) -> tuple[np.ndarray, np.ndarray]:
        images = [edited.images[edit, way] for way in ways]
        seen = np.stack([each.seen[:, kept] * each.told[:, kept] for each in images]).sum(axis=0)
        return seen, np.stack([each.told[:, kept] for each in images]).sum(axis=0).astype(np.float64)

    (own, told), (theirs, told_theirs) = counts(OWN), counts(other)

    # of classes an image is told one, so that a resample may have none that was told another
    def rate(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
        there = asked > 0
        return np.asarray((seen / np.where(there, asked, 1)).sum(axis=-1) / there.sum(axis=-1))

    ever = told.any(axis=0) & told_theirs.any(axis=0)
    own, told, theirs, told_theirs = (values[:, ever] for values in (own, told, theirs, told_theirs))
    if not ever.any() or not theirs.any():
        return {}
    relative = bootstrap_statistic(
        lambda a, b, c, d: rate(a, b) / rate(c, d) - 1, own, told, theirs, told_theirs, **settings
    )
    return {
        "others": float(rate(own.mean(0), told.mean(0))),
        "others_against": float(rate(theirs.mean(0), told_theirs.mean(0))),
        "others_relative": float(relative.estimate),
        "others_relative_low": float(relative.low),
        "others_relative_high": float(relative.high),
    }


def quality(
    edited: Edited, *, permutations: int, draws: int, confidence: float, seed: int
) -> Iterator[dict[str, object]]:
    """Yield what the edit does to images without the concept: distances from clean ones, likeness to their own."""
    own, clean, further = (edited.images[edit, "base"] for edit in (OWN, ORIGINAL, REFERENCE))
    key = {**edited.key, "edit": OWN, "n": len(own.seen)}
    if own.features.shape[1]:
        for name, distances in DISTANCES.items():
            floor, excess, p = distance_excess(
                distances, clean.features, own.features, further.features, swaps=permutations, seed=seed
            )
            yield _whole({**key, "measure": name, "original": floor, "change": excess, "p": p})
    change = bootstrap_mean(own.likeness - 1, draws=draws, confidence=confidence, seed=seed)
    ends = {"change": float(change.estimate), "change_low": float(change.low), "change_high": float(change.high)}
    yield _whole({**key, "measure": "ssim", "original": 1.0, **ends})


def _whole(row: Mapping[str, object]) -> dict[str, object]:
    return {name: row.get(name) for name in QUALITY.columns}
