"""What takes the place of shifts where the latent is a grid of codes: another code at one place. Ours.

Three things are done at one place of the grid, all else left as it is:

- `neighbour`: the code becomes the nearest other one of the codebook (Euclidean), the smallest change there is;
- `random`: it becomes any other code;
- `shift`: what the encoder gives there, before a code is chosen, moves by one standard deviation (over images and
  places) in one of its numbers, and a code is chosen anew.

The last shows why effect strength is not defined here, and why it reads near zero where it is computed all the same
(arXiv 2505.03530, v3): the nearest code is often the same again, and then nothing changes at all, however far the
decoder would carry another code. `kept` is how often. What is left is a swap of a code by one that happens to be near.

The effect on an image is the root mean squared change of its pixels, mean over the places tried. `local` is the share
of the squared change within the block of pixels that a place stands over: image sides over grid sides, 1 / places of
the image by chance. What lies beyond lies within `reach`, where the decoder's convolutions can carry a code to: a
transposed convolution of 4 with stride 2 and padding 1 makes rows 2a - 1 to 2b + 2 of rows a to b.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.config.studies.vae import VaeMeasures
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.vae.families import GridVae
from diffmech.vae.tables import SWAPS

KINDS = ("neighbour", "random", "shift")
PLACES = 16  # of the grid that are tried in each image
UNDEFINED = "effect of a shift is undefined: the same code is chosen again at {kept:.0%} of places, and nothing changes"


@torch.no_grad()
def swap_effects(
    vae: GridVae, images: np.ndarray, *, seed: int, examples: int = 8, batch_size: int = 16
) -> dict[str, np.ndarray]:
    """Return what swapping codes does to images `(image, channel, y, x)`, by `KINDS`.

    `per_pixel`, `local` and `kept` are `(swap, image)`, `local` NaN where an image does not change; `swapped` uint8
    `(swap, example, y, x, channel)` shows the first images with one code swapped, where that changes them most. Places,
    codes and numbers are drawn by `seed`.
    """
    device = next(vae.parameters()).device
    parts = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).split(batch_size)
    encoded = torch.cat([vae.encoder(part.to(device)).float() for part in parts])
    chosen = vae.codebook.choose(encoded)
    places = _drawn_places(len(images), chosen[0].numel(), generator(seed, "places of codes"))
    rows, columns = (torch.from_numpy(each).to(device) for each in np.divmod(places, chosen.shape[2]))
    image = torch.arange(len(images), device=device)[:, None]
    new = _new_codes(vae, encoded, encoded[image, :, rows, columns], generator(seed, "codes in their place"))
    old = chosen[image, rows, columns]
    found = [
        _effects(vae, chosen[part], rows[part], columns[part], codes[part])
        for codes in new
        for part in torch.arange(len(images), device=device).split(batch_size)
    ]
    effect, local, pictures = (
        torch.cat(each).unflatten(0, (len(KINDS), len(images))) for each in zip(*found, strict=True)
    )
    shown = pictures[:, :examples].movedim(2, -1).clamp(0, 1) * 255
    return {
        "per_pixel": effect.cpu().numpy(),
        "local": local.cpu().numpy(),
        "kept": (new == old).double().mean(2).cpu().numpy(),
        "swapped": shown.round().to(torch.uint8).cpu().numpy(),
    }


def nearest_others(codes: Tensor) -> Tensor:
    """Return the number `(code,)` of the nearest other code of each of `codes` `(code, code_size)`."""
    distance = torch.cdist(codes.double(), codes.double())
    return distance.fill_diagonal_(float("inf")).argmin(1)


def block(vae: GridVae, row: int, column: int) -> tuple[slice, slice]:
    """Return the rows and columns of pixels that a place of the grid stands over."""
    (height, width), (_, rows, columns) = vae.grid, vae.image_shape
    tall, wide = rows // height, columns // width
    return slice(row * tall, (row + 1) * tall), slice(column * wide, (column + 1) * wide)


def reach(vae: GridVae, row: int, column: int) -> tuple[slice, slice]:
    """Return the rows and columns of pixels that a code at a place of the grid can change at all."""
    halvings = len(vae.config.network.channels)
    sides = []
    for place, size in zip((row, column), vae.image_shape[1:], strict=True):
        first, last = place, place
        for _ in range(halvings):
            first, last = 2 * first - 1, 2 * last + 2
        sides.append(slice(max(first, 0), min(last + 1, size)))
    return sides[0], sides[1]


def swaps_table(codes: Sequence[Path], output: Path, *, measures: VaeMeasures) -> None:
    """Write SWAPS from the stores of codes of all VAEs of a data set; rows for VQ-VAEs alone."""
    from diffmech.vae.stores import group

    rows: list[dict[str, Any]] = []
    for path in codes:
        told = group(path).attrs
        if told["continuous"]:
            continue
        swaps = group(path, "swaps")
        for kind in KINDS:
            effect, local, kept = (swaps[name].sel(swap=kind).values for name in ("per_pixel", "local", "kept"))
            interval = bootstrap_mean(effect, draws=measures.draws, confidence=measures.confidence, seed=measures.seed)
            changed = local[~np.isnan(local)]
            rows.append(
                {
                    "family": told["family"],
                    "vae_seed": told["vae_seed"],
                    "swap": kind,
                    "per_pixel": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "local": float(changed.mean()) if changed.size else np.nan,
                    "note": UNDEFINED.format(kept=float(kept.mean())) if kind == "shift" else "",
                }
            )
    SWAPS.write(output, SWAPS.frame(rows))


def _drawn_places(images: int, places: int, source: np.random.Generator) -> np.ndarray:
    """Return which places of the grid are tried in each image, `(image, place)`, each once."""
    return source.permuted(np.tile(np.arange(places), (images, 1)), axis=1)[:, :PLACES]


def _new_codes(vae: GridVae, encoded: Tensor, there: Tensor, source: np.random.Generator) -> Tensor:
    """Return the numbers `(swap, image, place)` of the codes put in place of those `there`.

    `encoded` `(image, code_size, y, x)` is what codes are chosen for, and `there` `(image, place, code_size)` what of
    it is at the places tried.
    """
    codes = len(vae.codebook.codes)
    old = _choose(vae, there)
    further = torch.from_numpy(source.integers(1, codes, size=old.shape)).to(old)
    number = torch.from_numpy(source.integers(there.shape[2], size=(*old.shape, 1))).to(old)
    spread = encoded.std((0, 2, 3), correction=0)
    moved = there.scatter_add(2, number, spread[number])
    return torch.stack([nearest_others(vae.codebook.codes)[old], (old + further) % codes, _choose(vae, moved)])


def _choose(vae: GridVae, there: Tensor) -> Tensor:
    return vae.codebook.choose(there.movedim(2, 1)[..., None])[..., 0]


def _effects(vae: GridVae, chosen: Tensor, rows: Tensor, columns: Tensor, new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the effect and its local share, each `(image,)`, of `new` codes at places of these rows and columns, each
    `(image, place)`, and images `(image, channel, y, x)` with the one of them that changes most."""
    images, tried = new.shape
    grids = chosen[:, None].repeat(1, tried, 1, 1)
    image, place = torch.arange(images)[:, None], torch.arange(tried)[None]
    unchanged = grids[image, place, rows, columns] == new
    grids[image, place, rows, columns] = new
    decoded = vae.decode(grids.flatten(0, 1)).unflatten(0, (images, tried))
    squares = (decoded - vae.decode(chosen)[:, None]).double().square().mean(2)
    squares[unchanged] = 0  # the same codes are the same image, and rounding depends on the size of a batch
    blocks = torch.stack(
        [squares[i, j][block(vae, int(rows[i, j]), int(columns[i, j]))].sum() for i, j in np.ndindex(images, tried)]
    )
    inside, total = blocks.unflatten(0, (images, tried)).sum(1), squares.sum((1, 2, 3))
    local = torch.where(total > 0, inside / torch.where(total > 0, total, 1), torch.nan)
    effect = squares.mean((2, 3)).sqrt()
    return effect.mean(1), local, decoded[torch.arange(images), effect.argmax(1)]
