"""Drawn faces as a data set of factors: eleven attributes, and a person that none of them says. Ours."""

import numpy as np
import pandas as pd

from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import Factor
from diffmech.data.factors.pixels import as_float, check_size
from diffmech.data.synthetic_faces import ATTRIBUTES, NAMES, SMILE_GAP, Attribute, draw_faces


class Faces(FactorData):
    """The drawn faces, grey (1 channel) or in colour (3); the identity is the number of the person.

    Glasses, beard and hat are discrete, worn or not; all others are continuous in [0, 1], of which `smile` leaves out
    the middle in draws and can be set to it. Changing an attribute redraws the same person, grain of the camera
    included. Raises ConfigError for a size or a zoom that cannot be drawn.
    """

    identities = 1_000_000

    def __init__(self, size: int = 64, channels: int = 1, seed: int = 0, zoom: float = 1.0) -> None:
        check_size(size, channels)
        self.name = "faces"
        self.image_shape = (channels, size, size)
        self.factors = tuple(map(_factor, ATTRIBUTES))
        self._seed, self._zoom = seed, zoom

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return the faces of values `(sample, factor)` and persons `(sample,)`, number 0 where not given."""
        values, persons = self.checked(values, identity)
        channels, size, _ = self.image_shape
        table = pd.DataFrame(np.clip(values, 0, 1), index=pd.Index(persons, name="sample"), columns=list(NAMES))
        return as_float(draw_faces(table, self._seed, size, self._zoom).images, size, channels)


def _factor(attribute: Attribute) -> Factor:
    if attribute.kind == "binary":
        return Factor(
            attribute.name, "discrete", attribute.description, (0.0, 1.0), labels=(attribute.low, attribute.high)
        )
    low, high = SMILE_GAP
    intervals = ((0.0, low), (high, 1.0)) if attribute.name == "smile" else ((0.0, 1.0),)
    about = f"{attribute.description}, from 0 ({attribute.low}) to 1 ({attribute.high})"
    return Factor(attribute.name, "continuous", about, intervals=intervals)
