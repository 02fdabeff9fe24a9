"""Pictures of the studied images, of generated ones, and of attention over the images that it looked at. Ours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import open_store
from diffmech.attention.store import conditional, open_attention
from diffmech.data.store import open_dataset
from diffmech.mechanisms.captured import AFTER_TEXT, BEFORE_TEXT
from diffmech.report.heads.artifacts import ReportInputs
from diffmech.report.pictures import Picture, colour_pixels, heat, mark, mosaic, picture
from diffmech.report.wording import count

MOST_TOKENS = 16  # pictures of single tokens
QUERY = (0.42, 0.36)  # height and position of the query point whose map is drawn, about where an eye is


@dataclass(frozen=True)
class Example:
    """The attention of one head in one phase, drawn over example images of each domain."""

    mechanism: str
    head: str
    kind: str
    timestep: int
    pictures: tuple[Picture, ...]


def domain_mosaics(inputs: ReportInputs, images: int) -> dict[str, Picture]:
    """Return the first images of each domain, as prepared for the denoiser."""
    pictures = {}
    for domain, path in inputs.datasets.items():
        dataset = open_dataset(path)  # type: ignore[arg-type]
        ids = dataset.ids[:images]
        tiles = list(colour_pixels(dataset.images(ids)))
        first = count(len(ids), f"{domain} image")
        text = f"The first {first} of data set {dataset.attrs['dataset']}, as prepared for the denoiser"
        pictures[domain] = picture(mosaic(tiles, min(6, len(tiles))), text)
    return pictures


def gallery_rows(path: str) -> list[Picture]:
    """Return one picture per row of the gallery of generated images."""
    data = open_store(path).dataset
    rows = []
    for index, label in enumerate(data["row"].values):
        images = data["image"].isel(row=index).values
        values = images / 127.5 - 1 if images.dtype == np.uint8 else images
        tiles = list(colour_pixels(values.astype(np.float32)))
        text = f"{count(len(tiles), 'generated image')}: {label}"
        rows.append(picture(mosaic(tiles, len(tiles)), text, str(label), tiles=len(tiles)))
    return rows


def mechanism_examples(inputs: ReportInputs, mechanisms: pd.DataFrame, examples: int) -> list[Example]:
    """Return, for the strongest head of each mechanism, its attention over the first images of each domain."""
    trees = {domain: conditional(open_attention(paths)) for domain, paths in inputs.attention.items()}
    sets = {domain: open_dataset(path) for domain, path in inputs.datasets.items()}  # type: ignore[arg-type]
    found = []
    for _, rows in mechanisms.groupby("mechanism", sort=True):
        row = strongest(rows)
        site, head = str(row["site"]), str(row["head"])
        pictures: list[Picture] = []
        timestep = 0
        for domain, tree in trees.items():
            if site not in tree.children:
                continue
            node = tree.children[site].to_dataset(inherit=True).sel(head=head)
            steps = node["timestep"].values
            timestep = int(steps[np.abs(steps - (row["phase_first"] + row["phase_last"]) / 2).argmin()])
            node = node.sel(timestep=timestep)
            ids = node["sample"].values[:examples]
            images = colour_pixels(sets[domain].images(ids))
            if str(row["kind"]) != "cross":
                pictures += received_maps(among_image(node), images, ids, domain)
            if str(row["kind"]) == "cross" or "key_range" in node.coords:
                pictures += token_maps(node, images, ids, domain)
        if pictures:
            found.append(Example(str(row["mechanism"]), head, str(row["kind"]), timestep, tuple(pictures)))
    return found


def strongest(rows: pd.DataFrame) -> Any:
    """Return the row of one mechanism with the highest enrichment, of those that confirm its name where any does."""
    by = ["confirmed", "enrichment_of_head", "head"]
    return rows.sort_values(by, ascending=[False, False, True], na_position="last").iloc[0]


def among_image(node: xr.Dataset) -> xr.Dataset:
    """Return a site at its image tokens alone, where others stand beside them; values stay those among all keys."""
    if "key_range" not in node.coords:
        return node
    image = {dim: np.flatnonzero(node[f"{dim}_range"].values == "image") for dim in ("query", "key")}
    return node.isel(image)


def received_maps(node: xr.Dataset, images: np.ndarray, ids: np.ndarray, domain: str) -> list[Picture]:
    """Return where all queries look on average, and, where maps are kept, where one query point looks.

    Both in units of uniform attention over all keys of the site, those that stand beside the image too.
    """
    grid, keys = tuple(int(n) for n in node.attrs["grid"]), int(node.attrs["n_keys"])
    uniform = "times uniform" if keys == node.sizes["key"] else f"times uniform over all {keys} keys"
    received = node["received"].sel(sample=ids).values.astype(np.float32)
    top = float(np.quantile(received, 0.995))
    tiles = [heat(image, values.reshape(grid), top) for image, values in zip(images, received, strict=True)]
    caption = f"{domain}: attention received; brightest = {top:.2g} {uniform}"
    text = (
        f"Attention that each place of {count(len(tiles), f'{domain} image')} receives, drawn as heat, up to {top:.2g}"
        f" {uniform}"
    )
    pictures = [picture(mosaic(tiles, len(tiles)), text, caption, tiles=len(tiles))]
    kept = [sample for sample in ids if "maps" in node and sample in node["kept_sample"].values]
    query = int(np.hypot(node["query_y"].values - QUERY[0], node["query_x"].values - QUERY[1]).argmin())
    maps = node["maps"].sel(kept_sample=kept).isel(query=query).values.astype(np.float32) if kept else np.empty(0)
    if kept and np.isfinite(maps).all():  # NaN where none were kept of this timestep
        top = float(np.quantile(maps, 0.998))
        tiles = [
            mark(heat(image, values.reshape(grid), top), grid, query)
            for image, values in zip(images[: len(kept)], maps, strict=True)
        ]
        caption = f"{domain}: where the framed point looks; brightest = {top * keys:.2g} {uniform}"
        text = f"Attention of one framed query point in {count(len(tiles), f'{domain} image')}, drawn as heat"
        pictures.append(picture(mosaic(tiles, len(tiles)), text, caption, tiles=len(tiles)))
    return pictures


def token_maps(node: xr.Dataset, images: np.ndarray, ids: np.ndarray, domain: str) -> list[Picture]:
    """Return, for the first image whose maps are kept, one map per token: which places read that token."""
    if "maps" not in node or not len(node["kept_sample"]):
        return []
    sample = int(node["kept_sample"].values[0])
    if sample not in ids:
        return []
    grid = tuple(int(n) for n in node.attrs["grid"])
    maps = node["maps"].sel(kept_sample=sample)
    if "query_range" in node.coords:
        maps = maps.isel(query=np.flatnonzero(node["query_range"].values == "image"))
    keys = token_keys(node, sample)
    values = maps.values.astype(np.float32)
    image = images[list(ids).index(sample)]
    top = float(np.quantile(values[:, list(keys)], 0.995))
    pictures = []
    for index, name in keys.items():
        tile = heat(image, values[:, index].reshape(grid), top)
        share = float(values[:, index].mean()) * values.shape[1]
        text = (
            f"How strongly each place of a {domain} image reads the token {name}; on average {share:.2g} times uniform"
        )
        pictures.append(picture(tile, text, f"{domain}, {name} {share:.2f}×"))
    return pictures


def token_keys(node: xr.Dataset, sample: int) -> dict[int, str]:
    """Return the keys worth a picture with their names: every token, of a prompt those up to its end."""
    if "token" not in node.coords:
        beside = "key_range" in node.coords
        unnamed = np.flatnonzero(node["key_range"].values != "image") if beside else np.arange(node.sizes["key"])
        return {int(index): f"token {number}" for number, index in enumerate(unnamed[:MOST_TOKENS])}
    token = node["token"]
    names = [str(name) for name in (token.sel(sample=sample) if "sample" in token.dims else token).values]
    if "sample" not in token.dims:
        return {index: name for index, name in enumerate(names) if name}
    text = [index for index, name in enumerate(names) if name]
    end = next((position for position, index in enumerate(text) if names[index] in AFTER_TEXT), len(text))
    return {index: spoken_token(names[index]) for index in text[: min(end + 1, MOST_TOKENS)]}


def spoken_token(token: str) -> str:
    """Return how a token is written below a picture: the marks around a text by what they mean."""
    return "(start)" if token in BEFORE_TEXT else "(end)" if token in AFTER_TEXT else token
