"""Statistics of joint attention, where tokens of image and text stand in one softmax and the parts are kept apart.

What other attention has is taken over image queries: entropy, received attention, position information and the head's
output over all keys; distance and the spatial masses over image keys, where the distance is
sqrt(sum_ij p_ij |x_i - x_j|^2 / sum_ij p_ij) and masses are absolute shares of the image queries' attention. Beside
them, with m_i the attention of query i to the keys of a part: part_mass = mean_i m_i, and part_entropy =
sum_i m_i H_i / sum_i m_i with H_i the entropy of query i's attention renormalised within the part. Since
m_i H_i = -sum_j p_ij ln p_ij + m_i ln m_i, both come from sums over the part and from the log-sum-exp over its keys
alone. The definitions are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmech.attention.kernels import logsumexp_scores, same_kernel_with_lse
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sums import Grid, Part, Sums

# Below this mean mass, errors of 1e-5 in the mass of the other keys would show in the fourth digit of the entropy.
LEAST_REST = 0.3


@dataclass(frozen=True)
class JointStatistics:
    """What only joint attention has, in the order of `ranges.PARTS`.

    part_mass: (sample, head, part), mean over the part's queries of the attention that goes to the part's keys.
    part_entropy: (sample, head, part), mass-weighted mean entropy of attention renormalised within the part, nats.
    received_from_text: (sample, head, key), attention received from text queries, times uniform.
    """

    part_mass: Tensor
    part_entropy: Tensor
    received_from_text: Tensor


def joint_parts(ranges: TokenRanges, grid: Grid) -> list[Part]:
    """Return the four parts in the order of `ranges.PARTS`; only image to image is laid out on `grid`."""
    image, text = slice(*ranges.image), slice(*ranges.text)
    return [Part(image, image, grid), Part(image, text), Part(text, image), Part(text, text)]


def mass_entropies(query: Tensor, key: Tensor, scale: float, lse: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    """Return sum_i m_i ln m_i (sample, head) of the four `parts`, from the log-sum-exp over a part's keys alone.

    Most of the work would be image to image, whose mass is one less that to text. This difference is taken where it
    has all its digits, that is where images attend to images; not on a GPU, which a look at the masses would stall.
    """

    def log_mass(part: Part) -> Tensor:
        rows, within = query[:, :, part.query], key[:, :, part.key]
        fused = same_kernel_with_lse(rows, within, within, scale)
        found = logsumexp_scores(rows, within, scale) if fused is None else fused[1]
        return found.to(lse.dtype) - lse[:, :, part.query]

    within_image, *others = parts
    logs = [log_mass(part) for part in others]
    rest = (-torch.expm1(logs[0])).clamp_min(torch.finfo(lse.dtype).tiny)
    told = lse.device.type == "cpu" and bool((rest.mean(-1) > LEAST_REST).all())
    logs.insert(0, rest.log() if told else log_mass(within_image))
    return [(found.exp() * found).sum(-1) for found in logs]


def joint_statistics(
    sums: Sequence[Sums], masses: Sequence[Tensor], parts: Sequence[Part], keys: int
) -> JointStatistics:
    """Return what only joint attention has; `masses` are the sums of m_i ln m_i of the four `parts`."""
    queries = [part.query.stop - part.query.start for part in parts]
    mass = torch.stack([part.received.sum(-1) for part in sums], -1)
    entropy = torch.stack([part.entropy + extra for part, extra in zip(sums, masses, strict=True)], -1)
    tiny = torch.finfo(mass.dtype).tiny
    return JointStatistics(
        part_mass=mass / mass.new_tensor(queries),
        part_entropy=(entropy / mass.clamp_min(tiny)).clamp_min(0),
        received_from_text=joined_received(sums[2:], parts[2:], keys) * keys / queries[2],
    )


def joined_received(sums: Sequence[Sums], parts: Sequence[Part], keys: int) -> Tensor:
    """Return sum_i p_ij (sample, head, key) over all keys, from the parts of the same queries."""
    received = sums[0].received.new_zeros(*sums[0].received.shape[:2], keys)
    for part, found in zip(parts, sums, strict=True):
        received[..., part.key] = found.received
    return received
