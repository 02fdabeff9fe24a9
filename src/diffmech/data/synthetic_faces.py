"""Drawn faces with known causes: eleven attributes, and the share of every pixel that each part of the face covers.

Ours. Attributes and identity are drawn independently of each other and keyed by the sample id, so that any dependence
found in a model was put there by the model, and a set can grow without changing its first faces.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import pandas as pd

from diffmech.data.face_dress import back_hair_layer, background_layers, front_hair_layer, glasses_layers, hat_layers
from diffmech.data.face_parts import (
    HAIR,
    IDENTITY,
    PARTS,
    SKIN,
    Heads,
    Layer,
    beard_layer,
    brow_layer,
    colours,
    column,
    ear_layer,
    eye_layers,
    head_distance,
    mouth_layers,
    nose_layers,
    place_heads,
    skin_layers,
    skin_shade,
)
from diffmech.data.face_shapes import cover
from diffmech.errors import ConfigError, DataError
from diffmech.randomness import generator

BLOCK = 256  # sample ids that share one generator of attributes; changing it changes every data set
CHUNK = 32  # images drawn at once: their arrays stay in the cache of one core
NOISE = 0.008  # standard deviation of the grain of the camera, in units of the full range
SMILE_GAP = (0.35, 0.65)  # no mouth is neither smiling nor frowning, so that the label `smile > 0.5` can be seen


@dataclass(frozen=True)
class Attribute:
    """One cause of a face, in [0, 1]: `low` says what 0 looks like and `high` what 1 looks like."""

    name: str
    kind: Literal["binary", "continuous"]
    description: str
    low: str
    high: str


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("skin", "continuous", "lightness of the skin", "dark", "light"),
    Attribute("hair_colour", "continuous", "colour of hair, brows and beard", "black", "blond"),
    Attribute("hair_length", "continuous", "length of the hair", "bald", "to the shoulders"),
    Attribute("eye_size", "continuous", "opening of the eyes", "almost closed", "wide open"),
    Attribute("glasses", "binary", "glasses with dark frames", "none", "worn"),
    Attribute("smile", "continuous", "curve of the mouth", "frown", "smile that shows teeth"),
    Attribute("beard", "binary", "moustache and full beard", "shaven", "bearded"),
    Attribute("hat", "binary", "cap or brimmed hat", "none", "worn"),
    Attribute("pose", "continuous", "turn of the head, 0.5 is frontal", "to the left", "to the right"),
    Attribute("light", "continuous", "side of the lamp, 0.5 is frontal", "from the left", "from the right"),
    Attribute("background", "continuous", "brightness of the wall", "dark", "bright"),
)
NAMES: tuple[str, ...] = tuple(attribute.name for attribute in ATTRIBUTES)


@dataclass(frozen=True)
class FaceImages:
    """Images `(sample, y, x, 3)` in uint8 RGB and part coverage `(sample, part, y, x)` in float32 that sums to 1.

    A pixel on an edge belongs to each part by the share that it covers; so does a lens, which is seen through.
    """

    images: np.ndarray
    masks: np.ndarray


def sample_attributes(
    sample_ids: Sequence[int] | np.ndarray, seed: int, fixed: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return attributes `(sample, attribute)` in [0, 1], indexed by sample id, each independent of all others.

    Binary attributes are fair coins; `smile` is uniform on [0, 0.35] and [0.65, 1]; all others are uniform. Values in
    `fixed` replace the draw and leave all other attributes as they were. Raises ConfigError for an attribute that does
    not exist or a value outside [0, 1], DataError for a sample id that is not a whole number from 0 upwards.
    """
    fixed = dict(fixed or {})
    for name, value in fixed.items():
        _check_attribute(name, value)
    ids = _sample_ids(sample_ids)
    values = _keyed_uniform(ids, seed, "face attributes", len(NAMES))
    table = pd.DataFrame(values, index=pd.Index(ids, name="sample"), columns=list(NAMES))
    for attribute in ATTRIBUTES:
        if attribute.kind == "binary":
            table[attribute.name] = (table[attribute.name] >= 0.5).astype(float)
    low, high = SMILE_GAP
    smile = table["smile"] * (1 - (high - low))
    table["smile"] = smile.where(smile < low, smile + (high - low))
    for name, value in fixed.items():
        table[name] = float(value)
    return table


