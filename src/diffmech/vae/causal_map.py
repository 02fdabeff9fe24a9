"""Which factor causes which, estimated from interventions, at several levels; and how far from the true graph that is.

A cause has a controlled direct effect (Pearl 2001) if the effect follows when the cause is set and all other factors
are held. Scenes are drawn in twos, all factors independently of each other: factor i of a scene is set to what it is in
the other, all factors but i and j are held as they are, and factor j is left to the mechanism. At the level
`generator`, j is what the mechanism says. At the level `inputs`, both scenes are shown to the encoder, and j is read
from their codes (`diffmech.vae.readout`). The level `untrained` is the same of a network with fresh weights: what of
the graph is seen without anything having been learned.

An entangled code tells a factor by others, so what is read changes with what does not matter. Ours is the control of
that: j alone is held, and all else is taken from the other scene, its identity included, so that whatever changes what
is read of j is a leak. Leaks that add up, of factors that change independently, are larger on average than that of
factor i alone, so that the control errs towards no edge. An edge is called where both hold:

- the change of j exceeds that floor, scene by scene: one-sided sign-flip p of the paired difference, Holm over all
  pairs of a level;
- the mean change is at least 0.1 standard deviations of j over images, so that no trifle is an edge.

The reader must not learn an effect from its causes: where factors cause each other it is fitted on images in which all
are set independently of each other. At the level of the generator the floor is 0, since what is held does not change.

The structural Hamming distance (Tsamardinos et al. 2006) counts the pairs of factors that two graphs do not join
alike: an edge that is missing, one too many and a reversed one are 1 each. An estimate is not held to be acyclic; an
edge in both directions where there is one, or none, is 1, too. The null are random acyclic graphs with as many edges:
a random order, and edges along it between random pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import Factor
from diffmech.randomness import generator
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation
from diffmech.vae.encoding import Encode, encoder_of, twin_encoder
from diffmech.vae.readout import as_vectors, fit_readout, spread
from diffmech.vae.stores import read_codes, which_vae
from diffmech.vae.tables import EDGES, GRAPHS
from diffmech.vae.training import read_vae

if TYPE_CHECKING:
    import pandas as pd

SMALLEST = 0.1  # change that an edge has at least, in standard deviations of the effect: "small" is 0.2 (Cohen 1988)


@dataclass(frozen=True)
class Scenes:
    """Values `(row, factor)` and identity `(row,)` of all scenes, each once, and where in these rows they stand.

    `before` and `control` `(effect, scene)` differ in all but the effect, `before` and `after` `(cause, effect, scene)`
    in the cause and in what the effect makes of it. Causes and effects are the `studied` factors, by their columns.
    """

    values: np.ndarray
    identity: np.ndarray
    studied: tuple[int, ...]
    before: np.ndarray
    after: np.ndarray
    control: np.ndarray


@dataclass(frozen=True)
class Effects:
    """What setting each factor does to each, `(cause, effect)`: the mean absolute `change` and its `floor`, in standard
    deviations of the effect, the p corrected over all pairs, and which are called an `edge`. NaN on the diagonal."""

    change: np.ndarray
    floor: np.ndarray
    p: np.ndarray
    edge: np.ndarray


def set_scenes(data: FactorData, factors: Sequence[str], count: int, *, seed: int) -> Scenes:
    """Return `count` scenes for each pair of `factors`, all drawn by `seed`."""
    names = [factor.name for factor in data.factors]
    values, identity = _independent(data, count, seed, "scenes of the causal map")
    donors, others = _independent(data, count, seed, "what they are set to")
    own, given = (dict(zip(names, part.T, strict=True)) for part in (values, donors))

    def held(all_as: dict[str, np.ndarray], effect: str, **changed: np.ndarray) -> np.ndarray:
        return data.do(values, {name: all_as[name] for name in names if name != effect} | changed)

    before = [held(own, effect) for effect in factors]
    after = [held(own, effect, **{cause: given[cause]}) for cause in factors for effect in factors if cause != effect]
    control = [
        held(given, effect, **{effect: same[:, data.place(effect)]})
        for effect, same in zip(factors, before, strict=True)
    ]
    told = np.concatenate([identity] * (len(before) + len(after)) + [others] * len(control))
    rows = np.column_stack([np.concatenate([*before, *after, *control]), told])
    kept, where = np.unique(rows, axis=0, return_inverse=True)
    parts = np.split(where.reshape(-1, count), [len(before), len(before) + len(after)])
    spaced = np.zeros((len(factors), len(factors), count), dtype=np.int64)
    spaced[~np.eye(len(factors), dtype=bool)] = parts[1]
    studied = tuple(data.place(factor) for factor in factors)
    return Scenes(kept[:, :-1], kept[:, -1].astype(np.int64), studied, parts[0], spaced, parts[2])


def estimate(
    scenes: Scenes, read: Sequence[np.ndarray], spreads: Sequence[float], measures: VaeMeasures, *, exact: bool = False
) -> Effects:
    """Return the effects among factors that are `read` as vectors, each `(row, component)`, of such `spreads`.

    Where what is read is `exact`, what is held has not changed, and there is no control of that.
    """
    count = len(read)
    change, floor = np.zeros(scenes.after.shape), np.zeros(scenes.after.shape)
    for effect, (vectors, scale) in enumerate(zip(read, spreads, strict=True)):
        first = vectors[scenes.before[effect]]
        change[:, effect] = np.linalg.norm(vectors[scenes.after[:, effect]] - first, axis=-1) / scale
        if not exact:
            floor[:, effect] = np.linalg.norm(vectors[scenes.control[effect]] - first, axis=-1) / scale
    pairs = ~np.eye(count, dtype=bool)
    tests = max(int(pairs.sum()), 1)
    # one p of 1 / (1 + permutations) must be able to survive Holm
    permutations = max(measures.permutations, math.ceil(2 * tests / measures.alpha))
    margin = (change - floor)[pairs].T
    observed, null = sign_flip_permutation(_itself, margin, permutations=permutations, seed=measures.seed)
    means, floors, p = (np.full((count, count), np.nan) for _ in range(3))
    means[pairs], floors[pairs] = change.mean(-1)[pairs], floor.mean(-1)[pairs]
    p[pairs] = holm(permutation_p(observed, null))
    with np.errstate(invalid="ignore"):
        return Effects(means, floors, p, (p <= measures.alpha) & (means >= SMALLEST))


def causal_map(
    vae_dir: Path,
    codes: Path,
    output: Path,
    *,
    data: FactorData,
    factors: list[str],
    measures: VaeMeasures,
    runtime: RuntimeConfig,
) -> None:
    """Write EDGES of one VAE at all levels, from its weights and the images whose codes are kept.

    Without rows where no factor can be changed, or fewer than two are studied. Raises what the readers of both raise,
    DataError for a factor that the data set does not have or that never differs.
    """
    if not data.changeable or len(factors) < 2:
        EDGES.write(output, EDGES.frame())
        return
    vae = read_vae(vae_dir, device=runtime.device)
    encoders = {"inputs": encoder_of(vae), "untrained": twin_encoder(vae, seed=measures.seed)}
    kept = read_codes(codes)
    frame = edges_frame(encoders, kept.values, kept.identity, data=data, factors=factors, measures=measures)
    EDGES.write(output, frame)


def edges_frame(
    encoders: Mapping[str, Encode],
    values: np.ndarray,
    identity: np.ndarray,
    *,
    data: FactorData,
    factors: Sequence[str],
    measures: VaeMeasures,
) -> "pd.DataFrame":
    """Return EDGES of the mechanism and of encoders, by the names of their levels.

    `values` `(image, factor)` and `identity` `(image,)` of the images of the data set give the spread of its factors.
    """
    scenes = set_scenes(data, factors, measures.scenes, seed=measures.seed)
    columns = list(scenes.studied)
    studied = [data.factors[place] for place in columns]
    spreads = [spread(as_vectors(values[:, place], data.factors[place]), data.factors[place]) for place in columns]
    if data.graph.any():
        values, identity = _independent(data, 2 * len(values), measures.seed, "images to read")
    images, shown = data.images_of(values, identity), data.images_of(scenes.values, scenes.identity)
    told = [as_vectors(scenes.values[:, place], data.factors[place]) for place in columns]
    true = data.graph[np.ix_(columns, columns)]
    exact = estimate(scenes, told, spreads, measures, exact=True)
    rows = _rows("generator", studied, exact, true, np.full(len(studied), np.nan))
    for level, encode in encoders.items():
        readout = fit_readout(encode(images), values[:, columns], studied, seed=measures.seed)
        found = estimate(scenes, readout.read(encode(shown)), spreads, measures)
        rows += _rows(level, studied, found, true, readout.quality)
    return EDGES.frame(rows)


def structural_hamming_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many pairs of factors two graphs, bool `(..., cause, effect)`, do not join alike, `(...)`."""
    differs = first != second
    either = differs | np.swapaxes(differs, -1, -2)
    return np.asarray(np.triu(either, k=1).sum((-1, -2)))


