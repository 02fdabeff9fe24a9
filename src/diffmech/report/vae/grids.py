"""Pictures of what VAEs decode: traversals of single latents, reconstructions, swapped codes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from diffmech.artifacts import open_store
from diffmech.config.studies.vae import VaeStudy
from diffmech.report import markup
from diffmech.report.pictures import LARGEST, Picture, mosaic, picture
from diffmech.report.vae.words import vae_words
from diffmech.report.wording import count, listed, number

TILE = 58  # CSS pixels of one image
MOST_LATENTS = 12  # that are shown of one VAE, the strongest
MOST_EXAMPLES = 9
SWAPPED = {
    "neighbour": "nearest code in one place",
    "random": "any other code in one place",
    "shift": "shifted by one sd before the code is chosen",
}


def first_stores(paths: Sequence[Path], vae: VaeStudy) -> dict[str, Any]:
    """Return the open store of codes of the first seed of each family, by family."""
    stores = [open_store(path) for path in paths]
    return {str(s.attrs["family"]): s for s in stores if int(s.attrs["vae_seed"]) == vae.seeds[0]}


def tiles(images: np.ndarray) -> list[np.ndarray]:
    """Return images uint8 `(image, y, x, channel)` as tiles of three channels, at most LARGEST wide."""
    step = max(1, -(-images.shape[-2] // LARGEST))
    small = images[:, ::step, ::step]
    return list(np.repeat(small, 3, axis=-1) if small.shape[-1] == 1 else small[..., :3])


def row(images: np.ndarray, alt: str, caption: str) -> Picture:
    """Return one row of images with its words."""
    own = tiles(images)
    return picture(mosaic(own, len(own)), alt, caption, tiles=len(own))


def traversals(store: Any, latents: pd.DataFrame, vae: VaeStudy) -> list[Picture]:
    """Return one row per active latent of a VAE, the strongest first, named by the factor that moves it most.

    `latents` are the rows of this VAE; none for a VQ-VAE and where no traversal is kept.
    """
    pictures = store["pictures"].to_dataset() if "pictures" in store.children else {}
    if "traversal" not in pictures or latents.empty:
        return []
    images = np.asarray(pictures["traversal"].values)
    shown = latents[latents["active"].astype(bool)].sort_values("calibrated", ascending=False)[:MOST_LATENTS]
    rows = []
    for own in shown.to_dict("records"):
        latent, factor = int(own["latent"]), own["factor"]
        named = f"latent {latent}: {factor}" if isinstance(factor, str) and factor else f"latent {latent}"
        span = number(vae.measures.span, 2)
        words = f"{named}; {len(images[latent])} images decoded with this latent alone from −{span} to +{span} sd"
        rows.append(row(images[latent], words, named))
    return rows


def traversal_parts(stores: dict[str, Any], latents: pd.DataFrame, vae: VaeStudy) -> Iterator[Markup]:
    """Yield the grid of each family, with what is not shown."""
    for family, store in stores.items():
        own = latents[(latents["family"] == family) & (latents["vae_seed"] == vae.seeds[0])]
        rows = traversals(store, own, vae)
        yield markup.heading(vae_words(family, vae.seeds[0]))
        if not rows:
            yield markup.paragraph("No latent to traverse: a grid of codes, or none is active.", "quiet")
            continue
        yield markup.gallery(rows, TILE)
        silent = own[~own["active"]]["latent"].astype(str).tolist()
        left = int(own["active"].sum()) - len(rows)
        notes = (
            [f"Not active, and not shown: {'latent' if len(silent) == 1 else 'latents'} {listed(silent)}."]
            if silent
            else []
        )
        notes += [f"{count(left, 'weaker active latent')} not shown."] if left > 0 else []
        if notes:
            yield markup.paragraph(" ".join(notes), "quiet")


def reconstructions(stores: dict[str, Any], vae: VaeStudy) -> list[Picture]:
    """Return a row of images not trained on, and below it their reconstruction by each family."""
    rows: list[Picture] = []
    before: np.ndarray | None = None
    for family, store in stores.items():
        if "pictures" not in store.children:
            continue
        pictures = store["pictures"].to_dataset()
        original = np.asarray(pictures["original"].values)[:MOST_EXAMPLES]
        if before is None or not np.array_equal(before, original):
            rows.append(row(original, f"{len(original)} images that no VAE was trained on", "original"))
            before = original
        decoded = np.asarray(pictures["reconstruction"].values)[:MOST_EXAMPLES]
        name = vae_words(family, vae.seeds[0])
        rows.append(row(decoded, f"The same {len(decoded)} images reconstructed by {name}", name))
    return rows


def swapped_parts(stores: dict[str, Any], vae: VaeStudy) -> Iterator[Markup]:
    """Yield, for each VQ-VAE, its reconstructions and the same with one code swapped."""
    for family, store in stores.items():
        pictures = store["pictures"].to_dataset() if "pictures" in store.children else {}
        if "swapped" not in pictures:
            continue
        rows = [
            row(np.asarray(pictures["reconstruction"].values)[:MOST_EXAMPLES], "Reconstructions", "nothing swapped")
        ]
        kinds = [str(kind) for kind in pictures["swap"].values]
        for kind, images in zip(kinds, np.asarray(pictures["swapped"].values), strict=True):
            words = SWAPPED.get(kind, kind)
            rows.append(row(images[:MOST_EXAMPLES], f"The same images with {words}", words))
        yield markup.heading(vae_words(family, vae.seeds[0]))
        yield markup.gallery(rows, TILE)