def draw_faces(attributes: pd.DataFrame, seed: int, size: int = 64, zoom: float = 1.0) -> FaceImages:
    """Return the faces of `attributes` `(sample, attribute)`, whose index is the sample id.

    `size` is the side of the images in pixels; `zoom` 1 shows the head with hat and shoulders, 1.5 forehead to chin as
    in aligned face crops. Binary attributes are rounded. The identity of a person depends on `seed` and sample id only,
    so changing an attribute redraws the same person. Raises ConfigError for attributes, a size or a zoom that cannot be
    drawn, DataError for an index that does not hold sample ids.
    """
    if not 8 <= size <= 1024:
        raise ConfigError(f"size: {size} pixels cannot be drawn; give a size from 8 to 1024, for example 64")
    if not 0.5 <= zoom <= 3.0:
        raise ConfigError(f"zoom: {zoom} cannot be drawn; give a zoom from 0.5 to 3, for example 1.3")
    missing = [name for name in NAMES if name not in attributes.columns]
    if missing:
        raise ConfigError(f"attributes: the column {missing[0]!r} is missing; needed are {', '.join(NAMES)}")
    table = attributes[list(NAMES)].to_numpy(dtype=np.float64)
    for name, values in zip(NAMES, table.T, strict=True):
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            _check_attribute(name, float(values[wrong][0]))
    binary = np.array([attribute.kind == "binary" for attribute in ATTRIBUTES])
    table = np.where(binary, np.floor(table + 0.5), table).astype(np.float32)
    ids = _sample_ids(attributes.index.to_numpy())
    identity = (2 * _keyed_uniform(ids, seed, "face identity", len(IDENTITY)) - 1).astype(np.float32)
    images = np.empty((len(ids), size, size, 3), dtype=np.uint8)
    masks = np.empty((len(ids), len(PARTS), size, size), dtype=np.float32)
    # a small face is drawn finer and averaged, since one pixel is then as wide as a lip
    finer = 1 if size >= 64 else 2
    for start in range(0, len(ids), CHUNK):
        part = slice(start, start + CHUNK)
        heads = place_heads(
            dict(zip(NAMES, table[part].T, strict=True)),
            dict(zip(IDENTITY, identity[part].T, strict=True)),
            size * finer,
            zoom,
        )
        colour, coverage = _compose(heads)
        colour, masks[part] = _average(colour, finer), _average(coverage, finer)
        colour = colour * (1 + 0.05 * heads.identity["exposure"][:, :, :, None])
        for row, sample in enumerate(ids[part]):
            grain = generator(seed, "face grain", int(sample)).standard_normal((3, size, size), dtype=np.float32)
            colour[row] += NOISE * grain
        images[part] = np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return FaceImages(images, masks)


def _layers(heads: Heads) -> Iterator[Layer]:
    """Yield the layers of the faces from front to back; the last one covers every pixel."""
    tint = np.array([-0.3, 0.3, 1.0], dtype=np.float32)
    skin = colours(SKIN, heads.attribute["skin"]) * (1 + 0.05 * column(heads.identity["skin_hue"]) * tint)
    hair = colours(HAIR, heads.attribute["hair_colour"])
    shade = skin_shade(heads)
    head = cover(head_distance(heads), heads.pixel)
    yield from hat_layers(heads, hair)
    yield from glasses_layers(heads)
    yield ear_layer(heads, head, skin, shade)
    yield front_hair_layer(heads, hair)
    yield from eye_layers(heads, head)
    yield brow_layer(heads, head, skin, hair)
    yield from mouth_layers(heads, head, skin, shade)
    yield beard_layer(heads, skin, hair)
    yield from nose_layers(heads, head, skin, shade)
    yield from skin_layers(heads, head, skin, shade)
    yield back_hair_layer(heads, hair)
    yield from background_layers(heads)


def _compose(heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Return colour `(sample, 3, y, x)` and coverage `(sample, part, y, x)` of the layers, laid from front to back."""
    shape = heads.x.shape
    colour = np.zeros((shape[0], 3, *shape[1:]), dtype=np.float32)
    coverage = np.zeros((shape[0], len(PARTS), *shape[1:]), dtype=np.float32)
    clear = np.ones(shape, dtype=np.float32)  # the share of each pixel that nothing has covered yet
    for layer in _layers(heads):
        share = clear * layer.coverage
        clear -= share
        coverage[:, PARTS.index(layer.part)] += share
        share *= layer.shade
        for channel in range(3):
            colour[:, channel] += share * layer.colour[:, channel, None, None]
    return colour, coverage


def _average(fine: np.ndarray, factor: int) -> np.ndarray:
    """Return `(sample, channel, y, x)` averaged over squares of `factor` pixels."""
    if factor == 1:
        return fine
    samples, channels, height, width = fine.shape
    squares = fine.reshape(samples, channels, height // factor, factor, width // factor, factor)
    return squares.mean(axis=(3, 5))


def _keyed_uniform(ids: np.ndarray, seed: int, purpose: str, columns: int) -> np.ndarray:
    """Return uniform numbers `(sample, column)` that depend on seed, purpose and sample id only."""
    values = np.empty((len(ids), columns))
    blocks = ids // BLOCK
    for block in np.unique(blocks):
        rows = blocks == block
        values[rows] = generator(seed, purpose, int(block)).random((BLOCK, columns))[ids[rows] % BLOCK]
    return values


def _sample_ids(sample_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    ids = np.asarray(sample_ids)
    if ids.size == 0:
        return np.empty(0, dtype=np.int64)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0:
        raise DataError(f"sample ids: found {ids.dtype} of shape {ids.shape}; give whole numbers from 0 upwards")
    return ids.astype(np.int64)


def _check_attribute(name: str, value: float) -> None:
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"attribute {name!r} does not exist; did you mean {near!r}? There are {', '.join(NAMES)}")
    if not 0 <= value <= 1:
        raise ConfigError(f"attribute {name!r}: {value} is outside the allowed range [0, 1]; give 0, 1 or between")
