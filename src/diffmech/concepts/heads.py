"""In which attention heads the weights lie that carry a concept, and whether these are the heads that matter.

The scores of a head's weights (its rows of queries, keys and values, its columns of the output) are summed, positive
and negative ones apart. Components are the attention weights of the highest, or of the lowest, scores; their overlap
is the share of them in heads that the main study found causal: those whose removal harms denoising, told from zero by
its first method in at least one domain (corrected over both). Two nulls, and p is the larger of both: as many
components at random in each matrix; and which heads of each layer are the causal ones, exchanged at random, since the
components of one head come together. Holm over all concepts, objectives and signs. Ours.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import read_csv
from diffmech.concepts.gradients import added, read_gradients
from diffmech.concepts.groups import Weight, weights
from diffmech.concepts.selection import select, units_of
from diffmech.concepts.tables import HEADS, OVERLAP
from diffmech.errors import StoreError
from diffmech.models.load import load_denoiser
from diffmech.randomness import generator
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p
from diffmech.tables import ALL

SIGNS = {"positive": 1, "negative": -1}
# What the table of ablations of the main study calls heads, and what it says of those that are told from no effect.
GROUP, TOLD = "heads", "differs from zero"


@dataclass(frozen=True)
class Components:
    """Of each matrix and head `(matrix, head)`: how many weights it has there, and how many of them were chosen."""

    sizes: np.ndarray
    chosen: np.ndarray
    heads: tuple[str, ...]


def mechanism_of_heads(table: Path | str) -> dict[str, str]:
    """Return the mechanism of each head from the main study's table: that of most phases, of equally many the first.

    Raises StoreError where the table is missing or not whole.
    """
    frame = read_csv(table, ["head", "mechanism"], text=["head", "mechanism"])
    return {
        str(head): Counter(rows.astype(str)).most_common(1)[0][0]
        for head, rows in frame.groupby("head", sort=False)["mechanism"]
    }


def causal_heads(table: Path | str, method: str) -> dict[str, bool]:
    """Return which heads the main study found causal. Raises StoreError where its table of ablations has no heads."""
    columns = ["domain", "group", "target", "method", "timestep", "verdict"]
    frame = read_csv(table, [*columns, "effect_percent"], text=columns)
    frame = frame[(frame["group"] == GROUP) & (frame["method"] == method) & (frame["timestep"] == ALL)]
    if frame.empty:
        raise StoreError(
            f"{table}: has no single heads replaced by {method!r}; let ablation.groups have heads, or set "
            "concepts.heads.overlap to false"
        )
    harmful = (frame["verdict"] == TOLD) & (frame["effect_percent"] > 0)
    return {str(head): bool(rows.any()) for head, rows in harmful.groupby(frame["target"])}


def gradients_of(
    files: Sequence[str], concepts: Sequence[str], objectives: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """Return the files by concept and objective; they are in this order, as many windows of each."""
    keys = [(concept, objective) for concept in concepts for objective in objectives]
    windows = len(files) // len(keys)
    return {key: list(files[place * windows : (place + 1) * windows]) for place, key in enumerate(keys)}


def concept_heads(
    model_json: Path | str,
    gradients: Mapping[tuple[str, str], Sequence[Path | str]],
    effects: Path | str | None,
    heads_csv: Path | str,
    overlap_csv: Path | str,
    *,
    components: int,
    method: str,
    permutations: int,
    seed: int,
    device: str = "auto",
) -> None:
    """Write the scores of each head, and the overlap with causal heads where there are `effects` of ablations.

    `gradients` are the files of all windows by concept and objective. Raises StoreError as `causal_heads` does.
    """
    among = [weight for weight in weights(load_denoiser(Path(model_json), device=device)) if weight.heads]
    causal = {} if effects is None else causal_heads(effects, method)
    rows: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for (concept, objective), files in gradients.items():
        # an overlay may have scored some groups only
        read = added([read_gradients(file, [weight.name for weight in among]) for file in files])
        scored = [weight for weight in among if weight.name in read.gradient]
        scores = {name: values.double().numpy() for name, values in read.scores(scored, "first").items()}
        key: dict[str, object] = {"concept": concept, "objective": objective}
        rows += [{**key, **row} for row in head_rows(scored, scores, causal)]
        if scored and causal:
            for sign, way in SIGNS.items():
                chosen = chosen_components(scored, scores, way, components)
                found.append({**key, "sign": sign, **overlap(chosen, causal, permutations=permutations, seed=seed)})
    HEADS.write(heads_csv, HEADS.frame(rows))
    corrected = holm(np.array([row["p"] for row in found], dtype=np.float64))
    OVERLAP.write(
        overlap_csv, OVERLAP.frame({**row, "p_corrected": p} for row, p in zip(found, corrected, strict=True))
    )


def head_rows(
    among: Sequence[Weight], scores: Mapping[str, np.ndarray], causal: Mapping[str, bool]
) -> Iterator[dict[str, object]]:
    """Yield the sums of positive and of negative scores of each head, over its weights in all matrices."""
    heads: dict[str, int] = {}
    units = [units_of(weight, "head", heads) for weight in among]
    values = [scores[weight.name].reshape(-1) for weight in among]
    sums = {
        sign: sum(
            np.bincount(unit, np.maximum(way * value, 0), minlength=len(heads))
            for unit, value in zip(units, values, strict=True)
        )
        for sign, way in SIGNS.items()
    }
    for head, number in heads.items():
        yield {
            "head": head,
            "kind": next(weight.group.partition("_")[0] for weight in among if head in weight.heads),
            "positive": float(sums["positive"][number]),  # type: ignore[index]
            "negative": -float(sums["negative"][number]),  # type: ignore[index]
            "causal": causal.get(head, False),
        }


def chosen_components(among: Sequence[Weight], scores: Mapping[str, np.ndarray], way: int, count: int) -> Components:
    """Return where the `count` highest scores are, or with `way` -1 the lowest; only those of that sign are taken."""
    import torch

    signed = {name: torch.from_numpy(way * values) for name, values in scores.items()}
    indices = select(signed, among, granularity="global", dose=count, where="concepts.heads.components").indices
    heads: dict[str, int] = {}
    units = [units_of(weight, "head", heads) for weight in among]
    nothing = np.empty(0, dtype=np.int64)
    sizes = [np.bincount(unit, minlength=len(heads)) for unit in units]
    taken = [
        np.bincount(unit[indices.get(weight.name, nothing)], minlength=len(heads))
        for weight, unit in zip(among, units, strict=True)
    ]
    return Components(np.stack(sizes), np.stack(taken), tuple(heads))


def overlap(chosen: Components, causal: Mapping[str, bool], *, permutations: int, seed: int) -> dict[str, Any]:
    """Return how many of the chosen components lie in causal heads, beside both nulls; p is the larger of theirs."""
    marked = np.array([causal.get(head, False) for head in chosen.heads])
    total = int(chosen.chosen.sum())
    observed = chosen.chosen[:, marked].sum()
    inside, outside = chosen.sizes[:, marked].sum(1), chosen.sizes[:, ~marked].sum(1)
    source = generator(seed, "components", total)
    each = chosen.chosen.sum(1)
    at_random = source.hypergeometric(inside, outside, each, size=(permutations, len(each))).sum(1)
    per_head, sites = chosen.chosen.sum(0), np.array([head.rpartition(".")[0] for head in chosen.heads])
    exchanged = np.zeros(permutations)
    for site in dict.fromkeys(sites):
        own = sites == site
        labels = np.tile(marked[own].astype(float), (permutations, 1))
        exchanged += source.permuted(labels, axis=1) @ per_head[own]
    p = [float(permutation_p(float(observed), null, alternative="two-sided")) for null in (at_random * 1.0, exchanged)]
    low, high = np.quantile(at_random, [0.025, 0.975])
    return {
        "components": total,
        "heads": len(marked),
        "causal_heads": int(marked.sum()),
        "share": observed / total,
        "expected": at_random.mean() / total,
        "expected_low": low / total,
        "expected_high": high / total,
        "p_components": p[0],
        "p_heads": p[1],
        "p": max(p),
    }
