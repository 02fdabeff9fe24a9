"""Other heads in the place of those of a set: random relabellings of heads within groups that may stand in for others.

A set of heads may change over timesteps. A relabelling puts each of its heads, at all of its timesteps, in the place of
another head of its group, two never in one place: sets made so have as many heads at every timestep, and as many in
common between timesteps, as theirs. `disjoint` ones share no head with it at all; the others share heads as chance will
have it. All arrays; nothing here knows a model.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def relabellings(
    members: Bool[np.ndarray, "timestep head"],
    groups: Shaped[np.ndarray, "head"],
    count: int,
    source: np.random.Generator,
    *,
    disjoint: bool,
) -> Int[np.ndarray, "draw own"] | None:
    """Return `count` random relabellings of the heads of a set, as columns of `members`.

    `members` says which heads belong when, `groups` which may stand in for each other. The heads of the set, `own`, are
    those of `own_heads`. None where a group has too few heads.
    """
    own = own_heads(members)
    picks = np.empty((count, len(own)), dtype=np.intp)
    for group in np.unique(groups[own]):
        places = np.flatnonzero(groups[own] == group)
        there = np.flatnonzero(groups == group)
        if disjoint:
            there = np.setdiff1d(there, own)
        if len(there) < len(places):
            return None
        order = np.argsort(source.random((count, len(there))), axis=1)[:, : len(places)]
        picks[:, places] = there[order]
    return picks


def own_heads(members: Bool[np.ndarray, "timestep head"]) -> Int[np.ndarray, "own"]:
    """Return the heads that belong to a set at any timestep, as columns of `members`, ascending."""
    return np.flatnonzero(members.any(axis=0))


def distinct(
    members: Bool[np.ndarray, "timestep head"], groups: Shaped[np.ndarray, "head"], picks: Int[np.ndarray, "draw own"]
) -> Int[np.ndarray, "distinct own"]:
    """Return the relabellings that make distinct sets, the first of each.

    Heads of one group and equal timesteps may swap their places.
    """
    own = own_heads(members)
    canonical = picks.copy()
    alike: dict[tuple[str, bytes], list[int]] = {}
    for place, head in enumerate(own):
        alike.setdefault((str(groups[head]), members[:, head].tobytes()), []).append(place)
    for places in alike.values():
        canonical[:, places] = np.sort(picks[:, places], axis=1)
    _, first = np.unique(canonical, axis=0, return_index=True)
    return canonical[np.sort(first)]


def sums_over_sets(
    members: Bool[np.ndarray, "timestep head"],
    picks: Int[np.ndarray, "draw own"],
    values: Float[np.ndarray, "timestep head"],
    part: Bool[np.ndarray, "own"] | None = None,
) -> Float[np.ndarray, "draw"]:
    """Return the sums of `values` over the sets that relabellings make.

    `part` says over the places of which heads of the set to sum; all by default.
    """
    own = own_heads(members)
    chosen = np.arange(len(own)) if part is None else np.flatnonzero(part)
    summed = members[:, own[chosen]].T.astype(float) @ values  # (own, head): a head's sum in the place of another
    return np.asarray(summed[np.arange(len(chosen)), picks[:, chosen]].sum(axis=1))
