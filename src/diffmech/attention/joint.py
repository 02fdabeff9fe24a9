"""Statistics where image tokens stand in one softmax with others, text or extra ones, and the parts are kept apart.

What other attention has is taken over image queries: entropy, received attention, position information and the head's
output over all keys; distance and the spatial masses over image keys, where the distance is
sqrt(sum_ij p_ij |x_i - x_j|^2 / sum_ij p_ij) and masses are absolute shares of the image queries' attention. Beside
them, with m_i the attention of query i to the keys of a part: part_mass = mean_i m_i, and part_entropy =
sum_i m_i H_i / sum_i m_i with H_i the entropy of query i's attention renormalised within the part. Since
m_i H_i = -sum_j p_ij ln p_ij + m_i ln m_i, both are sums over the part. The definitions are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.ranges import TokenRanges, count
from diffmech.attention.sums import Grid, Part, Sums


@dataclass(frozen=True)
class JointStatistics:
    """What only attention with several parts has, in the order of `TokenRanges.parts`.

    part_mass: mean over the part's queries of the attention that goes to the part's keys.
    part_entropy: mass-weighted mean entropy of attention renormalised within the part, nats.
    received_from_rest: attention received from queries that are not the image's, times uniform; None where there are
    none.
    """

    part_mass: Float[Tensor, "sample head part"]
    part_entropy: Float[Tensor, "sample head part"]
    received_from_rest: Float[Tensor, "sample head key"] | None


def joint_parts(ranges: TokenRanges, grid: Grid) -> list[Part]:
    """Return the parts in the order of `TokenRanges.parts`; only image to image is laid out on `grid`."""
    asking = [tokens for tokens in (ranges.of_image("query"), ranges.of_rest("query")) if count(tokens)]
    image, rest = ranges.of_image("key"), ranges.of_rest("key")
    (_, *others) = [Part(query, key) for query in asking for key in (image, rest)]
    return [Part(asking[0], image, grid), *others]


def joint_statistics(sums: Sequence[Sums], parts: Sequence[Part], keys: int) -> JointStatistics:
    """Return what only attention with several parts has from the sums of all `parts`."""
    queries = [count(part.query) for part in parts]
    masses = [part.received.sum(-1) for part in sums]
    mass = torch.stack(masses, -1)
    entropy = torch.stack([part.entropy + part.log_mass for part in sums if part.log_mass is not None], -1)
    tiny = torch.finfo(mass.dtype).tiny
    return JointStatistics(
        # One by one: to bring a tensor of the numbers of queries to a GPU would wait for all that it has to do.
        part_mass=torch.stack([each / number for each, number in zip(masses, queries, strict=True)], -1),
        part_entropy=(entropy / mass.clamp_min(tiny)).clamp_min(0),
        received_from_rest=joined_received(sums[2:], parts[2:], keys) * keys / queries[2] if parts[2:] else None,
    )


def joined_received(sums: Sequence[Sums], parts: Sequence[Part], keys: int) -> Float[Tensor, "sample head key"]:
    """Return sum_i p_ij over all keys, from the parts of the same queries."""
    received = sums[0].received.new_zeros(*sums[0].received.shape[:2], keys)
    for part, found in zip(parts, sums, strict=True):
        received[..., part.key] = found.received
    return received
