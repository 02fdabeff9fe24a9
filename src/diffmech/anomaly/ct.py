"""Whether a picture of a head is a CT, as far as its pixels tell. Ours.

Windowed for the brain, CT shows bone at the very end of the scale: a closed ring around a brain far below. In MRI bone
is dark; what is bright at the rim is fat, of many brightnesses, so that next to none of it is just the brightest pixel
(0.03 % of the head, the median over slices of 28 patients). This is a rule of thumb: a CT that is not windowed passes,
and the settings can overrule it.
"""

import numpy as np
from scipy import ndimage

from diffmech.errors import DataError

TOP = 0.98  # of the brightest pixel: the end of the scale
LEAST_BONE = 0.05  # of the head, at the end of the scale
LEAST_ENCLOSED = 0.3  # of the head, in a closed ring of bone
MOST_INSIDE = 0.8  # of the brightest pixel: median of what the ring encloses


def bone_ring(picture: np.ndarray) -> bool:
    """Return whether a picture `(y, x)` holds a closed ring at the end of its scale that encloses much of the head."""
    brightest = float(picture.max())
    head = ndimage.binary_fill_holes(picture > 0.1 * brightest)
    bone = picture >= TOP * brightest
    if brightest <= 0 or bone.sum() < LEAST_BONE * head.sum():
        return False
    inside = ndimage.binary_fill_holes(bone) & ~bone
    return bool(inside.sum() >= LEAST_ENCLOSED * head.sum() and np.median(picture[inside]) <= MOST_INSIDE * brightest)


def check_no_ct(picture: np.ndarray) -> None:
    """Raise DataError, with the reason only, for a picture that looks like a CT of the head."""
    if bone_ring(picture):
        raise DataError(
            "looks like CT, since a closed ring as bright as the scale goes encloses the brain; take it away, or set "
            "refuse_ct: false if it is MRI"
        )
