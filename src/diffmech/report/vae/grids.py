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
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.words import vae_words
from diffmech.report.wording import count, listed, number

TILE = 58  # CSS pixels of one image
MOST_LATENTS = 12  # that are shown of one VAE, the strongest
MOST_EXAMPLES = 9
ALSO = 0.5  # of the largest effect on a latent, from which on another factor is named, too
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


def traversals(store: Any, tables: Tables, family: str, vae: VaeStudy) -> list[Picture]:
    """Return one row per active latent of the first seed of a family, the strongest first, with what moves it.

    None for a VQ-VAE and where no latent is active.
    """
    pictures = store["pictures"].to_dataset() if "pictures" in store.children else {}
    latents = _of(tables.latents, family, vae)
    if "traversal" not in pictures or latents.empty:
        return []
    images = np.asarray(pictures["traversal"].values)
    effects = _of(tables.effects, family, vae)
    shown = latents[latents["active"]].sort_values("calibrated", ascending=False)[:MOST_LATENTS]
    span = number(vae.measures.span, 2)
    rows = []
    for latent in shown["latent"].astype(int):
        movers = factors_of(effects[effects["latent"] == latent])
        named = f"latent {latent}: {', '.join(movers)}" if movers else f"latent {latent}"
        words = f"{named}; {len(images[latent])} images decoded with this latent alone from −{span} to +{span} sd"
        rows.append(row(images[latent], words, named))
    return rows


def factors_of(effects: pd.DataFrame) -> list[str]:
    """Return the factors that move one latent, from their effects on it: the strongest, and others that come near."""
    if effects.empty:
        return []
    strong = effects[effects["change"] >= ALSO * effects["change"].max()]
    return [str(factor) for factor in strong.sort_values("change", ascending=False)["factor"]]


def _of(table: pd.DataFrame, family: str, vae: VaeStudy) -> pd.DataFrame:
    return table[(table["family"] == family) & (table["vae_seed"] == vae.seeds[0])]


def traversal_parts(stores: dict[str, Any], tables: Tables, vae: VaeStudy) -> Iterator[Markup]:
    """Yield the grid of each family, with what is not shown."""
    for family, store in stores.items():
        own = _of(tables.latents, family, vae)
        rows = traversals(store, tables, family, vae)
        yield markup.heading(vae_words(family, vae.seeds[0]))
        if not rows:
            yield markup.paragraph("No latent to traverse: a grid of codes, or none is active.", "quiet")
            continue
        yield markup.gallery(rows, TILE)
        silent = own[~own["active"]]["latent"].astype(str).tolist()
        left = int(own["active"].sum()) - len(rows)
        which = "latent" if len(silent) == 1 else "latents"
        notes = [f"Not active, and not shown: {which} {listed(silent)}."] if silent else []
        notes += [f"Not shown: {count(left, 'weaker active latent')}."] if left > 0 else []
        if notes:
            yield markup.paragraph(" ".join(notes), "quiet")


def reconstructions(stores: dict[str, Any], vae: VaeStudy) -> list[Picture]:
    """Return a row of images sampled anew, and below it their reconstruction by each family."""
    rows: list[Picture] = []
    before: np.ndarray | None = None
    for family, store in stores.items():
        if "pictures" not in store.children:
            continue
        pictures = store["pictures"].to_dataset()
        original = np.asarray(pictures["original"].values)[:MOST_EXAMPLES]
        if before is None or not np.array_equal(before, original):
            rows.append(row(original, f"{len(original)} images sampled anew", "original"))
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
