"""How much more attention a head gives to something than chance would, and what chance would give. Ours.

Every probe is a ratio per sample and head, 1 under uniform attention: attention mass on a reference map over the mass
of uniform attention (enrichment), or the same for a fixed key (sink) and a token. The 3 x 3 neighbourhood, the mirror
position and distance (mean square) are set against the same attention without regard to where the query is: what the
keys receive on the whole, from every query alike. So a head that looks at the middle of the image, or at an object in
it, is not local, and one that looks at a corner is not far-sighted. c (ratio - 1), with c = u / (1 - u) and u the mass
by chance, is Cohen's kappa of mass: the share of attention beyond chance, 1 where all attention is on the target. It
makes probes comparable ("excess").

Nulls, drawn once per domain and shared by all heads, sites, timesteps and probes, so that averages over heads and
timesteps have the averaged draws as their null:
- reference maps: each sample's map rolled toroidally at random (all rolls by one FFT cross-correlation). Rolls are the
  same fraction of the image on every grid;
- content: enrichment on the sample's own map minus that on the other samples' maps, with the maps dealt out anew among
  the samples (a permutation test of independence, Pitman 1937). A head that likes other images' maps as much as its own
  looks at a place, not at content, and what it likes of all maps cancels from the statistic and from every draw alike.
  Random signs of each sample's difference would not do: they put that back, so that the null of a head with a strong
  place preference is many times too wide;
- places and tokens have none here. That attention prefers a place or a token is a fact of the weights which the same
  images confirm over and over: random signs of its deviation from uniform attention reject for most heads of random
  weights. What random weights prefer is their null (`diffmech.mechanisms.evidence`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import fft, sparse
from scipy.special import ndtr

from diffmech.mechanisms.captured import Site
from diffmech.mechanisms.reference_maps import GridMaps
from diffmech.randomness import generator
from diffmech.statistics.units import Groups, codes, number_of_units, unit_weights

TOKEN = "token:"
PLACES = ("neighbourhood", "mirror", "distance", "sink", "position")
# 2^23 float32 are 32 MB: the rolled enrichments, and those of pairs of samples, that are held at once
ROLLED_AT_ONCE = 2**23
PAIRED_AT_ONCE = 2**23
# With fewer draws than this beyond the observed value, the tail of the null is read off its normal approximation.
DRAWS_IN_TAIL = 10
# No p-value is zero, in float32 either.
SMALLEST_P = float(np.finfo(np.float32).tiny)
# Below this, a share of attention is none.
TINY = 1e-9


@dataclass(frozen=True)
class Ratios:
    """Probes of one site and timestep: values, and which are valid.

    `scale` is c = u / (1 - u), which turns ratios into shares of attention beyond chance. `units` (sample,) say which
    samples belong together, where any do: means are over units of their samples' means.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "sample head probe"]
    scale: Float[np.ndarray, "sample #head probe"]
    valid: Bool[np.ndarray, "sample probe"]
    units: Groups = None

    def mean(self) -> Float[np.ndarray, "head probe"]:
        """Return the mean ratio over valid samples; NaN without any."""
        return _masked_mean(self.values, self.valid, self.units)

    def excess(self) -> Float[np.ndarray, "head probe"]:
        """Return the mean share of attention beyond chance; NaN without valid samples."""
        return _masked_mean((self.values - 1) * self.scale, self.valid, self.units)


@dataclass(frozen=True)
class NullDraws:
    """The random orders of units, and rolls of samples as cells of the `coarsest` grid.

    `units` (sample,) number the unit of each sample, None where each is its own.
    """

    orders: Int[np.ndarray, "draw unit"]
    rolls: Int[np.ndarray, "draw sample"]
    coarsest: tuple[int, int]
    units: Groups = None

    def partners(self, rows: Int[np.ndarray, "row"]) -> Int[np.ndarray, "draw row"]:
        """Return, per draw, which of the samples `rows` each of them is given the map of, as positions.

        Units change places as wholes: the k-th sample of a unit is given the map of the k-th of another one, and where
        that has fewer, of its first ones again.
        """
        if self.units is None:
            return np.asarray(self.orders[:, rows].argsort(axis=1))
        of = codes(self.units[rows])
        _, first, sizes = np.unique(of, return_index=True, return_counts=True)
        members, starts = np.argsort(of, kind="stable"), np.cumsum(sizes) - sizes
        place = np.empty(len(rows), dtype=int)
        place[members] = np.arange(len(rows)) - starts[of[members]]
        given = self.orders[:, self.units[rows][first]].argsort(axis=1)[:, of]
        return np.asarray(members[starts[given] + place % sizes[given]])


