"""Pictures of the report: mosaics of images, and attention drawn over the images that it looked at.

Pictures are small PNGs at the images' own resolution, which the page enlarges without smoothing. Heat uses the inferno
scale, transparent where attention is low. Ours.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from diffmech.artifacts import open_store
from diffmech.attention.store import conditional, open_attention
from diffmech.data.store import open_dataset
from diffmech.mechanisms.captured import AFTER_TEXT, BEFORE_TEXT
from diffmech.report.artifacts import ReportInputs
from diffmech.report.wording import count

LARGEST = 128  # pixels per side of one image; larger ones are reduced
GAP = 1  # pixels between the images of a mosaic
MOST_TOKENS = 16  # pictures of single tokens
QUERY = (0.42, 0.36)  # height and position of the query point whose map is drawn, about where an eye is

# Anchors of matplotlib's inferno, evenly spaced.
INFERNO = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, its size in pixels, what it shows, and the words beneath it."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str
    tiles: int = 1


@dataclass(frozen=True)
class Example:
    """The attention of one head in one phase, drawn over example images of each domain."""

    mechanism: str
    head: str
    kind: str
    timestep: int
    pictures: tuple[Picture, ...]


def picture(pixels: np.ndarray, alt: str, caption: str = "", *, tiles: int = 1) -> Picture:
    """Return uint8 `(y, x, 3 or 4)` pixels, `tiles` images wide, as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, pixels.shape[1], pixels.shape[0], alt, caption, tiles)


def colour_pixels(images: np.ndarray) -> np.ndarray:
    """Return images `(sample, channel, y, x)` in [-1, 1] as uint8 `(sample, y, x, 3)`, at most LARGEST wide."""
    step = max(1, -(-images.shape[-1] // LARGEST))
    small = images[..., ::step, ::step]
    pixels = np.clip(np.rint((np.nan_to_num(small) + 1) * 127.5), 0, 255).astype(np.uint8)
    pixels = np.moveaxis(pixels, 1, -1)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def mosaic(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Return uint8 tiles `(y, x, 3)` in rows of `columns`, with transparent gaps, as `(y, x, 4)`."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def heat(image: np.ndarray, values: np.ndarray, top: float) -> np.ndarray:
    """Draw `values` `(row, column)`, 0 to `top`, over an image `(y, x, 3)`: the higher, the more opaque and bright."""
    height, width = image.shape[:2]
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    share = np.clip(np.nan_to_num(values[np.ix_(rows, columns)]) / max(top, 1e-9), 0, 1)
    position = share * (len(INFERNO) - 1)
    low = np.minimum(position.astype(int), len(INFERNO) - 2)
    colour = INFERNO[low] + (position - low)[..., None] * (INFERNO[low + 1] - INFERNO[low])
    opacity = (0.1 + 0.7 * share)[..., None]
    grey = image.mean(axis=-1, keepdims=True)
    return np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)


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
    """Return a site among its image tokens alone, where others stand beside them; received: relative to the mean."""
    if "key_range" not in node.coords:
        return node
    image = {dim: np.flatnonzero(node[f"{dim}_range"].values == "image") for dim in ("query", "key")}
    part = node.isel(image)
    return part.assign(received=part["received"] / part["received"].mean("key"))


def received_maps(node: xr.Dataset, images: np.ndarray, ids: np.ndarray, domain: str) -> list[Picture]:
    """Return where all queries look on average, and, where maps are kept, where one query point looks."""
    grid = tuple(int(n) for n in node.attrs["grid"])
    received = node["received"].sel(sample=ids).values.astype(np.float32)
    top = float(np.quantile(received, 0.995))
    tiles = [heat(image, values.reshape(grid), top) for image, values in zip(images, received, strict=True)]
    caption = f"{domain}: attention received; brightest = {top:.2g} times uniform"
    text = (
        f"Attention that each place of {count(len(tiles), f'{domain} image')} receives, drawn as heat, up to {top:.2g}"
        " times uniform"
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
        caption = f"{domain}: where the framed point looks; brightest = {top * maps.shape[1]:.2g} times uniform"
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


def mark(tile: np.ndarray, grid: tuple[int, ...], query: int) -> np.ndarray:
    """Frame the query position `query` of `grid` on a tile `(y, x, 3)`."""
    height, width = tile.shape[:2]
    row, column = divmod(query, grid[1])
    top, bottom = row * height // grid[0], max((row + 1) * height // grid[0] - 1, row * height // grid[0])
    left, right = column * width // grid[1], max((column + 1) * width // grid[1] - 1, column * width // grid[1])
    framed = tile.copy()
    top, left = max(0, top - 1), max(0, left - 1)
    bottom, right = min(height - 1, bottom + 1), min(width - 1, right + 1)
    framed[[top, bottom], left : right + 1] = (86, 220, 255)
    framed[top : bottom + 1, [left, right]] = (86, 220, 255)
    return framed
