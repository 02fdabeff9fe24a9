"""What speaks for each probe of each mechanism in each domain, and what could have been seen. Ours.

Three tests, each against what its null gives:
- `rolled`: attention on a reference map against the same map rolled to other places, Holm over domains x mechanisms x
  maps. Places and tokens have no map to roll;
- `content`: attention on an image's own map against other images' maps, corrected alike;
- `untrained`: the rank among untrained twins, of every probe. It is the only null of places and tokens: that attention
  prefers them is a fact of the weights, in which random weights are no different. Two ranks, the larger counts: among
  the twins' maxima over heads, timesteps and domains of this probe; and, standardised, among their maxima over all
  probes. Each model is standardised by the others, so an untrained study is exchangeable with its twins, and the chance
  of any name at all, in any domain, is at most alpha. After Westfall & Young 1993.

A single head has the same tests, without correction: its own rolled maps, and its rank among the twins' heads of its
site, of which random weights at most a share of alpha pass.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from scipy.special import gammaln

from diffmech.mechanisms.probes import null_p
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.reach import smallest_effect_among, smallest_rank_p

# Standard deviation of the twins below which a probe does not vary among them.
NO_SPREAD = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What speaks for each probe, NaN where it does not apply.

    ratio: attention over that of uniform attention. excess: share of attention beyond chance. p_rolled_holm,
    p_content_holm: corrected p-values, NaN of probes without a map. p_untrained: rank among the twins.
    images: those that content is told from, 0 without a map.
    smallest_content_p: what p_content_holm could reach with so many images. copies: how many twins.
    smallest_excess: what is found beyond the twins four times in five.
    """

    domains: tuple[str, ...]
    mechanisms: tuple[str, ...]
    probes: tuple[str, ...]
    ratio: Float[np.ndarray, "domain mechanism probe"]
    excess: Float[np.ndarray, "domain mechanism probe"]
    p_rolled_holm: Float[np.ndarray, "domain mechanism probe"]
    p_content_holm: Float[np.ndarray, "domain mechanism probe"]
    p_untrained: Float[np.ndarray, "domain mechanism probe"]
    content_dependence: Float[np.ndarray, "domain mechanism"]
    images: Int[np.ndarray, "domain probe"]
    smallest_content_p: Float[np.ndarray, "domain probe"]
    copies: int
    smallest_excess: Float[np.ndarray, "probe"]

    @property
    def smallest_untrained_p(self) -> float:
        """The smallest p_untrained that so many copies allow."""
        return smallest_rank_p(self.copies)


def weigh_evidence(store: xr.Dataset, members: pd.DataFrame, spans: dict[int, list[int]], alpha: float) -> Evidence:
    """Return the evidence for every probe of every mechanism; a mechanism is the mean over its heads and phases.

    `store` is that of `diffmech.mechanisms.features`, loaded; `spans` are the timesteps of each phase.
    """
    names = sorted(set(members["mechanism"]))
    heads = [str(head) for head in store["head"].values]
    timesteps = [int(timestep) for timestep in store["timestep"].values]
    weights = np.zeros((len(names), len(heads), len(timesteps)))
    for mechanism, rows in members.groupby("mechanism"):
        for head, phase in zip(rows["head"], rows["phase"], strict=True):
            inside = np.isin(timesteps, spans[int(phase)])
            weights[names.index(str(mechanism)), heads.index(head)] += inside / inside.sum() / len(rows)

    def mean(name: str) -> np.ndarray:
        """Return ([draw,] domain, mechanism, probe); NaN unless all members have the probe."""
        values = store[name].transpose("null_draw", "domain", ..., "head", "timestep", missing_dims="ignore").values
        columns = [values[..., weight > 0].astype(np.float64) @ weight[weight > 0] for weight in weights]
        return np.moveaxis(np.stack(columns, axis=-1), -1, -2)

    probes = tuple(str(probe) for probe in store["probe"].values)
    with_map = [probes.index(str(name)) for name in store["map"].values]

    def of_maps(p: np.ndarray) -> np.ndarray:
        every = np.full((*p.shape[:-1], len(probes)), np.nan)
        every[..., with_map] = p
        return every

    ratio = mean("ratio")
    rolled = null_p(ratio[..., with_map], mean("rolled_null"), two_sided=True)
    images = store["images"].transpose("domain", "map").values.astype(int)
    fewest = smallest_order_p(images)
    told = null_p(mean("content"), mean("content_null"), two_sided=False, smallest=fewest[:, None])
    seen, twins = largest_excess(store)
    dependence = [str(feature) for feature in store["feature"].values].index("content_dependence")
    every_image = np.zeros((len(images), len(probes)), dtype=int)
    every_image[:, with_map] = images
    return Evidence(
        domains=tuple(str(domain) for domain in store["domain"].values),
        mechanisms=tuple(names),
        probes=probes,
        ratio=ratio,
        excess=mean("excess"),
        p_rolled_holm=of_maps(holm(rolled)),
        p_content_holm=of_maps(holm(told)),
        p_untrained=rank_among_twins(mean("excess_seen"), seen, twins),
        content_dependence=mean("features_by_domain")[..., dependence],
        images=every_image,
        smallest_content_p=of_maps(np.minimum(fewest * np.isfinite(told).sum(), 1)),
        copies=len(twins),
        smallest_excess=smallest_excess(twins, alpha),
    )


