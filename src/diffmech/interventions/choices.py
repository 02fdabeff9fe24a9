"""What single heads do, summed over random choices of heads: the null of which heads make up a mechanism.

For every mechanism, its heads are put in the place of random heads of the pool that its controls come from, its own
among them, keeping those choices whose size is within the factor that a control may have. What the heads of a choice
raise the loss by one at a time, at their timesteps, is summed; nothing is run again. Ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Shaped

from diffmech.attention.sites import HeadId
from diffmech.errors import StoreError
from diffmech.interventions.relabelling import own_heads, relabellings, sums_over_sets
from diffmech.interventions.targets import EACH, each_timestep_alike
from diffmech.randomness import generator

CHOICES = 4000


@dataclass(frozen=True)
class Choices:
    """What the heads of a target do one by one, and those of random choices in their place.

    `sums` in percent of the clean loss, the target first, then its draws; `shares`: which part of the target's own sum
    a choice would hold, were it spread evenly over the target's heads and timesteps.
    """

    sums: Float[np.ndarray, "choice domain *span"]
    shares: Float[np.ndarray, "choice domain *span"]

    def within(self, spans: Shaped[np.ndarray, "span"]) -> "Choices":
        """Return the same of some of the spans."""
        return Choices(self.sums[..., spans], self.shares[..., spans])


def sums_over_choices(
    members: Sequence[Sequence[str]],
    pools: Sequence[str],
    names: Sequence[str],
    heads: Mapping[str, xr.Dataset],
    spans: Sequence[Bool[np.ndarray, "timestep"]],
    *,
    seed: int,
) -> list[Choices]:
    """Return for each target what its own heads and random choices of as many do one by one.

    `members` are the heads of each target at each timestep, joined by blanks, `pools` those of its controls ("site",
    "kind", "any"; no draws for others), `heads` the ablations of single heads of each domain, `spans` masks over
    timesteps. Raises StoreError for a head without an ablation of its own.
    """
    first = next(iter(heads.values()))
    columns = [str(name) for name in first["target"].values]
    raised = [_raised(data, spans) for data in heads.values()]
    squares = [
        each_timestep_alike(np.square(data["size"].transpose("timestep", "target").values)) for data in heads.values()
    ]
    found = []
    for target, pool, name in zip(members, pools, names, strict=True):
        chosen = _membership(target, columns)
        own = own_heads(chosen)[None]
        draws = own[:0]
        if pool and own.size:
            draws = _choices(chosen, _groups(first, columns, pool), squares, generator(seed, "choice", name, pool))
        picks = np.concatenate([own, draws])
        sums = [[sums_over_sets(chosen, picks, values) for values in domain] for domain in raised]
        evenly = [chosen * span[:, None] / max((chosen * span[:, None]).sum(), 1) for span in spans]
        shares = [[sums_over_sets(chosen, picks, part) for part in evenly]] * len(raised)
        found.append(Choices(np.moveaxis(np.array(sums), -1, 0), np.moveaxis(np.array(shares), -1, 0)))
    return found


def _raised(
    data: xr.Dataset, spans: Sequence[Bool[np.ndarray, "timestep"]]
) -> list[Float[np.ndarray, "timestep head"]]:
    """Return for each span what each head raises the loss by at each timestep of it, in percent."""
    clean = data["mse_clean"].transpose("sample", "timestep").values
    ablated = data["mse_ablated"].isel(method=0).transpose("sample", "timestep", "target").values
    change = (ablated - clean[..., None]).mean(axis=0)
    return [100 * change * span[:, None] / clean[:, span].sum(axis=1).mean() for span in spans]


def _membership(target: Sequence[str], columns: Sequence[str]) -> Bool[np.ndarray, "timestep head"]:
    there = [set(text.split()) for text in target]
    if unknown := sorted(set().union(*there) - set(columns)):
        raise StoreError(f"the ablations of single heads lack {', '.join(unknown)}; make them anew with the same model")
    return np.array([[name in heads for name in columns] for heads in there], dtype=bool)


def _groups(data: xr.Dataset, columns: Sequence[str], pool: str) -> Shaped[np.ndarray, "head"]:
    if pool == "site":
        return np.array([HeadId.parse(name).site for name in columns])
    return np.array([str(kind) if pool == "kind" else "any" for kind in data["kind"].values])


def _choices(
    members: Bool[np.ndarray, "timestep head"],
    groups: Shaped[np.ndarray, "head"],
    squares: Sequence[np.ndarray],
    source: np.random.Generator,
) -> Int[np.ndarray, "draw own"]:
    """Return random choices of heads that are, in every domain, of the size of the target."""
    picks = relabellings(members, groups, CHOICES, source, disjoint=False)
    assert picks is not None  # a group holds its own heads
    own = own_heads(members)[None]
    alike = np.ones(len(picks), dtype=bool)
    for of_domain in squares:
        size, goal = (np.log(np.maximum(sums_over_sets(members, each, of_domain), 1e-30)) / 2 for each in (picks, own))
        alike &= np.abs(size - goal) <= math.log(EACH)
    return picks[alike]
