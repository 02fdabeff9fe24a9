"""What may be claimed of removing heads: p-values corrected over the whole study, and the verdict they make.

Three tests, each corrected over its family, which is every target in every domain (over all timesteps), or every target
in every domain in every window or at every timestep:

- against zero: random signs of the paired changes of the images, corrected by the largest |mean| / root mean square
  (`p_zero_max`), which reaches 2^(1 - images), where Holm's bound cannot with few images and many tests;
- against its controls (`p_sets`): the rank of the target among matched sets that share no head with it;
- against other choices of heads (`p_heads`): the sum of what its heads do one by one, among such sums over random
  choices of as many heads of the same pool and size, the target's own included as chance will have it. Sets that share
  no head with the target cannot give this null: one of all disjoint sets holds the one head that matters most, and
  where a target is k of m heads it is the target's in k / m of all studies (the fault of "balanced permutations",
  Southworth, Kim & Owen 2009). A mechanism whose heads matter only together does not pass it.

p_control is the larger of the last two: both must be small. `least_beyond` is from what effect on they would be, beside
all other targets as they are, if what is added to the effect of the set is added, evenly over its heads, to what its
heads do one by one; where no effect would do, the data cannot tell. All definitions are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from diffmech.interventions.choices import Choices
from diffmech.statistics.controls import joint_rank_p, rank_p, smallest_beyond
from diffmech.statistics.permutation import joint_sign_flip_p, permutation_p, sign_flip_permutation
from diffmech.statistics.reach import smallest_sign_flip_p

CAUSAL, NOT_BEYOND = "causal", "not beyond matched heads"
HELPS, NOTHING = "helps when removed", "no effect found"
UNTOLD, UNFAIR = "cannot be told", "no fair control"
# Of heads and layers, which have no controls.
DIFFERS = "differs from zero"
# Of mechanisms without a head at the timesteps in question.
NOT_REMOVED = "not removed"

# A p-value that is a sum of fractions may exceed the level that it equals by rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Decisions:
    """p-values and verdicts; NaN where no test was made."""

    p_zero: Float[np.ndarray, "target domain *window"]
    p_zero_max: Float[np.ndarray, "target domain *window"]
    p_control: Float[np.ndarray, "target domain *window"]
    p_sets_adjusted: Float[np.ndarray, "target domain *window"]
    p_heads_adjusted: Float[np.ndarray, "target domain *window"]
    p_control_adjusted: Float[np.ndarray, "target domain *window"]
    least_beyond: Float[np.ndarray, "target domain *window"]
    verdict: Shaped[np.ndarray, "target domain *window"]


def decide(
    effects: Float[np.ndarray, "target domain *window"],
    changes: Sequence[Float[np.ndarray, "_image target *window"]],
    controls: Sequence[Float[np.ndarray, "_draw domain *window"]] | None = None,
    fair: Bool[np.ndarray, "target"] | None = None,
    choices: Sequence[Choices] | None = None,
    *,
    alpha: float,
    permutations: int,
    seed: int,
    sizes: bool = False,
) -> Decisions:
    """Return what may be claimed of every target in every domain (and window: any further axes). All is one family.

    `changes` of each domain are the paired changes of the loss; `controls` of each target are on the same images, None
    for heads and layers, which have none, NaN where they do not match their target in one domain or window; `fair` says
    whether they match it on the whole; `choices` of each target, of the same domains (and windows). Without choices
    only the controls are asked, whose rank holds its level where effects of sets are exchangeable, not where those of
    heads are. `sizes`: find `least_beyond`, which else is 0 where it is finite.
    """
    shape, domains = effects.shape, len(changes)
    values = effects.reshape(len(effects), -1)
    p_zero = np.stack([_p_zero(one, permutations, seed) for one in changes], axis=1).reshape(values.shape)
    p_zero_max = np.stack(joint_sign_flip_p(changes, permutations=permutations, seed=seed), axis=1)
    p_zero_max = p_zero_max.reshape(values.shape)
    judged = np.ones(len(values), dtype=bool) if fair is None else np.asarray(fair, dtype=bool)
    sets = [
        np.reshape(draws, (len(draws), values.shape[1])) if ok else np.empty((0, values.shape[1]))
        for draws, ok in zip(controls or [values[:0]] * len(values), judged, strict=True)
    ]
    p_own, p_sets = _ranks(values, sets)
    least = smallest_beyond(values, sets, alpha, whether=not sizes)
    p_heads = np.full(values.shape, np.nan)
    if choices is not None:
        sums = [np.reshape(each.sums, (len(each.sums), values.shape[1])) for each in choices]
        shares = [np.reshape(each.shares, (len(each.shares), values.shape[1])) for each in choices]
        own_sums = np.stack([each[0] for each in sums])
        draws = [each[1:] if len(own) else each[:0] for each, own in zip(sums, sets, strict=True)]
        p_alone, p_heads = _ranks(own_sums, draws)
        of_heads = smallest_beyond(own_sums, draws, alpha, [each[1:] for each in shares], whether=not sizes)
        asked = np.isfinite(p_sets)
        # where no choice of heads was of the size of the target, nothing was shown, nor could be
        p_alone, p_heads, of_heads = (
            np.where(asked, np.where(np.isnan(found), never, found), np.nan)
            for found, never in ((p_alone, 1.0), (p_heads, 1.0), (of_heads, np.inf))
        )
        # what the sums lack is what the effect lacks: a set may do more, or less, than its heads one by one
        p_own, least = np.fmax(p_own, p_alone), np.fmax(least, values + of_heads - own_sums)
    p_control = np.fmax(p_sets, p_heads)
    verdicts = np.empty(values.shape, dtype=object)
    for row, test in np.ndindex(values.shape):
        images = len(changes[test // (values.shape[1] // domains)])
        verdicts[row, test] = verdict(
            float(values[row, test]),
            float(p_zero_max[row, test]),
            float(p_control[row, test]),
            fair=None if controls is None else bool(judged[row] and np.isfinite(sets[row][:, test]).all()),
            least_zero=smallest_sign_flip_p(images, permutations),
            within_reach=bool(least[row, test] < np.inf),
            alpha=alpha,
        )
    arrays = (p_zero, p_zero_max, p_own, p_sets, p_heads, p_control, least, verdicts)
    return Decisions(*(array.reshape(shape) for array in arrays))


def verdict(
    effect: float,
    p_zero: float,
    p_control: float,
    *,
    fair: bool | None,
    least_zero: float,
    within_reach: bool,
    alpha: float,
) -> str:
    """Return what an effect shows, by its corrected p-values and the smallest that they could have been.

    `fair` is None for heads and layers, which have no controls; `within_reach`: some effect would exceed them.
    """
    level = alpha + ROUNDING
    if not least_zero <= level:
        return UNTOLD
    if not p_zero <= level:
        return NOTHING
    if fair is None:
        return DIFFERS
    if effect < 0:
        return HELPS
    if not fair:
        return UNFAIR
    if p_control <= level:
        return CAUSAL
    return NOT_BEYOND if within_reach else UNTOLD


def _p_zero(changes: Float[np.ndarray, "image *test"], permutations: int, seed: int) -> Float[np.ndarray, "*test"]:
    return np.asarray(permutation_p(*sign_flip_permutation(np.abs, changes, permutations=permutations, seed=seed)))


def _ranks(
    values: Float[np.ndarray, "target test"], draws: Sequence[Float[np.ndarray, "_draw test"]]
) -> tuple[Float[np.ndarray, "target test"], Float[np.ndarray, "target test"]]:
    """Return the p-values of `values` alone and corrected, NaN for targets without draws."""
    alone = np.full(values.shape, np.nan)
    for row, one in enumerate(draws):
        if len(one):
            alone[row] = np.where(np.isfinite(one).all(axis=0), rank_p(values[row], one), np.nan)
    return alone, joint_rank_p(values, draws)
