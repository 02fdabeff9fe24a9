"""Bring any image to the one form in which all domains are studied. Ours.

Order: decode, orient by EXIF, lay transparency over white, cut the central square, pass through the common resolution,
resample to the common size, reduce to grey by Rec. 601 luma where asked. Resampling is Lanczos with antialiasing (the
filter widens when it shrinks), in float32, rounded once at the end. Masks are averaged over areas, so that they stay
the share of each pixel that the part covers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diffmech.config.images import ImagesConfig
from diffmech.data.formats import HEAD, image_by_content, other_by_content
from diffmech.errors import DataError

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
WHITE, BLACK = 1.0, 0.0  # what transparency shows: white paper for images, "not the part" for masks
_KIND_OF_PAGE, _REDUCED_OR_MASK = 254, 0b101  # of TIFF 6.0, NewSubfileType: a smaller version of a page, or its mask
_ROUNDING = 1e-6  # what float32 arithmetic may add to a value that is meant to be 1


def read_image(path: Path, *, background: float = WHITE) -> np.ndarray:
    """Return the pixels of an image file as `(y, x, 1 or 3)`, uint8 or float32 in [0, 1], laid over `background`.

    Raises DataError with the reason only (the caller knows the name): truncated or unreadable files, several frames,
    NaN, infinite or out-of-range values, arrays of a wrong shape or type.
    """
    if path.suffix.lower() != ".npy":
        return decode_image(path, lambda image: pixels_of(image, background))
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # a broken head makes numpy raise errors of Python's own parser, too
        raise DataError(
            f"cannot be read as a .npy array ({_one_line(error)}); save it with numpy.save, as an array of numbers"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError("is an archive of arrays, not one array; save it with numpy.save")
    return check_pixels(array, background=background)


def decode_image(file: Path | IO[bytes], values: Callable[[Image.Image], np.ndarray] | None = None) -> np.ndarray:
    """Return the pixels of an encoded image, in any format of Pillow's, like `read_image`.

    `values` makes pixels of what Pillow decoded, by default those of an image over white.
    """
    try:
        with Image.open(file) as image:
            _to_primary(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return pixels_of(upright, WHITE) if values is None else values(upright)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"cannot be decoded: {_found(file)}") from error
    except Exception as error:  # broken files make decoders raise errors of any kind, struct.error and IndexError too
        raise DataError(f"cannot be decoded ({_one_line(error)})") from error


def _to_primary(image: Image.Image) -> None:
    """Go to the one picture that a file of several is of. Raises DataError where there are several of equal rank.

    A phone or camera puts previews, depth and other views behind the picture that was taken (MPO), a scanner smaller
    versions behind a page (TIFF).
    """
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":
        return
    if image.format == "TIFF":
        whole = [frame for frame in range(frames) if not _kind_of_page(image, frame) & _REDUCED_OR_MASK]
        if len(whole) == 1:
            image.seek(whole[0])
            return
    raise DataError(f"holds {frames} frames; save one image per file")


def _kind_of_page(image: Any, frame: int) -> int:
    image.seek(frame)
    return int(image.tag_v2.get(_KIND_OF_PAGE, 0))


def _found(file: Path | IO[bytes]) -> str:
    """Return what a file is that is no image to Pillow, as far as its first bytes tell."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    else:
        file.seek(0)
        head = file.read(HEAD)
    if (other := other_by_content(head)) is not None:
        return f"it is {other}"
    if (kind := image_by_content(head)) is not None:
        return f"it is {kind} by its content, which is not read, or broken; save it as PNG or JPEG"
    return "its content is of no kind of image that is known here"