def draw_nulls(
    seed: int, domain: str, samples: int, draws: int, coarsest: tuple[int, int], units: Groups = None
) -> NullDraws:
    """Return the draws of one domain. `coarsest` is the smallest key grid; its cells are the rolls there are.

    `units` (sample,) number the units; all samples of one are rolled alike.
    """
    count = number_of_units(samples, units)
    unordered = np.broadcast_to(np.arange(count), (draws, count))
    orders = generator(seed, "orders", domain).permuted(unordered, axis=1)
    rolls = generator(seed, "rolls", domain).integers(0, coarsest[0] * coarsest[1], size=(draws, count))
    return NullDraws(orders, rolls if units is None else rolls[:, units], coarsest, units)


def chance_of_relations(
    grid: tuple[int, int], received: Float[np.ndarray, "sample head key"]
) -> dict[str, tuple[Float[np.ndarray, "sample head"], Float[np.ndarray, "sample head"]]]:
    """Return the neighbourhood, mirror and square distance of attention that ignores its query, and their scales c.

    `received` is what keys receive, of mean 1.
    """
    height, width = grid
    keys = height * width
    near, square = [], []
    for side in grid:
        index = np.arange(side)
        near.append(np.minimum(index + 1, side - 1) - np.maximum(index - 1, 0) + 1)
        square.append(((index[:, None] - index) ** 2).mean(axis=1) / side**2)
    # of each key: by how many queries' neighbourhood it is, and its mean square distance from all queries
    neighbourhood = received @ np.outer(*near).ravel() / keys**2
    distance = received @ np.add.outer(*square).ravel() / keys
    sides = [np.arange(side) / side for side in grid]
    farthest = sum(float(np.mean(np.maximum(side, side[::-1]) ** 2)) for side in sides)
    mirror = np.full(received.shape[:2], 1 / keys)  # each key is the mirror position of one query

    def scale(chance: np.ndarray, most: float) -> np.ndarray:
        return np.divide(chance, most - chance, out=np.zeros_like(chance), where=most - chance > TINY)

    return {
        "neighbourhood": (neighbourhood, scale(neighbourhood, 1.0)),
        "mirror": (mirror, scale(mirror, 1.0)),
        "distance": (distance, scale(distance, farthest)),
    }


def place_ratios(
    site: Site,
    quantities: dict[str, Float[np.ndarray, "sample head"]],
    received: Float[np.ndarray, "sample head key"],
    groups: Int[np.ndarray, "sample key"] | None = None,
    units: Groups = None,
) -> Ratios:
    """Return the probes that need no image.

    A spatial site has neighbourhood, mirror, distance, sink and position; another has each of its tokens, or of the
    groups that `groups` puts them in. The sink is the key that receives most in one half of the samples, measured in
    the other half, so that picking the largest adds no bias; position is, likewise, the attention moved from keys that
    receive less to keys that receive more than uniform in the other half (1 + total variation distance). The halves are
    samples, or `units` (sample,) of them, by turns.
    """
    n, _, keys = received.shape
    if not site.spatial:
        names = tuple(TOKEN + token for token in site.tokens)
        if groups is not None:
            return _group_ratios(names, received, groups, units)
        scale, everywhere = np.full((n, 1, keys), 1 / max(keys - 1, 1)), np.ones((n, keys), dtype=bool)
        return Ratios(names, received, scale, everywhere, units)
    half = (np.arange(n) if units is None else codes(units)) % 2 == 1
    sink, moved = np.empty(received.shape[:2]), np.empty(received.shape[:2])
    for rows in (half, ~half):
        others = received[~rows if (~rows).any() else rows].mean(axis=0)
        top = others.argmax(axis=-1)
        sink[rows] = received[rows][:, np.arange(len(top)), top]
        moved[rows] = np.einsum("shk,hk->sh", received[rows] - 1, np.sign(others - 1), optimize=True) / (2 * keys)
    chance = chance_of_relations(site.grid, received)
    relations = {
        "neighbourhood": quantities["neighbourhood_mass"],
        "mirror": quantities["mirror_mass"],
        "distance": quantities["distance"] ** 2,
    }
    values = [found / np.maximum(chance[name][0], TINY) for name, found in relations.items()]
    ones = np.ones_like(sink)
    scales = [*(chance[name][1] for name in relations), ones / max(keys - 1, 1), ones]
    valid = np.ones((n, len(PLACES)), dtype=bool)
    return Ratios(PLACES, np.stack([*values, sink, 1 + moved], axis=-1), np.stack(scales, axis=-1), valid, units)


