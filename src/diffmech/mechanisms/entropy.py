"""Attention entropy per head and timestep, and how far it diverges between two domains.

Entropy H_i = -sum_j p_ij ln p_ij in nats, averaged over queries (arXiv 2506.17237 reports such values), always beside
its bound ln(keys) and the same architecture untrained. The divergence is ours: at each timestep, for each kind of
attention by itself since their bounds differ, the mean over heads of |effect|, the effect being that of the image, of
telling or their interaction (`mechanisms.told`); that of the image is the divergence between the domains. The absolute
value is biased upwards, so the divergence stands beside the floor that permuted domain labels, or random signs, give.
Two criteria make it significant, both corrected over timesteps and kinds: there is more of it than by chance
(permutation, Holm), and the trained model shows more than every untrained twin does in any kind at any timestep on the
very same images (rank of the maximum, Westfall & Young 1993).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int, Shaped
from scipy.special import ndtri

from diffmech.attention.store import per_sample
from diffmech.config.analysis import EntropyConfig
from diffmech.data.groups import GroupTables
from diffmech.mechanisms.captured import mass_beside, open_domains, open_untrained, sites_of, timesteps_of, units_of
from diffmech.mechanisms.tables import ENTROPY
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_two_groups
from diffmech.statistics.jensen_shannon import (
    histogram_membership,
    jensen_shannon_divergence,
    jensen_shannon_of_probabilities,
)
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import (
    label_permutation,
    max_statistic_p,
    permutation_p,
    sign_flip_permutation,
)
from diffmech.statistics.reach import POWER, joint_rank_threshold, smallest_label_p, smallest_sign_flip_p
from diffmech.statistics.units import Groups, over_units

# The floor of the Jensen-Shannon divergence is only a mean, which this many permutations settle.
FLOOR_PERMUTATIONS = 100
HISTOGRAM_BINS = 16


def attention_entropy(
    attention: Mapping[str, Sequence[Path]],
    untrained: Mapping[str, Path],
    output: Path,
    *,
    entropy: EntropyConfig,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the entropy of every head at every timestep in each domain, with its bootstrap interval over samples.

    `attention` gives each domain's attention stores, `untrained` its store of untrained twins. The columns are those
    of the table `entropy`, n the number of samples, or of units where `groups` are given. Raises StoreError for
    captures that do not fit together.
    """
    trees = open_domains(attention, groups)
    twins, _ = open_untrained(untrained, trees)
    tables = []
    for domain, tree in trees.items():
        units, each = units_of(tree), entropies(tree)
        values = over_units(each, units)
        interval = bootstrap_mean(values, draws=entropy.draws, confidence=entropy.confidence, seed=seed)
        of_twins = entropies(twins[domain], timesteps_of(tree))
        null = over_units(of_twins, units_of(twins[domain]), axis=1).mean(axis=1)
        heads = head_table(tree)
        timesteps = timesteps_of(tree)
        table = heads.loc[np.tile(np.arange(len(heads)), len(timesteps))].reset_index(drop=True)
        table.insert(0, "domain", domain)
        table["timestep"] = np.repeat(timesteps, len(heads))
        table["entropy"] = np.ravel(interval.estimate)
        table["low"], table["high"] = np.ravel(interval.low), np.ravel(interval.high)
        table["h_max"] = table.pop("h_max")
        table["normalised"] = table["entropy"] / table["h_max"]
        table["effective_keys"] = over_units(np.exp(each), units).mean(axis=0).ravel()
        table["beside_mass"] = over_units(mass_beside(tree), units).mean(axis=0).ravel()
        table["untrained_entropy"] = null.mean(axis=0).ravel()
        table["untrained_low"], table["untrained_high"] = null.min(axis=0).ravel(), null.max(axis=0).ravel()
        table["n"] = len(values)
        tables.append(table)
    ENTROPY.write(output, pd.concat(tables).sort_values(["domain", "head", "timestep"], kind="stable"))


