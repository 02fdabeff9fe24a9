"""A VAE whose encoder and decoder are known matrices, of images of one bright row and one bright column."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.config.vae import VaeConfig
from diffmech.data.factors.factor import Factor, spaced
from diffmech.data.factors.grid import GridData
from diffmech.vae import codes, disentanglement
from diffmech.vae.families import ContinuousVae, Vae, build_vae

SIDE = 8
LOG_VARIANCE = -4.0
CPU = RuntimeConfig(device="cpu", progress=False)


class Bars(GridData):
    """Factors are the places of a row and a column, 0 to 7; a linear map of the image reads them."""

    name = "bars"
    image_shape = (1, SIDE, SIDE)
    factors = (
        Factor("row", "ordinal", "bright row", values=spaced(0, 7, 8)),
        Factor("column", "discrete", "bright column", values=spaced(0, 7, 8)),
    )

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        images = np.zeros((len(values), 1, SIDE, SIDE), dtype=np.float32)
        for image, (row, column) in zip(images, values.astype(int), strict=True):
            image[0, row] = image[0, :, column] = 1
        return images


def reading() -> Tensor:
    """Return `(latent, pixel)` of an encoder of three latents: the column, nothing, and minus twice the row.

    The sum of y over bright pixels is 7 times the row + 28, that of x likewise.
    """
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return torch.stack([x.flatten() / 7, torch.zeros(64), -2 * y.flatten() / 7])


def mixing() -> Tensor:
    """Return `(latent, pixel)` of the decoder: one pixel of length 3, four pixels of length 2, and all alike."""
    columns = torch.zeros(3, 64)
    columns[0, 9] = 3.0
    columns[1, :4] = 1.0
    columns[2] = 0.5
    return columns


def linear_vae() -> ContinuousVae:
    network = {"channels": [4], "hidden": 4, "latents": 3, "likelihood": "gaussian"}
    vae = build_vae((1, SIDE, SIDE), VaeConfig.model_validate({"network": network}))
    assert isinstance(vae, ContinuousVae)
    inward, outward = nn.Linear(64, 6), nn.Linear(3, 64)
    with torch.no_grad():
        inward.weight.copy_(torch.cat([reading(), torch.zeros(3, 64)]))
        inward.bias.copy_(torch.tensor([-4.0, 0.5, 8.0, *[LOG_VARIANCE] * 3]))
        outward.weight.copy_(mixing().T)
        outward.bias.fill_(0.25)
    vae.encoder = nn.Sequential(OrderedDict(flat=nn.Flatten(), posterior=inward))
    vae.decoder = nn.Sequential(OrderedDict(hidden=outward, image=nn.Unflatten(1, (1, SIDE, SIDE))))
    return vae.eval().requires_grad_(False)


def encode(vae: Vae, folder: Path, monkeypatch: pytest.MonkeyPatch, *, family: str = "vae", images: int = 400) -> Path:
    """Return the store of the codes of a VAE that is not on disk."""
    for module in (codes, disentanglement):
        monkeypatch.setattr(module, "read_vae", lambda directory, device: vae)
    measures = VaeMeasures(images=images)
    output = folder / "bars" / family / "3" / "codes.zarr.zip"
    codes.encode_images(output.parent, output, data=Bars(), measures=measures, runtime=CPU)
    return output
