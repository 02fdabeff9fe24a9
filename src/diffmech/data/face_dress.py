"""What surrounds a drawn face: hair, glasses, hat, clothes and wall. Ours; units and layers as in `face_parts`."""

from collections.abc import Iterator

import numpy as np

from diffmech.data.face_parts import (
    HUES,
    LUMA,
    Heads,
    Layer,
    colours,
    column,
    eye_x,
    eye_y,
    flat,
    hairline,
    head_distance,
    with_luma,
)
from diffmech.data.face_shapes import clouds, cover, ellipse, grain, mix, rounded_box, smoothstep, strands


def _hair_shade(heads: Heads) -> np.ndarray:
    """Return the brightness of hair: strands that run down from the crown, and a sheen on the side of the lamp."""
    x, y, identity = heads.x, heads.y, heads.identity
    wave = 0.03 * identity["hair_wave"] * np.sin(14 * y + 3 * identity["texture_x"])
    across = (x + wave - 0.12 * identity["parting"]) / (0.5 + 0.4 * np.maximum(y + 0.7, 0))
    noise = strands(36 * across + 80 * identity["texture_x"], 45 * y + 80 * identity["texture_y"])
    lx, ly, _ = heads.light
    lit = 0.5 * lx * x / heads.half_width + 0.6 * ly * np.clip(y, -0.8, 0.4)
    sheen = 0.22 * np.exp(-(((x - 0.35 * lx) / 0.22) ** 2) - ((y + 0.50) / 0.09) ** 2)
    return np.clip(0.86 + lit + sheen, 0.35, 1.4) * (1 + 0.17 * noise)


def front_hair_layer(heads: Heads, hair: np.ndarray) -> Layer:
    """Return the hair that lies on the head, above the hairline and beside the face."""
    length, x, y, identity = heads.attribute["hair_length"], heads.x, heads.y, heads.identity
    # the skull reaches back, so that a turned head shows its hair on the side it turned away from
    skull = x + 0.10 * heads.turn
    volume = mix(0.0, 0.075, smoothstep(0.05, 0.6, length)) * (1 + 0.35 * heads.identity["hair_volume"])
    top = ellipse(skull, y + 0.02, heads.half_width + 0.8 * volume + 0.008, 0.585 + volume)
    # short hair lies close to the head beside the ears, long hair falls over them
    close = mix(0.0, 0.8 * volume, smoothstep(0.4, 0.7, length))
    blend = smoothstep(-0.25, 0.02, y)
    outline = top * (1 - blend) + head_distance(heads, close) * blend
    outline -= 0.010 * smoothstep(0.1, 0.4, length) * clouds(120 * x + 90 * identity["texture_x"], 60 * y)
    fringe = 0.010 * strands(45 * heads.u + 70 * heads.identity["texture_x"], 12 * y)
    distance = np.maximum(outline, (y - hairline(heads) + fringe) * 0.8)
    # sideburns end above the jaw unless the hair is long
    forward = np.clip(0.9 - np.abs(heads.u) / heads.half_width, 0, 0.4)
    end = mix(0.10, 0.75, smoothstep(0.25, 0.8, length))
    distance = np.maximum(distance, y - end + 0.7 * forward)
    thin = mix(0.0, 1.0, smoothstep(0.0, 0.16, length))
    return Layer("hair", thin * cover(distance, 1.2 * heads.pixel), hair, _hair_shade(heads))


def back_hair_layer(heads: Heads, hair: np.ndarray) -> Layer:
    """Return the hair behind head and neck; it falls to the shoulders when it is long."""
    length, y = heads.attribute["hair_length"], heads.y
    grown = smoothstep(0.3, 0.9, length)
    volume = (0.02 + 0.12 * grown) * (1 + 0.3 * heads.identity["hair_volume"])
    sway = 0.015 * heads.identity["hair_wave"] * np.sin(11 * y + 3 * heads.identity["texture_y"])
    skull = heads.x + 0.10 * heads.turn + sway
    end = mix(0.15, 0.95, grown)
    top = ellipse(skull, y, heads.half_width + 0.7 * volume, 0.60 + 0.6 * volume)
    width = heads.half_width + 0.7 * volume + 0.05 * grown * np.maximum(y, 0)
    fall = np.maximum(
        np.abs(skull) - width, np.maximum(-y, y - end + 0.25 * smoothstep(0.6, 1.0, np.abs(skull) / width))
    )
    distance = np.where(y < 0, top, fall) + 0.006 * strands(50 * heads.x, 10 * y)
    present = smoothstep(0.1, 0.3, length)
    shade = _hair_shade(heads) * (0.80 - 0.15 * smoothstep(0.0, 0.6, y))
    return Layer("hair", present * cover(distance, 1.2 * heads.pixel), hair, shade)


