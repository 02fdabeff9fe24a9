"""The signed graph factor -> unit -> latent -> output of each VAE, and its motifs beside random graphs. Ours.

Units are those of one layer of the encoder, its last before the latents unless another is named. An edge weighs what
its target changes by, in spreads of the target, where its source rises by one spread: the slope of least squares
through the origin, mean of (change of source x change of target) over mean of squared changes of the source.

- factor -> unit: changes (mean over its places) over the pairs in which the factor is another. A factor without a
  direction, one on a circle or of several classes without order, has no signs and is left out;
- unit -> latent: what latents move by as the unit alone is patched, over the pairs of all factors;
- latent -> output: what features of the decoded image (`diffmech.vae.features`) change by as the latent is raised by
  one standard deviation. The spread of a feature is the root of the sum over latents of the mean squares of these
  changes, which is its standard deviation where latents are independent and the decoder is linear in them.

An edge is in the graph where its sign is no accident (sign flips over pairs or images, corrected by the largest
statistic over all edges of its level) and its weight is at least 0.1. What motifs are, and which random graphs they
are counted in, is said in `diffmech.vae.motifs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import Factor
from diffmech.randomness import generator
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import joint_sign_flip_p, permutation_p
from diffmech.vae.motifs import FIXED, MOTIFS, Graph, count_motifs, random_graphs
from diffmech.vae.tables import LINKS
from diffmech.vae.tables import MOTIFS as MOTIFS_TABLE

LEVELS = ("factor-unit", "unit-latent", "latent-output")
SMALLEST = 0.1  # weight of an edge
RANDOM = 1000  # random graphs, unless `permutations` are fewer


class Studied(Protocol):
    """One factor inside one VAE, as its store tells: `root` has the values `before` and `after` `(pair,)`, and each of
    `layers` `signed` `(pair, unit)` and, of the encoder of a VAE of single latents, `unit_latent`
    `(tried, unit, latent)` of the pairs `tried`."""

    @property
    def family(self) -> str:
        """The family of the VAE."""

    @property
    def seed(self) -> int:
        """The seed of its training."""

    @property
    def factor(self) -> str:
        """The factor that is changed."""

    @property
    def root(self) -> Mapping[str, np.ndarray]:
        """The arrays of all layers together."""

    @property
    def layers(self) -> Mapping[str, Mapping[str, np.ndarray]]:
        """The arrays of each layer."""


@dataclass(frozen=True)
class Level:
    """Edges between two levels: `weight`, `p` and what counts as an `edge`, -1, 0 or 1, each `(source, target)`."""

    weight: np.ndarray
    p: np.ndarray
    edge: np.ndarray


def motif_tables(
    codes: Sequence[Path],
    studies: Sequence[Studied],
    links: Path,
    motifs: Path,
    *,
    data: FactorData,
    measures: VaeMeasures,
    layer: str | None = None,
) -> None:
    """Write LINKS and MOTIFS of all VAEs of a data set, from the stores of their codes and what their factors do.

    Without rows for a VQ-VAE, which has no single latents, and where no factor has a direction. `layer` is that of the
    encoder whose units are taken, as `encoder.hidden`; None for its last. Raises StoreError for codes that are not
    whole.
    """
    from diffmech.vae.stores import group

    of_links: list[dict[str, Any]] = []
    of_motifs: list[dict[str, Any]] = []
    for path in codes:
        root = group(path)
        own = [each for each in studies if (each.family, each.seed) == (root.attrs["family"], root.attrs["vae_seed"])]
        directed = [each for each in own if has_direction(data.factors[data.place(each.factor)])]
        if not root.attrs["continuous"] or not directed:
            continue
        latents = group(path, "latents")
        changes = latents["feature_change"].transpose("latent", "feature", "probe").values
        outputs = [str(name) for name in latents["feature"].values]
        found = layer or _last_of_encoder(own[0])
        levels = [
            tested(_of_factors(directed, found), measures),
            tested([_of_units(own, found)], measures),
            tested([_of_latents(changes)], measures),
        ]
        told = {"family": own[0].family, "vae_seed": own[0].seed, "layer": found}
        _, units = levels[0].edge.shape
        names = (
            [each.factor for each in directed],
            [f"unit {unit}" for unit in range(units)],
            [f"latent {latent}" for latent in range(len(changes))],
            outputs,
        )
        of_links += [told | row for row in _link_rows(levels, names)]
        of_motifs += [told | row for row in motif_rows(Graph(*(level.edge for level in levels)), measures)]
    LINKS.write(links, LINKS.frame(of_links))
    MOTIFS_TABLE.write(motifs, MOTIFS_TABLE.frame(of_motifs))


def has_direction(factor: Factor) -> bool:
    """Return whether it can be said that a factor rises: its values have an order, or are two."""
    return factor.kind in ("ordinal", "continuous") or (factor.kind == "discrete" and len(factor.values) == 2)


def tested(changes: Sequence[np.ndarray], measures: VaeMeasures) -> Level:
    """Return the edges of a level from what each sample says of their weights, `(sample, target)` for each source, or
    `(sample, source, target)` of all together."""
    p = joint_sign_flip_p(changes, permutations=measures.permutations, seed=measures.seed)
    means = [each.mean(0) for each in changes]
    weight, corrected = (np.stack(each) if len(changes) > 1 or each[0].ndim == 1 else each[0] for each in (means, p))
    edge = np.where((corrected <= measures.alpha) & (np.abs(weight) >= SMALLEST), np.sign(weight), 0)
    return Level(weight, corrected, edge.astype(np.int8))


def motif_rows(graph: Graph, measures: VaeMeasures) -> list[dict[str, Any]]:
    """Return the rows of MOTIFS of one graph, without what tells of which VAE it is."""
    draws = min(RANDOM, measures.permutations)
    found = count_motifs(graph)
    null = count_motifs(random_graphs(graph, draws, generator(measures.seed, "random graphs of motifs")))
    tail = (1 - measures.confidence) / 2
    low, high = np.quantile(null, [tail, 1 - tail], axis=0)
    p = np.asarray(permutation_p(found, null, alternative="two-sided"))
    p[[MOTIFS.index(motif) for motif in FIXED]] = np.nan
    corrected = holm(p)
    return [
        {
            "motif": motif,
            "found": int(found[place]),
            "expected": float(null[:, place].mean()),
            "low": float(low[place]),
            "high": float(high[place]),
            "p": float(p[place]),
            "p_corrected": float(corrected[place]),
        }
        for place, motif in enumerate(MOTIFS)
    ]


def _last_of_encoder(study: Studied) -> str:
    return [name for name in study.layers if name.startswith("encoder.")][-1]


def _of_factors(studies: Sequence[Studied], layer: str) -> list[np.ndarray]:
    """Return what each pair says of the slopes of units on each factor, `(pair, unit)` each."""
    parts = []
    for study in studies:
        before, after = (study.root[name].astype(np.float64) for name in ("before", "after"))
        parts.append(_slopes((after - before)[:, None] / before.std(), study.layers[layer]["signed"]))
    return parts


def _of_units(studies: Sequence[Studied], layer: str) -> np.ndarray:
    """Return what each pair that is tried, of any factor, says of the slopes of latents on units,
    `(sample, unit, latent)`."""
    kept = [study.layers[layer] for study in studies]
    changes = np.concatenate([each["signed"][each["tried"]] for each in kept])
    return _slopes(changes[:, :, None], np.concatenate([each["unit_latent"] for each in kept]))


def _slopes(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return changes of the source times those of the target over the mean square of the former, 0 where it never
    changes: `(sample, ...)`, whose mean is the slope."""
    source = source.astype(np.float64)
    size = np.broadcast_to(np.square(source).mean(0), target.shape)
    return np.divide(source * target, size, out=np.zeros(target.shape), where=size > 0)


def _of_latents(changes: np.ndarray) -> np.ndarray:
    """Return changes of features `(latent, feature, image)` as `(image, latent, feature)`, in the features' spread."""
    spread = np.sqrt(np.square(changes.astype(np.float64)).mean(2).sum(0))
    scaled = np.divide(changes, spread[:, None], out=np.zeros(changes.shape), where=spread[:, None] > 0)
    return np.moveaxis(scaled, 2, 0)


def _link_rows(levels: Sequence[Level], names: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {
            "source": sources[source],
            "target": targets[target],
            "level": name,
            "weight": float(level.weight[source, target]),
            "p_corrected": float(level.p[source, target]),
        }
        for name, level, sources, targets in zip(LEVELS, levels, names, names[1:], strict=False)
        for source, target in zip(*np.nonzero(level.edge), strict=True)
    ]
