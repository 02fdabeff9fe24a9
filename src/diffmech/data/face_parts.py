"""The parts of a drawn face: where each one is, and how it is coloured and lit. Ours.

A head is an ellipsoid seen from the front; turning it slides the features over its surface, so that they are drawn in
surface coordinates. Units: the image at zoom 1 is 2 wide and 2 high, the origin is its centre, y points down. Each part
is a list of layers, and a layer knows which share of each pixel it covers; composing the layers from front to back
therefore gives the picture and the exact part masks at once. Clothes belong to the background, ears and neck to the
skin.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffmech.data.face_shapes import (
    bump,
    cover,
    ellipse,
    grain,
    mix,
    smoothstep,
    strands,
)
from diffmech.data.preparation import LUMA

PARTS: tuple[str, ...] = (
    "background",
    "skin",
    "hair",
    "brows",
    "eyes",
    "nose",
    "mouth",
    "glasses",
    "hat",
    "beard",
)

# what makes two people with equal attributes differ, each uniform in [-1, 1] and keyed by the sample id
IDENTITY: tuple[str, ...] = (
    "face_width", "face_height", "jaw", "eye_spacing", "eye_height", "eye_width", "brow_height", "brow_arch",
    "brow_thickness", "nose_length", "nose_width", "mouth_height", "mouth_width", "lip_thickness", "ear_size",
    "hairline", "parting", "hair_volume", "hair_wave", "beard_reach", "lens_shape", "lens_size", "frame_tone",
    "hat_style", "hat_tone", "hat_hue", "iris_hue", "skin_hue", "clothes_hue", "clothes_tone", "wall_hue",
    "wall_angle", "shift_x", "shift_y", "scale", "roll", "gaze", "exposure", "texture_x", "texture_y",
)  # fmt: skip

YAW = float(np.deg2rad(30.0))  # the largest turn at which both eyes of an ellipsoid head are still seen
LIGHT = float(np.deg2rad(65.0))

SKIN = ((0.43, 0.28, 0.20), (0.62, 0.42, 0.31), (0.83, 0.62, 0.49), (0.97, 0.81, 0.71))
HAIR = ((0.07, 0.06, 0.06), (0.24, 0.15, 0.10), (0.50, 0.31, 0.17), (0.93, 0.79, 0.50))
IRIS = ((0.16, 0.09, 0.05), (0.30, 0.18, 0.08), (0.25, 0.38, 0.25), (0.28, 0.45, 0.62))
HUES = (
    (0.75, 0.18, 0.18), (0.85, 0.55, 0.15), (0.35, 0.55, 0.25), (0.15, 0.50, 0.55), (0.20, 0.32, 0.70),
    (0.50, 0.25, 0.60), (0.75, 0.18, 0.18),
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """Paint of one part: `coverage` and `shade` are `(sample, y, x)`, `colour` is `(sample, 3)`, all in [0, 1]."""

    part: str
    coverage: np.ndarray
    colour: np.ndarray
    shade: np.ndarray | float = 1.0


@dataclass(frozen=True)
class Heads:
    """A chunk of heads on their canvas: attributes and identity `(sample, 1, 1)`, coordinates `(sample, y, x)`."""

    attribute: dict[str, np.ndarray]
    identity: dict[str, np.ndarray]
    image_x: np.ndarray  # position in the image
    image_y: np.ndarray
    x: np.ndarray  # position relative to the head, upright
    y: np.ndarray
    u: np.ndarray  # sideways position on the surface of the turned head; 0 is the line of the nose
    turn: np.ndarray  # sine of the yaw, negative to the left of the image
    half_width: np.ndarray
    pixel: np.ndarray  # width of one pixel in head units
    light: tuple[np.ndarray, np.ndarray, np.ndarray]  # unit vector towards the lamp


def place_heads(attribute: dict[str, np.ndarray], identity: dict[str, np.ndarray], size: int, zoom: float) -> Heads:
    """Return the heads on a canvas of `size` pixels; a `zoom` above 1 shows less than the whole head."""
    attribute = {name: values.reshape(-1, 1, 1) for name, values in attribute.items()}
    identity = {name: values.reshape(-1, 1, 1) for name, values in identity.items()}
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) / zoom
    image_x = axis[None, None, :]
    # the crop closes in on the face, whose centre is below that of the whole head with its hat
    image_y = axis[None, :, None] + np.float32(0.03 + 0.3 * (1 - 1 / zoom))
    scale = 1 + 0.05 * identity["scale"]
    x = (image_x - 0.03 * identity["shift_x"]) / scale
    y = (image_y - 0.03 * identity["shift_y"]) / scale
    angle = float(np.deg2rad(4.0)) * identity["roll"]
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = x * cos + (y - 0.5) * sin, (y - 0.5) * cos - x * sin + 0.5  # the neck stays, the crown sways
    yaw = YAW * (2 * attribute["pose"] - 1)
    half_width = 0.435 * (1 + 0.07 * identity["face_width"])
    surface = 1.04 * half_width
    seen = np.arcsin(np.clip(x / surface, -1, 1))
    u = surface * np.sin(np.clip(seen - yaw, -np.pi / 2, np.pi / 2))
    u = u + np.sign(x) * np.maximum(np.abs(x) - surface, 0)
    lamp = LIGHT * (2 * attribute["light"] - 1)
    light = (0.92 * np.sin(lamp), np.full_like(lamp, -0.39), 0.92 * np.cos(lamp))
    pixel = np.float32(2 / (size * zoom)) / scale
    return Heads(
        attribute, identity, image_x, image_y, x, y, u, np.sin(yaw), half_width, pixel.astype(np.float32), light
    )


def colours(anchors: tuple[tuple[float, float, float], ...], position: np.ndarray) -> np.ndarray:
    """Return the colours `(sample, 3)` at `position` in [0, 1] along equally spaced `anchors`."""
    table = np.array(anchors, dtype=np.float32)
    at = np.linspace(0, 1, len(table))
    return np.stack([np.interp(position.ravel(), at, channel) for channel in table.T], axis=1).astype(np.float32)


def at_most(colour: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Return `colour` `(sample, 3)` darkened where its luma exceeds `luma` `(sample,)`."""
    return colour * np.minimum(1, luma / np.maximum(colour @ LUMA, 1e-6))[:, None]