def check_pixels(array: np.ndarray, *, background: float = WHITE) -> np.ndarray:
    """Return an array `(y, x)` or `(y, x, 1 | 3 | 4)` as `(y, x, 1 or 3)`, uint8 or float32 in [0, 1].

    Raises DataError with the reason for any other shape, for types other than bool, uint8 and float, for NaN, infinite
    values and values outside [0, 1]. A fourth channel is alpha.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        advice = ", channels last: save numpy.moveaxis(array, 0, -1)" if first else ""
        raise DataError(f"has shape {array.shape}; expected (height, width) or (height, width, 1, 3 or 4){advice}")
    if array.dtype == np.bool_:
        array = array.astype(np.float32)
    elif np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"holds {int((~np.isfinite(array)).sum())} NaN or infinite pixels; fill them")
        low, high = float(array.min()), float(array.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise DataError(f"holds values from {low:g} to {high:g}; scale floats to [0, 1] or save as uint8")
        array = np.clip(array, 0, 1)
    elif array.dtype != np.uint8:
        raise DataError(f"holds {array.dtype}; save it as uint8, or as float in [0, 1]")
    if array.shape[2] < 4:
        return array
    full = 255 if array.dtype == np.uint8 else 1
    alpha = array[:, :, 3:].astype(np.float32) / full
    return array[:, :, :3].astype(np.float32) / full * alpha + background * (1 - alpha)


def prepare_image(pixels: np.ndarray, images: ImagesConfig, crop: float = 1.0) -> np.ndarray:
    """Return `(y, x, 1 or 3)` pixels, uint8 or float in [0, 1], as uint8 `(channel, size, size)`."""
    pixels = central_square(pixels, crop)
    scale = 1.0 if pixels.dtype == np.uint8 else 255.0
    # luma is linear, so taking it before resampling changes nothing but the cost
    if images.channels == 1 and pixels.shape[2] == 3:
        planes = [pixels @ LUMA]
    else:
        planes = [pixels[:, :, channel].astype(np.float32) for channel in range(pixels.shape[2])]
    sizes = [images.size] if images.resolution is None else [images.resolution, images.size]
    for size in sizes:
        planes = [_resample(plane, size, Image.Resampling.LANCZOS) for plane in planes]
    image = _to_bytes(np.stack(planes) * scale)
    return np.repeat(image, images.channels, axis=0) if len(image) < images.channels else image


def prepare_mask(pixels: np.ndarray, size: int, crop: float = 1.0) -> np.ndarray:
    """Return the mask in `(y, x, 1 or 3)` pixels as uint8 `(size, size)`, 255 where the part covers the pixel.

    A uint8 mask whose values are all 0 or 1 is taken as a label image, 1 = the part.
    """
    full = 255 if pixels.dtype == np.uint8 and pixels.max() > 1 else 1
    plane = central_square(pixels, crop).astype(np.float32).mean(axis=2) / full
    return _to_bytes(_resample(plane, size, Image.Resampling.BOX) * 255)


def central_square(pixels: np.ndarray, crop: float) -> np.ndarray:
    """Return the central square whose side is `crop` times the shorter side of `(y, x, channel)`."""
    height, width = pixels.shape[:2]
    side = _side(pixels, crop)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def kept_area(pixels: np.ndarray, crop: float) -> float:
    """Return the share of the pixels of `(y, x, channel)` that `central_square` keeps: 1 of a square one uncropped."""
    height, width = pixels.shape[:2]
    return _side(pixels, crop) ** 2 / (height * width)


def _side(pixels: np.ndarray, crop: float) -> int:
    return max(1, round(crop * min(pixels.shape[:2])))


def has_alpha(image: Image.Image) -> bool:
    """Return whether an image says of its pixels how much of them is to be seen."""
    return image.mode in _WITH_ALPHA or "transparency" in image.info


def pixels_of(image: Image.Image, background: float) -> np.ndarray:
    """Return the pixels of a decoded image, like `read_image`."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"holds integers from {values.min():g} to {values.max():g}; save it with 8 or 16 bits")
        return values[:, :, None] / np.float32(65535)
    if image.mode == "F":
        return check_pixels(np.asarray(image))
    if has_alpha(image):
        return check_pixels(np.asarray(image.convert("RGBA")), background=background)
    return check_pixels(np.asarray(image.convert("L" if image.mode in ("L", "1") else "RGB")))


def _resample(plane: np.ndarray, size: int, method: Image.Resampling) -> np.ndarray:
    if plane.shape == (size, size):
        return plane
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), method))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
