"""Features of an image that need no model of what it shows: its moments. Ours.

Brightness is the mean of all values. The others are moments of where brightness is (Hu 1962): its centre along x and
y, and its spread, the root mean square distance from the centre, all in units of the height and width, 0 to 1. Colours
are averaged.
"""

import torch
from torch import Tensor

FEATURES = ("brightness", "centre_x", "centre_y", "spread")
DARK = 1e-8  # mean brightness below which an image has no centre: that of the frame is taken


def features(images: Tensor) -> Tensor:
    """Return the `FEATURES` `(sample, feature)`, float64, of images `(sample, channel, y, x)` in [0, 1]."""
    grey = images.double().mean(1)
    height, width = grey.shape[1:]
    y = ((torch.arange(height, device=grey.device) + 0.5) / height).double()
    x = ((torch.arange(width, device=grey.device) + 0.5) / width).double()
    brightness = grey.mean((1, 2))
    shares = grey + DARK
    shares = shares / shares.sum((1, 2), keepdim=True)
    centre_x, centre_y = (shares.sum(1) * x).sum(1), (shares.sum(2) * y).sum(1)
    squares = (x - centre_x[:, None]).square()[:, None, :] + (y - centre_y[:, None]).square()[:, :, None]
    spread = (shares * squares).sum((1, 2)).sqrt()
    return torch.stack([brightness, centre_x, centre_y, spread], dim=1)