def _group_ratios(
    names: tuple[str, ...],
    received: Float[np.ndarray, "sample head key"],
    groups: Int[np.ndarray, "sample key"],
    units: Groups,
) -> Ratios:
    """Return the attention per key of each group of tokens; a group without keys in a sample is not valid there."""
    members = np.stack([groups == index for index in range(len(names))], axis=-1).astype(np.float32)
    counts = members.sum(axis=1)  # (sample, group)
    values = np.matmul(received, members) / np.maximum(counts, 1)[:, None]
    share = counts / received.shape[-1]
    scale = np.divide(share, 1 - share, out=np.zeros_like(share), where=share < 1)
    return Ratios(names, values, scale[:, None], (counts > 0) & (share < 1), units)


def map_ratios(received: Float[np.ndarray, "sample head key"], maps: GridMaps, units: Groups = None) -> Ratios:
    """Return the enrichment of `received` on each reference map."""
    values = np.matmul(received, maps.values.transpose(0, 2, 1)) / received.shape[-1]
    return Ratios(maps.names, values, maps.attainable[:, None], maps.valid, units)


def content(
    received: Float[np.ndarray, "sample head key"], maps: GridMaps, draws: NullDraws
) -> tuple[Float[np.ndarray, "head probe"], Float[np.ndarray, "draw head probe"]]:
    """Return the mean enrichment on own maps minus that on others', and its null.

    In a draw each sample has the map of another one, or by chance its own, and the other maps are the rest: with A_ij
    the enrichment of sample i's attention on sample j's map and S the mean of A over the n pairs of the draw, both are
    n / (n - 1) (S - mean of A). Where samples belong together, n is the number of units, which change places as wholes,
    and means are over units of means over their samples. Samples without a valid map have no part in it. 0 with a
    single map, NaN without any.
    """
    heads, keys, count = received.shape[1], received.shape[2], len(draws.orders)
    observed = np.full((heads, len(maps.names)), np.nan)
    null = np.full((count, *observed.shape), np.nan)
    # probes with maps of the same samples share their pairs
    for pattern in dict.fromkeys(map(tuple, maps.valid.T.tolist())):
        rows, probes = np.flatnonzero(pattern), np.flatnonzero((np.array(pattern) == maps.valid.T).all(axis=1))
        n = len(rows)
        if n == 0:
            continue
        # maps are of mean 1: without it, rounding is that of the differences
        reference = (maps.values[np.ix_(rows, probes)] - 1).transpose(2, 0, 1).reshape(keys, -1)
        partners, of = draws.partners(rows), None if draws.units is None else draws.units[rows]
        weights, units = unit_weights(n, of), number_of_units(n, of)
        own, every = np.zeros((heads, len(probes))), np.zeros((heads, len(probes)))
        drawn = np.zeros((heads, count, len(probes)))
        size = max(1, PAIRED_AT_ONCE // (heads * reference.shape[1]))
        for start in range(0, n, size):
            some = rows[start : start + size]
            pairs = (received[some].reshape(-1, keys) @ reference).reshape(len(some), heads, n, -1) / keys
            pairs *= weights[start : start + size, None, None, None].astype(pairs.dtype)
            for offset, of_sample in enumerate(pairs):
                every += np.tensordot(weights, of_sample, axes=(0, 1))
                own += of_sample[:, start + offset]
                drawn += of_sample[:, partners[:, start + offset]]
        observed[:, probes] = (own - every) * units / max(units - 1, 1)
        null[:, :, probes] = ((drawn - every[:, None]) * units / max(units - 1, 1)).transpose(1, 0, 2)
    return observed, null


def rolled_null(
    received: Float[np.ndarray, "sample head key"], maps: GridMaps, draws: NullDraws
) -> Float[np.ndarray, "draw head probe"]:
    """Return the null of the mean enrichment when each sample's maps are rolled at random."""
    n, heads, _ = received.shape
    probes, count = len(maps.names), len(draws.rolls)
    height, width = draws.coarsest
    rows = np.round(np.arange(height) * maps.grid[0] / height).astype(int)
    columns = np.round(np.arange(width) * maps.grid[1] / width).astype(int)
    total, shares = np.zeros((count, heads * probes)), _shares(maps.valid, draws.units)
    size = max(1, ROLLED_AT_ONCE // max(1, heads * probes * maps.values.shape[-1]))
    for start in range(0, n, size):
        some = slice(start, start + size)
        attention = fft.rfft2(received[some].reshape(-1, heads, 1, *maps.grid))
        reference = fft.rfft2((maps.values[some] * shares[some, :, None]).reshape(-1, 1, probes, *maps.grid))
        # sum_j a_j r_(j - shift) for every shift at once
        rolled = fft.irfft2(attention * reference.conj(), s=maps.grid)[..., rows[:, None], columns]
        values = rolled.reshape(len(rolled), heads * probes, height * width).transpose(0, 2, 1)
        samples = len(values)
        picks = np.arange(samples) * (height * width) + draws.rolls[:, some]
        pointers = np.arange(count + 1) * samples
        choice = sparse.csr_matrix(
            (np.ones(count * samples, dtype=np.float32), picks.ravel(), pointers),
            shape=(count, samples * height * width),
        )
        total += choice @ np.ascontiguousarray(values).reshape(-1, heads * probes)
    valid = maps.valid.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total.reshape(count, heads, probes) / received.shape[-1] / valid


def null_p(
    observed: Float[np.ndarray, "*shape"],
    null: Float[np.ndarray, "draw *shape"],
    *,
    two_sided: bool,
    smallest: Float[np.ndarray, "..."] | float = SMALLEST_P,
) -> Float[np.ndarray, "*shape"]:
    """Return p-values of `observed` against `null`, resolved beyond 1 / draws.

    (1 + b) / (1 + B) where at least 10 draws are as extreme, else the normal tail with the null's mean and standard
    deviation: the statistic is a mean over independent samples. Corrections for many tests need the finer tail
    (as Knijnenburg et al. 2009, with a normal in place of a generalised Pareto tail), but never one below the
    `smallest` that all possible draws would give. Without spread p is 1.
    """
    centre, spread = null.mean(axis=0), null.std(axis=0)
    tolerance = 1e-6 * np.maximum(np.abs(centre), 1e-3)
    above = (null >= observed - tolerance).sum(axis=0)
    below = (null <= observed + tolerance).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(spread > tolerance, (observed - centre) / spread, 0.0)

    def tail(beyond: np.ndarray, score: np.ndarray) -> np.ndarray:
        counted = (1 + beyond) / (1 + len(null))
        return np.where((beyond >= DRAWS_IN_TAIL) | (spread <= tolerance), counted, np.minimum(counted, ndtr(-score)))

    greater = tail(above, z)
    p = np.minimum(1, 2 * np.minimum(greater, tail(below, -z))) if two_sided else greater
    return np.where(
        np.isnan(observed) | np.isnan(null).any(axis=0), np.nan, np.maximum(p, np.maximum(smallest, SMALLEST_P))
    )


def _masked_mean(
    values: Float[np.ndarray, "sample head probe"], valid: Bool[np.ndarray, "sample probe"], units: Groups
) -> Float[np.ndarray, "head probe"]:
    there = np.where(valid[:, None], values, 0)
    weighted = there if units is None else there * _shares(valid, units)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weighted.sum(axis=0) / valid.sum(axis=0))


def _shares(valid: Bool[np.ndarray, "sample probe"], units: Groups) -> Shaped[np.ndarray, "sample probe"]:
    """Return how often each valid sample counts: once, or so that all units of a probe count alike."""
    if units is None:
        return valid
    shares = np.zeros(valid.shape, dtype=np.float32)
    for column, there in enumerate(valid.T):
        shares[there, column] = there.sum() * unit_weights(int(there.sum()), units[there])
    return shares