def divergence_table(
    values: Mapping[str, Float[np.ndarray, "_sample timestep head"]],
    copies: Mapping[str, Float[np.ndarray, "twin timestep head"]],
    seen: Mapping[str, Int[np.ndarray, "_seen"]],
    kinds: Shaped[np.ndarray, "head"],
    timesteps: Sequence[int],
    *,
    entropy: EntropyConfig,
    seed: int,
    signs: bool = False,
    bounds: Float[np.ndarray, "head"] | None = None,
    units: Mapping[str, Groups] | None = None,
) -> pd.DataFrame:
    """Return the table of one effect, with every decision, from what its difference of means is taken of.

    By domain: `values` (sample, timestep, head), of untrained twins the means over images `copies` (twin, timestep,
    head), and which of the samples the twins saw. `kinds` (head,) name the kind of attention of each head, `bounds`
    (head,) its largest entropy. `signs`: the null is that the values of an image have a random sign. `units`
    (sample,) say, by domain, which samples belong together, where any do: then n and all else are of them.

    The columns are those of the table `divergence`, but for effect and condition; jensen_shannon is missing of signs.

    The interval contains the true value with at least its confidence, also where that is 0 or many heads do not differ,
    where resampling the divergence itself would miss it (see `divergence_interval`). It can lie below a divergence that
    is mostly floor.
    """
    first, second = values
    groups = {name: (units or {}).get(name) for name in values}
    a, b = (over_units(each, groups[name]) for name, each in values.items())
    names = [kind for kind in ("self", "cross", "joint") if kind in kinds]
    weights = np.stack([kinds == kind for kind in names], axis=1).astype(float)
    weights /= weights.sum(axis=0)

    def divergence(difference: np.ndarray) -> np.ndarray:
        return np.abs(difference) @ weights  # (draw, timestep, kind)

    observed, null = effect_null(divergence, a, b, signs=signs, permutations=entropy.permutations, seed=seed)
    p = np.asarray(permutation_p(observed, null))
    low, high = divergence_interval(a, b, weights, draws=entropy.draws, confidence=entropy.confidence, seed=seed)
    spread = spread_floor = np.full(p.shape, np.nan)
    if not signs:
        spread, spread_floor = _jensen_shannon(a, b, weights, seed)
    of_twins = divergence(copies[first] - copies[second])  # (twin, timestep, kind)
    seen_a, seen_b = (over_units(values[n][seen[n]], None if of is None else of[seen[n]]) for n, of in groups.items())
    on_same_images = divergence(seen_a.mean(axis=0) - seen_b.mean(axis=0))
    p_twins, needed = against_untrained(on_same_images, of_twins, entropy.alpha)
    p_holm = holm(p)
    least = smallest_label_p(len(a), len(b), entropy.permutations)
    if signs:
        least = smallest_sign_flip_p(len(a) + len(b), entropy.permutations)
    difference = np.abs(a.mean(axis=0) - b.mean(axis=0))
    columns = {
        "divergence": np.asarray(observed),
        "low": low,
        "high": high,
        "share": (difference if bounds is None else difference / bounds) @ weights,
        "floor": null.mean(axis=0),
        "floor_high": np.quantile(null, 0.95, axis=0),
        "p": p,
        "p_holm": p_holm,
        "jensen_shannon": spread,
        "jensen_shannon_floor": spread_floor,
        "untrained_divergence_max": np.broadcast_to(of_twins.max(axis=(0, 1)), p.shape),
        "p_untrained": p_twins,
        "smallest": np.maximum(
            np.quantile(null, 1 - entropy.alpha / p.size, axis=0, method="higher") + _margin(a, b, weights),
            needed + _margin(seen_a, seen_b, weights),
        ),
        "significant": (p_holm <= entropy.alpha) & (p_twins <= entropy.alpha),
    }
    table = pd.DataFrame({"timestep": np.repeat(timesteps, len(names)), "kind": names * len(timesteps)})
    for name, array in columns.items():
        table[name] = array.ravel()
    sizes = {"untrained_n": min(len(seen_a), len(seen_b)), "n_first": len(a), "n_second": len(b)}
    table = table.assign(p_least=min(1.0, p.size * least), **sizes)
    return table.sort_values("timestep", kind="stable", ignore_index=True)


def effect_null(
    statistic: Callable[[Float[np.ndarray, "draw ..."]], Float[np.ndarray, "draw ..."]],
    a: Float[np.ndarray, "sample_a *shape"],
    b: Float[np.ndarray, "sample_b *shape"],
    *,
    signs: bool,
    permutations: int,
    seed: int,
) -> tuple[Float[np.ndarray, "*result"], Float[np.ndarray, "permutation *result"]]:
    """Return a statistic of mean(a) - mean(b) and its null.

    Under the null labels are exchangeable or, with `signs`, the values of each sample have a random sign.
    """
    if signs:
        n = len(a) + len(b)
        both = np.concatenate([a * (n / len(a)), -b * (n / len(b))])  # whose mean is that difference
        observed, null = sign_flip_permutation(statistic, both, permutations=permutations, seed=seed)
    else:
        observed, null = label_permutation(
            lambda first, second: statistic(first - second), a, b, permutations=permutations, seed=seed
        )
    return np.asarray(observed), null


def _margin(
    a: Float[np.ndarray, "sample_a timestep head"],
    b: Float[np.ndarray, "sample_b timestep head"],
    weights: Float[np.ndarray, "head kind"],
) -> Float[np.ndarray, "timestep kind"]:
    """Return by how much a divergence must exceed what it is compared with to do so with 80 % power.

    The estimate is on average no less than the divergence, and scatters at most as its heads' differences with their
    signs do.
    """
    sign = np.sign(a.mean(axis=0) - b.mean(axis=0))
    variances = [((values * sign) @ weights).var(axis=0) / max(len(values) - 1, 1) for values in (a, b)]
    return np.asarray(ndtri(POWER) * np.sqrt(sum(variances)))