def glasses_layers(heads: Heads) -> Iterator[Layer]:
    """Yield frames, temples and the glare on the lenses."""
    worn, identity = heads.attribute["glasses"], heads.identity
    side, y = np.abs(heads.u), heads.y - eye_y(heads) - 0.012
    grow = 1 + 0.07 * identity["lens_size"]
    rx, ry = 0.140 * grow, 0.112 * grow
    corner = 0.111 * grow * (0.72 + 0.28 * identity["lens_shape"])
    lens = rounded_box(side - eye_x(heads) - 0.004, y, rx, ry, corner)
    thick = 0.021
    bridge = np.maximum(np.abs(y + 0.035) - thick, side - eye_x(heads) + rx)
    temple = np.maximum(
        np.abs(y + 0.045) - 0.020, np.maximum(eye_x(heads) + rx - side, np.abs(heads.x) - 0.99 * heads.half_width)
    )
    frame = np.minimum(np.minimum(np.abs(lens) - thick, bridge), temple)
    tone = 0.07 + 0.05 * identity["frame_tone"]
    # frames are far darker than any skin: glasses must be seen in grey at 32 x 32
    colour = with_luma(colours(HUES, (identity["hat_hue"] + 1) / 2) + 0.2, tone.ravel())
    one = np.ones_like(worn)
    yield Layer("glasses", worn * cover(frame, heads.pixel), colour)
    glare = 0.10 + 0.14 * smoothstep(0.05, -0.05, np.abs(side - eye_x(heads) + 0.7 * y) - 0.045) * (y < 0.05)
    yield Layer("glasses", worn * glare * cover(lens, heads.pixel), flat(0.93, 0.96, 1.0, one))


def hat_layers(heads: Heads, hair: np.ndarray) -> Iterator[Layer]:
    """Yield brim, band and crown; about half of the hats are caps with a visor, the others have a brim all around."""
    worn, identity, x, y = heads.attribute["hat"], heads.identity, heads.x, heads.y
    lx, ly, lz = heads.light
    cap = smoothstep(-0.05, 0.05, identity["hat_style"])
    dark_hair = smoothstep(0.45, 0.40, column(hair @ LUMA)[:, :, None])
    # light hats on dark hair and dark hats on fair hair
    luma = mix(0.22, 0.62, dark_hair) + 0.10 * identity["hat_tone"] * mix(0.7, 1.3, dark_hair)
    hue = colours(HUES, (identity["hat_hue"] + 1) / 2)
    cloth = with_luma(hue, luma.ravel())
    band = with_luma(hue, mix(0.65, 0.16, dark_hair).ravel())
    skull = x + 0.05 * heads.turn
    width = heads.half_width + 0.065
    seam = -0.36 + 0.05 * (x / heads.half_width) ** 2
    dome = ellipse(skull, y + 0.36, width, mix(0.46, 0.48, cap) + 0.03 * identity["hat_tone"])
    crease = mix(0.05, 0.0, cap) * np.exp(-((skull / 0.16) ** 2))
    crown = np.maximum(np.maximum(dome, y - seam), mix(-0.79, -0.9, cap) + crease - y)
    round_x, round_y = skull / width, (y + 0.40) / 0.5
    lit = round_x * lx + round_y * ly + lz * np.sqrt(np.maximum(1 - round_x**2 - round_y**2, 0.05))
    shade = (0.62 + 0.5 * np.clip(lit, 0, 1)) * (1 + 0.03 * grain(90 * x + 50 * identity["texture_x"], 90 * y))
    visor = ellipse(x - 0.36 * heads.turn, y + 0.335 - 0.10 * x * x, 1.0 * heads.half_width, 0.090)
    brim = ellipse(x, y + 0.355 + 0.10 * np.abs(x) ** 2, heads.half_width * 1.58, 0.072)
    edge = np.where(cap > 0.5, visor, brim)
    visible = worn * cover(edge, heads.pixel)
    rim = mix(cloth, band, column(cap))
    yield Layer("hat", visible, rim, shade * (0.90 - 0.25 * smoothstep(-0.36, -0.29, y)))
    strip = cover(np.maximum(crown, seam - 0.115 - y), heads.pixel) * (1 - cap)
    yield Layer("hat", worn * strip, band, shade)
    # panels of a cap meet in seams that run to its button
    panel = np.abs(np.abs((skull - 0.25 * heads.turn) / np.sqrt(np.maximum(0.80 + y, 0.02))) - 0.22)
    shade = shade * (1 - 0.22 * cap * np.exp(-((panel / 0.025) ** 2)))
    yield Layer("hat", worn * cover(crown, heads.pixel), cloth, shade)


def background_layers(heads: Heads) -> Iterator[Layer]:
    """Yield clothes and wall, both part of the background."""
    identity, x, y = heads.identity, heads.image_x, heads.image_y
    lx = heads.light[0]
    shoulders = ellipse(x - 0.03 * identity["shift_x"], y - 1.22, 0.92, 0.46)
    hue = colours(HUES, (identity["clothes_hue"] + 1) / 2)
    clothes = with_luma(0.6 * hue + 0.15, (0.38 + 0.22 * identity["clothes_tone"]).ravel())
    weave = 1 + 0.03 * grain(80 * x + 30 * identity["texture_y"], 80 * y)
    collar = np.abs(ellipse(x, y - 0.70, 0.37, 0.28))
    fold = 1 - 0.25 * np.exp(-((collar / 0.02) ** 2))
    yield Layer("background", cover(shoulders, heads.pixel), clothes, (0.9 + 0.4 * lx * x) * weave * fold)
    luma = mix(0.13, 0.86, heads.attribute["background"])
    wall = with_luma(0.35 * colours(HUES, (identity["wall_hue"] + 1) / 2) + 0.5, luma.ravel())
    angle = np.pi * identity["wall_angle"]
    slope = x * np.cos(angle) + y * np.sin(angle)
    mottle = clouds(70 * x + 128 * identity["texture_x"], 70 * y + 128 * identity["texture_y"])
    shade = 1 + 0.10 * slope - 0.10 * (x * x + y * y) + 0.045 * mottle
    yield Layer("background", np.ones_like(heads.x), wall, shade)