def with_luma(colour: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Return the hue of `colour` `(sample, 3)` at `luma` `(sample,)`, paler where the hue is not that bright."""
    scaled = colour * (luma / (colour @ LUMA))[:, None]
    over = np.maximum(scaled.max(axis=1) - 1, 0)[:, None]
    grey = luma[:, None]
    return grey + (scaled - grey) * (1 - over / np.maximum(scaled.max(axis=1)[:, None] - grey, 1e-6))


def head_distance(heads: Heads, grow: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the signed distance `(sample, y, x)` to the outline of the head, grown by `grow`."""
    lower = np.maximum(heads.y, 0) / 0.6
    # the chin sits in front of the axis of the head, so that it moves with the turn
    x = (heads.x - 0.10 * heads.turn * lower * lower) * (1 + (0.06 + 0.10 * heads.identity["jaw"]) * lower)
    height = np.where(heads.y < 0, 0.60, 0.60 * (1 + 0.06 * heads.identity["face_height"]))
    return ellipse(x, heads.y, heads.half_width + grow, height + grow)


def skin_shade(heads: Heads) -> np.ndarray:
    """Return the brightness `(sample, y, x)` of lit skin: Lambert's law on an ellipsoid with a face in relief."""
    identity, u, y = heads.identity, heads.u, heads.y
    side = np.abs(u)
    nose, tip = nose_line(heads)
    relief = 0.060 * bump(nose, y - 0.5 * tip, 0.055, 0.16) + 0.075 * bump(nose, y - tip + 0.01, 0.075, 0.06)
    relief -= 0.035 * bump(side - eye_x(heads), y - eye_y(heads), 0.12, 0.075)
    relief += 0.020 * bump(side - 0.15, y + 0.13, 0.16, 0.05)
    relief += 0.030 * bump(side - 0.23, y - 0.20, 0.11, 0.11)
    relief += 0.030 * bump(u, y - 0.53, 0.10, 0.06) + 0.020 * bump(u, y - mouth_y(heads), 0.17, 0.075)
    step = heads.pixel
    slope_y, slope_x = np.gradient(relief, axis=(1, 2))
    nx = heads.x / (1.12 * heads.half_width) - slope_x / step
    ny = 0.8 * y / 0.7 - slope_y / step
    nz = np.sqrt(np.maximum(1 - (heads.x / (1.12 * heads.half_width)) ** 2 - (y / 0.85) ** 2, 0.06))
    lx, ly, lz = heads.light
    lit = (nx * lx + ny * ly + nz * lz) / np.sqrt(nx * nx + ny * ny + nz * nz)
    shade = 0.50 + 0.62 * np.maximum(lit, 0) + 0.22 * np.maximum(lit, 0) ** 12
    # shadows that make a face readable: under the nose, under the lower lip, under the hair or the brim
    shade *= 1 - 0.30 * bump(nose, y - tip - 0.062, 0.090, 0.032)
    shade *= 1 - 0.16 * bump(u, y - mouth_y(heads) - 0.085, 0.09, 0.022)
    smile = np.maximum(heads.attribute["smile"] - 0.5, 0) * 2
    fold = np.abs(side - 0.115 - 0.42 * np.maximum(y - 0.2, 0))
    shade *= 1 - (0.06 + 0.20 * smile) * np.exp(-((fold / 0.022) ** 2)) * bump(y - 0.29, y * 0, 0.08, 1.0)
    brim = heads.attribute["hat"] * smoothstep(-0.12, -0.34, y)
    below_hair = smoothstep(0.09, 0.0, y - hairline(heads)) * smoothstep(0.05, 0.3, heads.attribute["hair_length"])
    shade *= 1 - 0.35 * brim - 0.22 * below_hair * (1 - brim)
    return shade * (1 + 0.02 * grain(110 * heads.u + 90 * identity["texture_x"], 110 * y))


def ear_layer(heads: Heads, head: np.ndarray, skin: np.ndarray, relief: np.ndarray) -> Layer:
    """Return both ears, as far as the head and long hair leave them in sight."""
    x, y, size = heads.x, heads.y, 1 + 0.15 * heads.identity["ear_size"]
    ears = np.zeros_like(head)
    inner = np.zeros_like(head)
    for side in (-1.0, 1.0):
        near = smoothstep(0.05, 0.4, -side * heads.turn)  # an ear comes forward when the head turns away from it
        centre = side * heads.half_width * (1.01 - 0.30 * np.abs(heads.turn))
        ear = cover(ellipse(x - centre, y - 0.06, 0.075 * size, 0.125 * size), heads.pixel)
        ears = np.maximum(ears, ear * (1 - head * (1 - near)))
        inner = np.maximum(inner, bump(x - centre - 0.015 * side, y - 0.05, 0.035, 0.07))
    ears *= 1 - smoothstep(0.48, 0.53, heads.attribute["hair_length"])
    return Layer("skin", ears, skin * np.array([1.0, 0.90, 0.87], dtype=np.float32), relief * (0.98 - 0.35 * inner))


def skin_layers(heads: Heads, head: np.ndarray, skin: np.ndarray, relief: np.ndarray) -> Iterator[Layer]:
    """Yield the head, with warm cheeks that keep skin from looking like clay, and the neck."""
    x, y = heads.x, heads.y
    blush = bump(np.abs(heads.u) - 0.24, y - 0.2, 0.13, 0.11)
    yield Layer("skin", head * 0.12 * blush, skin * np.array([1.0, 0.62, 0.58], dtype=np.float32), relief)
    yield Layer("skin", head, skin, relief)
    neck = np.abs(x - 0.03 * heads.turn) - heads.half_width * (0.56 + 0.5 * np.maximum(y - 0.68, 0))
    collar = ellipse(heads.image_x, heads.image_y - 0.70, 0.34, 0.25)
    neck = cover(np.maximum(neck, np.maximum(collar, 0.2 - y)), heads.pixel)
    shadow = smoothstep(0.95, 0.55, y - 0.10 * x * np.sign(heads.light[0]))
    lit = 0.92 + 0.75 * heads.light[0] * x
    yield Layer("skin", neck, skin, lit * (1 - 0.42 * shadow))


def eye_layers(heads: Heads, head: np.ndarray) -> Iterator[Layer]:
    """Yield highlight, lashes, pupil, iris and white of both eyes."""
    wide = heads.attribute["eye_size"]
    outward, y = np.abs(heads.u) - eye_x(heads), heads.y - eye_y(heads)
    half = 0.113 * (1 + 0.08 * heads.identity["eye_width"])
    arch = np.maximum(1 - (outward / half) ** 2, 0)
    opening = mix(0.012, 0.078, wide)
    upper, lower = -1.2 * opening * arch - 0.018 * outward, 0.75 * opening * arch
    ball = cover(np.maximum(np.maximum(upper - y, y - lower), np.abs(outward) - half), heads.pixel) * head
    gaze = np.sign(heads.u) * (0.018 * heads.identity["gaze"] + 0.02 * heads.turn)
    seen_x, seen_y = outward - gaze, y + 0.15 * opening
    distance = np.sqrt(seen_x * seen_x + seen_y * seen_y)
    glint_x = seen_x - np.sign(heads.u) * 0.02 * heads.light[0]
    glint = np.sqrt(glint_x * glint_x + (seen_y + 0.016) ** 2) - 0.013
    one = np.ones_like(wide)
    yield Layer("eyes", 0.9 * ball * cover(glint, heads.pixel), flat(0.98, 0.98, 0.98, one))
    lash = np.maximum(np.abs(y - upper) - mix(0.012, 0.017, wide), np.abs(outward) - 1.06 * half)
    yield Layer("eyes", 0.95 * cover(lash, heads.pixel) * head, flat(0.10, 0.06, 0.05, one))
    below = np.maximum(np.abs(y - lower) - 0.006, np.abs(outward) - 0.95 * half)
    yield Layer("eyes", 0.45 * cover(below, heads.pixel) * head, flat(0.25, 0.14, 0.12, one))
    yield Layer("eyes", ball * cover(distance - 0.026, heads.pixel), flat(0.03, 0.03, 0.03, one))
    iris = colours(IRIS, (heads.identity["iris_hue"] + 1) / 2)
    rim = 0.65 + 0.5 * smoothstep(0.056, 0.035, distance)
    yield Layer("eyes", ball * cover(distance - 0.056, heads.pixel), iris, rim)
    white = 0.80 + 0.2 * smoothstep(0.0, 0.03, y - upper) - 0.15 * (outward / half) ** 2
    yield Layer("eyes", ball, flat(0.95, 0.93, 0.91, one), white)


def brow_layer(heads: Heads, head: np.ndarray, skin: np.ndarray, hair: np.ndarray) -> Layer:
    """Return both brows."""
    identity = heads.identity
    outward = np.abs(heads.u) - eye_x(heads)
    along = (outward + 0.005) / 0.145
    height = eye_y(heads) - 0.145 - 0.014 * identity["brow_height"] - 0.02 * heads.attribute["eye_size"]
    middle = height + (0.030 + 0.020 * identity["brow_arch"]) * (along - 0.2) ** 2
    thick = (0.025 + 0.006 * identity["brow_thickness"]) * np.clip(1.15 - 0.5 * along, 0.3, 1.2)
    distance = np.maximum(np.abs(heads.y - middle) - thick, np.abs(outward) - 0.14)
    colour = at_most(0.75 * hair, 0.5 * (skin @ LUMA))
    texture = 1 + 0.15 * strands(90 * heads.u + 40 * heads.y, 60 * heads.y)
    return Layer("brows", 0.92 * cover(distance, 1.3 * heads.pixel) * head, colour, texture)


def nose_layers(heads: Heads, head: np.ndarray, skin: np.ndarray, relief: np.ndarray) -> Iterator[Layer]:
    """Yield nostrils and nose."""
    nose, tip = nose_line(heads)
    width = 0.082 * (1 + 0.16 * heads.identity["nose_width"])
    y = heads.y
    hole = cover(ellipse(np.abs(nose) - 0.48 * width, y - tip - 0.028, 0.030, 0.017), 1.4 * heads.pixel)
    yield Layer("nose", 0.85 * hole * head, 0.22 * skin)
    wings = ellipse(np.abs(nose) - 0.52 * width, y - tip - 0.005, 0.55 * width, 0.042)
    ball = ellipse(nose, y - tip + 0.005, 0.75 * width, 0.052)
    ridge = np.maximum(np.abs(nose) - mix(0.030, 0.6 * width, np.clip(y / tip, 0, 1)), np.maximum(-0.02 - y, y - tip))
    # in a turned head the tip of the nose stands out beyond the cheek
    outline = cover(head_distance(heads, 0.05), heads.pixel)
    shape = cover(np.minimum(np.minimum(wings, ball), ridge), heads.pixel) * outline
    rim = 1 - 0.30 * smoothstep(0.45, 1.05, np.abs(nose) / (1.1 * width)) - 0.14 * smoothstep(tip, tip + 0.05, y)
    yield Layer("nose", shape, skin * np.array([1.0, 0.95, 0.94], dtype=np.float32), relief * rim)


def mouth_layers(heads: Heads, head: np.ndarray, skin: np.ndarray, relief: np.ndarray) -> Iterator[Layer]:
    """Yield the line between the lips, the teeth of an open smile, and both lips."""
    smile, identity, u = heads.attribute["smile"], heads.identity, heads.u
    bend = 2 * smile - 1
    half = 0.150 + 0.012 * identity["mouth_width"] + 0.045 * np.maximum(bend, 0) - 0.012 * np.maximum(-bend, 0)
    along = u / half
    arch = np.maximum(1 - along * along, 0)
    middle = mouth_y(heads) + 0.075 * bend * (arch - 0.55)
    y = heads.y - middle
    inside = np.abs(u) - half
    gap = 0.092 * smoothstep(-0.05, 0.75, bend) * arch
    lip = (0.036 + 0.008 * identity["lip_thickness"]) * (1 - 0.25 * smoothstep(0, 1, bend))
    one = np.ones_like(smile)
    open_mouth = cover(np.maximum(np.maximum(-y - 0.10 * gap, y - gap), inside), heads.pixel) * head
    opened = smoothstep(0.08, 0.28, bend)
    teeth = open_mouth * cover(y - 0.72 * gap, 1.5 * heads.pixel) * cover(np.abs(u) - 0.86 * half, 2 * heads.pixel)
    yield Layer("mouth", opened * teeth, flat(0.97, 0.96, 0.92, one), 1 - 0.25 * along * along)
    yield Layer("mouth", opened * open_mouth, flat(0.22, 0.06, 0.06, one))
    line = np.maximum(np.abs(y) - 0.011, np.abs(u) - 1.03 * half)
    yield Layer("mouth", 0.85 * cover(line, heads.pixel) * head * (1 - opened), 0.30 * skin)
    bow = lip * arch * (1 - 0.30 * np.exp(-((u / 0.025) ** 2)))
    lips = np.maximum(np.maximum(-y - bow, y - gap - 1.25 * lip * arch), inside)
    red = skin * np.array([0.86, 0.55, 0.55], dtype=np.float32)
    shade = relief * (0.90 + 0.20 * smoothstep(0.0, 0.03, y - gap))
    yield Layer("mouth", 0.95 * cover(lips, heads.pixel) * head, red, shade)


def beard_layer(heads: Heads, skin: np.ndarray, hair: np.ndarray) -> Layer:
    """Return moustache, cheeks and chin of a full beard."""
    identity, u, y = heads.identity, heads.u, heads.y
    side = np.abs(u) / heads.half_width
    reach = 0.02 * identity["beard_reach"]
    line = 0.315 + reach - 0.33 * side**2.5
    moustache = np.maximum(np.abs(y - 0.5 * (nose_line(heads)[1] + mouth_y(heads)) - 0.028 - 0.25 * u * u) - 0.036,
                           np.abs(u) - 0.19)  # fmt: skip
    fuzz = strands(60 * u + 60 * identity["texture_x"], 50 * y + 60 * identity["texture_y"])
    jaw = np.maximum(line - y, head_distance(heads, 0.035 + 0.015 * identity["beard_reach"]))
    distance = np.minimum(jaw, moustache) + 0.008 * fuzz
    # beards of every hair colour darken the jaw, so that they are seen in grey on every skin
    colour = at_most(0.8 * hair * np.array([1.1, 0.92, 0.8], dtype=np.float32), 0.42 * (skin @ LUMA))
    shade = (0.95 + 0.45 * heads.light[0] * heads.x + 0.16 * fuzz) * (1 - 0.3 * smoothstep(0.45, 0.7, y))
    return Layer("beard", 0.95 * heads.attribute["beard"] * cover(distance, 1.6 * heads.pixel), colour, shade)


def eye_x(heads: Heads) -> np.ndarray:
    """Return the distance of the eyes from the middle of the face."""
    return 0.185 * (1 + 0.05 * heads.identity["eye_spacing"] + 0.05 * heads.identity["face_width"])


def eye_y(heads: Heads) -> np.ndarray:
    """Return the height of the eyes."""
    return 0.01 + 0.015 * heads.identity["eye_height"]


def mouth_y(heads: Heads) -> np.ndarray:
    """Return the height of the mouth."""
    return 0.375 + 0.015 * heads.identity["mouth_height"]


def nose_line(heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Return the sideways distance `(sample, y, x)` from the ridge of the nose and the height of its tip."""
    tip = 0.205 + 0.022 * heads.identity["nose_length"]
    # the tip stands out from the ellipsoid, so a turn moves it further than the skin around it
    return heads.u - 0.09 * heads.turn * np.clip((heads.y + 0.02) / tip, 0, 1), tip


def hairline(heads: Heads) -> np.ndarray:
    """Return the height `(sample, y, x)` where the forehead ends and hair begins; it recedes as hair gets short."""
    length, identity = heads.attribute["hair_length"], heads.identity
    side = np.abs(heads.u) / heads.half_width
    middle = mix(-0.70, -0.33, smoothstep(0.0, 0.3, length)) + 0.03 * identity["hairline"]
    parting = 0.22 * identity["parting"] * heads.u * smoothstep(0.1, 0.5, length)
    return middle + parting + 0.10 * side * side + mix(0.55, 0.40, length) * smoothstep(0.66, 1.04, side)


def flat(red: float, green: float, blue: float, like: np.ndarray) -> np.ndarray:
    """Return one colour `(sample, 3)` for as many samples as `like` has."""
    return np.broadcast_to(np.array([red, green, blue], dtype=np.float32), (len(like), 3))


def column(values: np.ndarray) -> np.ndarray:
    """Return `(sample, 1, 1)` values as `(sample, 1)`, to go with colours."""
    return values.reshape(-1, 1)