def divergence_interval(
    a: Float[np.ndarray, "sample_a timestep head"],
    b: Float[np.ndarray, "sample_b timestep head"],
    weights: Float[np.ndarray, "head kind"],
    *,
    draws: int,
    confidence: float,
    seed: int,
) -> tuple[Float[np.ndarray, "timestep kind"], Float[np.ndarray, "timestep kind"]]:
    """Return the ends of the interval of the divergence between `a` and `b`.

    `weights` sum to 1 over heads. The estimate errs by sum_h w_h (|d_h + e_h| - |d_h|) with d_h the true difference of
    means and e_h the error of its estimate. Where d_h is large this is sign(d_h) e_h, and never less; near 0 it is
    |e_h|, and never more. So the high end is the estimate less the low quantile of sum w_h sign(d_h) e_h*, the low end
    the estimate less the high quantile of the same with |e_h*| for heads whose difference is below sqrt(2 ln heads)
    standard errors, e_h* from resampling. Bootstrap of directionally differentiable functions: Fang & Santos 2019; that
    either end takes its bound is ours.
    """
    difference = a.mean(axis=0) - b.mean(axis=0)  # (timestep, head)
    error = np.sqrt(sum(values.var(axis=0) / max(len(values) - 1, 1) for values in (a, b)))
    sign = np.sign(difference)
    near_zero = np.abs(difference) <= np.sqrt(2 * np.log(max(2, len(weights)))) * error

    def errors(mean_a: np.ndarray, mean_b: np.ndarray) -> np.ndarray:
        signed = sign * (mean_a - mean_b - difference)
        return np.stack([np.where(near_zero, np.abs(signed), signed) @ weights, signed @ weights], axis=-1)

    resampled = bootstrap_two_groups(errors, a, b, draws=draws, confidence=confidence, seed=seed, method="percentile")
    low, high = np.asarray(resampled.low)[..., 1], np.asarray(resampled.high)[..., 0]
    estimate = np.abs(difference) @ weights
    return np.maximum(0, estimate - high), estimate - low


def against_untrained(
    trained: Float[np.ndarray, "timestep kind"], twins: Float[np.ndarray, "twin timestep kind"], alpha: float
) -> tuple[Float[np.ndarray, "timestep kind"], Float[np.ndarray, "kind"]]:
    """Return the rank p-values of `trained` among each twin's maximum, and what `alpha` takes.

    The maximum is over timesteps and kinds, each kind in units of the mean over all models of their largest value of
    that kind. Where the studied model is itself untrained it is exchangeable with its twins, so the chance of any p at
    or below alpha is at most alpha. The second result is the divergence of each kind that p at or below `alpha` takes.
    """
    largest = np.concatenate([trained[None], twins]).max(axis=1)  # (model, kind)
    scale = np.where(largest.any(axis=0), largest.mean(axis=0), 1)
    p = np.asarray(max_statistic_p(trained / scale, twins / scale))
    return p, joint_rank_threshold(largest[1:], largest[1:] / scale, alpha)


def head_table(tree: xr.DataTree) -> pd.DataFrame:
    """Return head, site, kind and h_max (nats) of every head of a capture, in its order."""
    rows = [(head, site.name, site.kind, np.log(site.keys)) for site in sites_of(tree) for head in site.heads]
    return pd.DataFrame(rows, columns=["head", "site", "kind", "h_max"])


def entropies(
    tree: xr.DataTree, timesteps: Sequence[int] | None = None
) -> Float[np.ndarray, "*twin sample timestep head"]:
    """Return the entropies in float64."""
    array = per_sample(tree, "entropy")
    if timesteps is not None:
        array = array.sel(timestep=list(timesteps))
    return np.asarray(array.values, dtype=np.float64)


def _jensen_shannon(
    a: Float[np.ndarray, "sample_a timestep head"],
    b: Float[np.ndarray, "sample_b timestep head"],
    weights: Float[np.ndarray, "head kind"],
    seed: int,
) -> tuple[Float[np.ndarray, "timestep kind"], Float[np.ndarray, "timestep kind"]]:
    """Return the divergence of the per-sample distributions and its mean under permuted labels."""
    observed = np.asarray(jensen_shannon_divergence(a, b, bins=HISTOGRAM_BINS)) @ weights
    floors = []
    for timestep in range(a.shape[1]):
        in_bin_a, in_bin_b = histogram_membership(a[:, timestep], b[:, timestep], bins=HISTOGRAM_BINS)
        _, null = label_permutation(
            lambda p, q: np.asarray(jensen_shannon_of_probabilities(p, q)) @ weights,
            in_bin_a,
            in_bin_b,
            permutations=FLOOR_PERMUTATIONS,
            seed=seed,
        )
        floors.append(null.mean(axis=0))
    return observed, np.stack(floors)