def random_graphs(factors: int, edges: int, draws: int, source: np.random.Generator) -> np.ndarray:
    """Return acyclic graphs, bool `(draw, cause, effect)`, of as many `edges`, or of all that an acyclic graph has."""
    causes, effects = np.triu_indices(factors, k=1)
    graphs = np.zeros((draws, factors, factors), dtype=bool)
    order = source.permuted(np.tile(np.arange(factors), (draws, 1)), axis=1)
    pairs = source.permuted(np.tile(np.arange(len(causes)), (draws, 1)), axis=1)[:, : min(edges, len(causes))]
    rows = np.arange(draws)[:, None]
    graphs[rows, order[rows, causes[pairs]], order[rows, effects[pairs]]] = True
    return graphs


def graphs_table(edges: Sequence[Path], output: Path, *, measures: VaeMeasures) -> None:
    """Write GRAPHS from EDGES of all VAEs of a data set; without rows where there are none."""
    rows: list[dict[str, Any]] = []
    for path in edges:
        _, family, seed = which_vae(Path(path).parent)
        for level, part in EDGES.read(path).groupby("level", sort=True):
            told = {"family": family, "vae_seed": seed, "level": level}
            rows.append({**told, **_compared(part, measures, str(level))})
    GRAPHS.write(output, GRAPHS.frame(rows))


