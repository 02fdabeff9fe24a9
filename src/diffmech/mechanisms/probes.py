"""How much more attention a head gives to something than uniform attention would, and what chance would give. Ours.

Every probe is a ratio per sample and head, 1 under uniform attention: attention mass on a reference map over the mass
of uniform attention (enrichment), or the same for the 3 x 3 neighbourhood, the mirror position, a fixed key (sink), a
token, and for distance (mean square distance over that of uniform attention). c (ratio - 1), with c = u / (1 - u) and
u the uniform mass, is Cohen's kappa of mass: the share of attention beyond chance, 1 where all attention is on the
target. It makes probes comparable ("excess").

Nulls, drawn once per sample and shared by all heads, sites, timesteps and probes, so that averages over heads and
timesteps have the averaged draws as their null:
- reference maps: each sample's map rolled toroidally at random (all rolls by one FFT cross-correlation). Rolls are the
  same fraction of the image on every grid;
- everything else: each sample's deviation from uniform attention with a random sign (Fisher's randomisation test);
- content: enrichment on the sample's own map minus that on the other samples' maps, signs at random. A head that likes
  other images' maps as much as its own looks at a place, not at content.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, sparse
from scipy.special import ndtr

from diffmech.mechanisms.captured import Site
from diffmech.mechanisms.reference_maps import GridMaps
from diffmech.randomness import generator

TOKEN = "token:"
PLACES = ("neighbourhood", "mirror", "distance", "sink", "position")
# 2^23 float32 are 32 MB: the rolled enrichments that are held at once
ROLLED_AT_ONCE = 2**23
# With fewer draws than this beyond the observed value, the tail of the null is read off its normal approximation.
DRAWS_IN_TAIL = 10
# No p-value is zero, in float32 either.
SMALLEST_P = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Ratios:
    """Probes of one site and timestep: values (sample, head, probe), scale and valid (sample, probe)."""

    names: tuple[str, ...]
    values: np.ndarray
    scale: np.ndarray
    valid: np.ndarray

    def mean(self) -> np.ndarray:
        """Return the mean ratio over valid samples, (head, probe); NaN without any."""
        return _masked_mean(self.values, self.valid)

    def minus(self, others: np.ndarray) -> np.ndarray:
        """Return the mean of these ratios minus `others` (sample, head, probe), (head, probe)."""
        return _masked_mean(self.values - others, self.valid)

    def excess(self) -> np.ndarray:
        """Return the mean share of attention beyond chance, (head, probe); NaN without valid samples."""
        return _masked_mean((self.values - 1) * self.scale[:, None], self.valid)


@dataclass(frozen=True)
class NullDraws:
    """The random signs (draw, sample), and rolls (draw, sample) as fractions (draw, sample, 2) of the image."""

    signs: np.ndarray
    rolls: np.ndarray
    coarsest: tuple[int, int]


def draw_nulls(seed: int, domain: str, samples: int, draws: int, coarsest: tuple[int, int]) -> NullDraws:
    """Return the draws of one domain. `coarsest` is the smallest key grid; its cells are the rolls there are."""
    signs = generator(seed, "signs", domain).integers(0, 2, size=(draws, samples)) * 2.0 - 1.0
    rolls = generator(seed, "rolls", domain).integers(0, coarsest[0] * coarsest[1], size=(draws, samples))
    return NullDraws(signs.astype(np.float32), rolls, coarsest)


def uniform_masses(grid: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Return, for neighbourhood, mirror and distance, the value under uniform attention and its scale c."""
    height, width = grid
    keys = height * width
    near = (3 * height - 2) / height * (3 * width - 2) / width / keys
    sides = [np.arange(side) / side for side in grid]
    # squares of the distance between two independent uniform positions, and to the farthest position
    square = sum((1 - 1 / side**2) / 6 for side in grid)
    farthest = sum(float(np.mean(np.maximum(side, side[::-1]) ** 2)) for side in sides)
    return {
        "neighbourhood": (near, near / (1 - near) if near < 1 else 0.0),
        "mirror": (1 / keys, 1 / max(keys - 1, 1)),
        "distance": (square, square / (farthest - square) if farthest > square else 0.0),
    }