def largest_excess(store: xr.Dataset) -> tuple[Float[np.ndarray, "probe"], Float[np.ndarray, "twin probe"]]:
    """Return the largest excess over heads, timesteps and domains, of the study and its twins."""
    over = ["domain", "head", "timestep"]
    twins = store["untrained_excess"].max(over).transpose("twin", "probe").values
    return store["excess_seen"].max(over).values.astype(np.float64), twins.astype(np.float64)


def rank_among_twins(
    effects: Float[np.ndarray, "*effect probe"],
    study: Float[np.ndarray, "probe"],
    twins: Float[np.ndarray, "twin probe"],
) -> Float[np.ndarray, "*effect probe"]:
    """Return the larger of two rank p-values of `effects` of a study among its untrained twins.

    `study` and `twins` are maxima over domains, heads and timesteps; effects are averages of what `study` is the
    maximum of. The first rank is within the probe. The second is over all probes: a twin counts against an effect where
    its largest standardised maximum is at least as large; each model is standardised by the mean and standard deviation
    of all others, which treats study and twins alike. NaN effects stay NaN.
    """
    models = np.concatenate([study[None], twins])
    usable = np.isfinite(models).all(axis=0)
    beyond = _standardised(models[:, usable])[1:].max(axis=1, initial=-np.inf)
    centre, spread = twins[:, usable].mean(axis=0), twins[:, usable].std(axis=0)
    own = effects[..., usable]
    over_probes = (beyond >= ((own - centre) / np.maximum(spread, NO_SPREAD))[..., None]).sum(axis=-1)
    within_probe = (own[..., None] <= twins[:, usable].T).sum(axis=-1)
    p = np.full(effects.shape, np.nan)
    p[..., usable] = (1 + np.maximum(over_probes, within_probe)) / (1 + len(twins))
    return np.where(np.isnan(effects), np.nan, p)


def smallest_excess(twins: Float[np.ndarray, "twin probe"], alpha: float) -> Float[np.ndarray, "probe"]:
    """Return the excess that `rank_among_twins` finds four times in five; inf where no rank is low enough.

    By normal theory, for an excess that is measured as exactly as the maxima of the `twins` are alike.
    """
    found = np.full(twins.shape[1], np.nan)
    usable = np.isfinite(twins).all(axis=0)
    needed = smallest_effect_among(len(twins), alpha=alpha)
    if len(twins) < 3 or not np.isfinite(needed):
        return np.where(usable, np.inf, np.nan)
    values = twins[:, usable]
    beyond = _standardised(values).max(axis=1, initial=-np.inf)
    over_probes = beyond.mean() + needed * beyond.std(ddof=1)
    within = values.mean(axis=0) + needed * values.std(axis=0, ddof=1)
    found[usable] = np.maximum(within, values.mean(axis=0) + over_probes * values.std(axis=0))
    return found


def rank_among_heads(
    own: Float[np.ndarray, "*shape"] | float, untrained: Float[np.ndarray, "*shape untrained_head"]
) -> Float[np.ndarray, "*shape"]:
    """Return the rank p-value of a head's excess `own` among those of untrained heads."""
    rank = (1 + (untrained >= np.asarray(own)[..., None]).sum(axis=-1)) / (1 + untrained.shape[-1])
    return np.where(np.isnan(own) | np.isnan(untrained).any(axis=-1), np.nan, rank)


def smallest_order_p(images: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the smallest p-value of a test over all orders of so many images: one of n! is the observed one."""
    return np.asarray(np.exp(-gammaln(np.asarray(images) + 1.0)))


def head_evidence(
    store: xr.Dataset, head: str, timesteps: list[int], probe: str
) -> tuple[Float[np.ndarray, "domain"], Float[np.ndarray, "domain"]]:
    """Return a head's ratio on a probe and the p-value of it, uncorrected; means over the timesteps.

    The p-value is the larger of that against rolled maps, where the probe is a map, and the rank among the twins' heads
    of the same site. The rank is one-sided, of the images that the twins saw.
    """
    row = [str(name) for name in store["head"].values].index(head)
    where = {"head": row, "timestep": np.isin(store["timestep"].values, timesteps)}
    at = {"probe": [str(name) for name in store["probe"].values].index(probe)}
    site = np.flatnonzero(store["site"].values == store["site"].values[row])
    ratio = store["ratio"].isel(where | at).mean("timestep", skipna=False).values
    own = store["excess_seen"].isel(where | at).mean("timestep", skipna=False).values
    twins = store["untrained_excess"].isel(where | at | {"head": site}).mean("timestep", skipna=False)
    p = rank_among_heads(own, twins.transpose("domain", "twin", "head").values.reshape(len(own), -1))
    maps = [str(name) for name in store["map"].values]
    if probe in maps:
        null = store["rolled_null"].isel(where | {"map": maps.index(probe)}).mean("timestep", skipna=False)
        p = np.maximum(p, null_p(ratio, null.transpose("null_draw", "domain").values, two_sided=True))
    return ratio, p


def _standardised(models: Float[np.ndarray, "model probe"]) -> Float[np.ndarray, "model probe"]:
    """Return values in standard deviations of all other models from their mean."""
    scores = np.empty_like(models)
    for index, values in enumerate(models):
        others = np.delete(models, index, axis=0)
        scores[index] = (values - others.mean(axis=0)) / np.maximum(others.std(axis=0), NO_SPREAD)
    return scores
