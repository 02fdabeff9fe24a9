"""Coarse noise that a denoising model takes away again (Kascenas et al. 2022).

White noise on a coarse grid, enlarged to the slice by linear interpolation and shifted at random: lumps about as large
as lesions, brighter or darker than the brain. What a lesion looks like is not put in, and no lesion is needed.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def coarse_noise(shape: Sequence[int], deviation: float, coarseness: int, source: torch.Generator) -> Tensor:
    """Return noise of `shape` (sample, modality, y, x).

    The cells of its grid have sides of `coarseness` pixels, and the values at their centres this standard `deviation`;
    in between it is smaller, down to half of it.
    """
    samples, modalities, height, width = shape
    rows, columns = math.ceil(height / coarseness) + 2, math.ceil(width / coarseness) + 2
    cells = deviation * torch.randn(samples, modalities, rows, columns, generator=source)
    whole = F.interpolate(cells, scale_factor=float(coarseness), mode="bilinear", align_corners=False)
    top, left = torch.randint(coarseness, (2,), generator=source).tolist()
    start = coarseness // 2  # beyond the margin where interpolation has one neighbour only
    return whole[..., start + top : start + top + height, start + left : start + left + width]