def place_ratios(
    site: Site, quantities: dict[str, np.ndarray], received: np.ndarray, groups: np.ndarray | None = None
) -> Ratios:
    """Return the probes that need no image. `quantities` are (sample, head), `received` (sample, head, key).

    A spatial site has neighbourhood, mirror, distance, sink and position; another has each of its tokens, or of the
    groups that `groups` (sample, key) puts them in. The sink is
    the key that receives most in one half of the samples, measured in the other half, so that picking the largest adds
    no bias; position is, likewise, the attention moved from keys that receive less to keys that receive more than
    uniform in the other half (1 + total variation distance).
    """
    n, _, keys = received.shape
    if not site.spatial:
        names = tuple(TOKEN + token for token in site.tokens)
        if groups is not None:
            return _group_ratios(names, received, groups)
        return Ratios(names, received, np.full((n, keys), 1 / max(keys - 1, 1)), np.ones((n, keys), dtype=bool))
    uniform = uniform_masses(site.grid)
    half = np.arange(n) % 2 == 1
    sink, moved = np.empty(received.shape[:2]), np.empty(received.shape[:2])
    for rows in (half, ~half):
        others = received[~rows if (~rows).any() else rows].mean(axis=0)
        top = others.argmax(axis=-1)
        sink[rows] = received[rows][:, np.arange(len(top)), top]
        moved[rows] = np.einsum("shk,hk->sh", received[rows] - 1, np.sign(others - 1), optimize=True) / (2 * keys)
    columns = [
        quantities["neighbourhood_mass"] / uniform["neighbourhood"][0],
        quantities["mirror_mass"] / uniform["mirror"][0],
        quantities["distance"] ** 2 / max(uniform["distance"][0], np.finfo(float).tiny),
        sink,
        1 + moved,
    ]
    scale = [*(uniform[name][1] for name in PLACES[:3]), 1 / max(keys - 1, 1), 1.0]
    ones = np.ones((n, len(PLACES)), dtype=bool)
    return Ratios(PLACES, np.stack(columns, axis=-1), np.broadcast_to(scale, ones.shape), ones)


def _group_ratios(names: tuple[str, ...], received: np.ndarray, groups: np.ndarray) -> Ratios:
    """Return the attention per key of each group of tokens; a group without keys in a sample is not valid there."""
    members = np.stack([groups == index for index in range(len(names))], axis=-1).astype(np.float32)
    counts = members.sum(axis=1)  # (sample, group)
    values = np.matmul(received, members) / np.maximum(counts, 1)[:, None]
    share = counts / received.shape[-1]
    scale = np.divide(share, 1 - share, out=np.zeros_like(share), where=share < 1)
    return Ratios(names, values, scale, (counts > 0) & (share < 1))


def map_ratios(received: np.ndarray, maps: GridMaps) -> Ratios:
    """Return the enrichment of `received` (sample, head, key) on each reference map."""
    values = np.matmul(received, maps.values.transpose(0, 2, 1)) / received.shape[-1]
    return Ratios(maps.names, values, maps.attainable, maps.valid)


def ratios_on_other_samples(received: np.ndarray, maps: GridMaps, own: Ratios) -> np.ndarray:
    """Return the mean enrichment on all other valid samples' maps, (sample, head, probe); `own` without others."""
    count = maps.valid.sum(axis=0)
    total = np.einsum("spk,sp->pk", maps.values, maps.valid.astype(np.float32), optimize=True)
    on_all = received @ total.T / received.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (on_all - np.where(maps.valid[:, None], own.values, 0)) / (count - 1)
    return np.where(count > 1, others, own.values)


def sign_null(ratios: Ratios, draws: NullDraws) -> np.ndarray:
    """Return the null of the mean ratio when each sample's deviation from 1 has a random sign, (draw, head, probe)."""
    return 1 + _signed_means(ratios.values - 1, ratios.valid, draws)


def content_null(own: Ratios, others: np.ndarray, draws: NullDraws) -> np.ndarray:
    """Return the null of the mean of own minus others', (draw, head, probe)."""
    return _signed_means(own.values - others, own.valid, draws)


def rolled_null(received: np.ndarray, maps: GridMaps, draws: NullDraws) -> np.ndarray:
    """Return the null of the mean enrichment when each sample's maps are rolled at random, (draw, head, probe)."""
    n, heads, _ = received.shape
    probes, count = len(maps.names), len(draws.signs)
    height, width = draws.coarsest
    rows = np.round(np.arange(height) * maps.grid[0] / height).astype(int)
    columns = np.round(np.arange(width) * maps.grid[1] / width).astype(int)
    total = np.zeros((count, heads * probes))
    size = max(1, ROLLED_AT_ONCE // max(1, heads * probes * maps.values.shape[-1]))
    for start in range(0, n, size):
        some = slice(start, start + size)
        attention = fft.rfft2(received[some].reshape(-1, heads, 1, *maps.grid))
        reference = fft.rfft2((maps.values[some] * maps.valid[some, :, None]).reshape(-1, 1, probes, *maps.grid))
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


def null_p(observed: np.ndarray, null: np.ndarray, *, two_sided: bool) -> np.ndarray:
    """Return p-values of `observed` (...) against `null` (draw, ...), resolved beyond 1 / draws.

    (1 + b) / (1 + B) where at least 10 draws are as extreme, else the normal tail with the null's mean and standard
    deviation: the statistic is a mean over independent samples. Corrections for many tests need the finer tail
    (as Knijnenburg et al. 2009, with a normal in place of a generalised Pareto tail). Without spread p is 1.
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
    return np.where(np.isnan(observed) | np.isnan(null).any(axis=0), np.nan, np.maximum(p, SMALLEST_P))


def _signed_means(deviations: np.ndarray, valid: np.ndarray, draws: NullDraws) -> np.ndarray:
    n, heads, probes = deviations.shape
    masked = np.where(valid[:, None], deviations, 0).reshape(n, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (draws.signs @ masked).reshape(-1, heads, probes) / valid.sum(axis=0)


def _masked_mean(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(valid[:, None], values, 0).sum(axis=0) / valid.sum(axis=0)
