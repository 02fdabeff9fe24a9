"""Sheets of generated faces to look at, and what the judge that came with the weights sees in them.

    python benchmarks/judge_by_eye.py sheets    # writes numbered images, and tells nobody what they were told
    python benchmarks/judge_by_eye.py verdicts  # prints, image by image, what was told and what the judge sees

Each of glasses, hat, beard and smile is told with and without each of the others equally often, in random order, so
that nothing but the image says what it was told; all other attributes are drawn. Images are numbered from 0, row by
row.
"""

import argparse
import os
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffmech.config.analysis import RuntimeConfig
from diffmech.judging.judge import JUDGE, read_judge
from diffmech.models.denoiser import Condition
from diffmech.models.load import load_layout
from diffmech.models.sampling import drawn_condition, sample_images
from diffmech.models.storage import find_layout
from diffmech.randomness import generator
from diffmech.report.pictures import colour_pixels

FACES = Path(__file__).parents[1] / "resources" / "models" / "faces"
ATTRIBUTES = ("glasses", "hat", "beard", "smile")
COLUMNS, ROWS, SIDE, LABEL = 4, 3, 240, 20  # of one sheet: images, pixels of each, pixels of the line of its number


def sampled(repeats: int, seed: int, steps: int, guidance: float) -> tuple[np.ndarray, Tensor]:
    """Return what each image was told, `(image, attribute)` booleans, and the images `(image, channel, y, x)`."""
    denoiser = load_layout(find_layout(FACES), device="cpu")
    told = np.array(list(product([False, True], repeat=len(ATTRIBUTES))) * repeats)
    told = told[generator(seed, "order of images to look at").permutation(len(told))]
    drawn = drawn_condition(denoiser, len(told), seed)
    values = drawn.values.clone()
    values[:, [denoiser.attributes.index(name) for name in ATTRIBUTES]] = torch.from_numpy(told).float()
    runtime = RuntimeConfig(device="cpu", progress=False)
    condition = Condition(drawn.domain, values)
    images = sample_images(denoiser, condition, steps=steps, guidance=guidance, seed=seed, runtime=runtime)
    return told, images.clamp(-1, 1)


def write_sheets(images: Tensor, folder: Path) -> None:
    """Write the images, enlarged and numbered, as sheets of COLUMNS x ROWS."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = colour_pixels(images.numpy())
    for first in range(0, len(pixels), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + LABEL)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, tile in enumerate(pixels[first : first + COLUMNS * ROWS]):
            left, top = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + LABEL)
            sheet.paste(Image.fromarray(tile).resize((SIDE - 4, SIDE - 4), Image.Resampling.BICUBIC), (left, top))
            draw.text((left + 4, top + SIDE), str(first + place), fill="black")
        path = folder / f"images_{first:03d}.png"
        sheet.save(path)
        print(path)


def print_verdicts(told: np.ndarray, images: Tensor) -> None:
    """Print a table: the number of an image, and of each attribute whether it was told and whether it is seen."""
    judge = read_judge(FACES / JUDGE, device="cpu")
    seen = judge.recognises(images)[:, [judge.attributes.index(name) for name in ATTRIBUTES]]
    print("image", *(f"{name}_{what}" for name in ATTRIBUTES for what in ("told", "seen")), sep=",")
    for number, (asked, found) in enumerate(zip(told.astype(int), seen.astype(int), strict=True)):
        print(number, *np.stack([asked, found], axis=1).ravel(), sep=",")


def main() -> None:
    """Write the sheets or print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sheets", "verdicts"])
    parser.add_argument("--folder", type=Path, default=Path("judge_by_eye"))
    parser.add_argument("--repeats", type=int, default=3, help="images of each of the 16 ways of asking")
    parser.add_argument("--seed", type=int, default=300)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=3.0)
    arguments = parser.parse_args()
    told, images = sampled(arguments.repeats, arguments.seed, arguments.steps, arguments.guidance)
    if arguments.what == "sheets":
        write_sheets(images, arguments.folder)
    else:
        print_verdicts(told, images)


if __name__ == "__main__":
    main()