def _compared(part: "pd.DataFrame", measures: VaeMeasures, level: str) -> dict[str, Any]:
    names = list(dict.fromkeys([*part["cause"], *part["effect"]]))
    found, true = (
        part.pivot(index="cause", columns="effect", values=column)
        .reindex(index=names, columns=names)
        .fillna(False)
        .to_numpy(dtype=bool)
        for column in ("edge", "true")
    )
    distance, edges = int(structural_hamming_distance(found, true)), int(found.sum())
    source = generator(measures.seed, "random graphs", level, edges)
    null = structural_hamming_distance(random_graphs(len(names), edges, measures.permutations, source), true)
    return {
        "edges": edges,
        "true_edges": int(true.sum()),
        "distance": distance,
        "random": float(null.mean()),
        "p": float(permutation_p(distance, null, alternative="less")),
        "readout": float(part.groupby("effect")["readout"].first().mean()),
    }


def _independent(data: FactorData, count: int, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values and identity of images in which no factor tells of another."""
    source = generator(seed, purpose, "independent factors")
    _, identity = data.draw(count, source)
    return np.stack([factor.draw(count, source) for factor in data.factors], axis=1), identity


def _rows(
    level: str, studied: Sequence[Factor], found: Effects, true: np.ndarray, quality: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "level": level,
            "cause": studied[cause].name,
            "effect": studied[effect].name,
            "true": bool(true[cause, effect]),
            "change": found.change[cause, effect],
            "floor": found.floor[cause, effect],
            "p_corrected": found.p[cause, effect],
            "edge": bool(found.edge[cause, effect]),
            "readout": quality[effect],
        }
        for cause, effect in zip(*np.nonzero(~np.eye(len(studied), dtype=bool)), strict=True)
    ]


def _itself(mean: np.ndarray) -> np.ndarray:
    return mean
