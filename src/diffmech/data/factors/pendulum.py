"""A pendulum in the light of a lamp, whose shadow has two causes: a scene with a known causal graph.

The scene is that of CausalVAE (Yang et al. 2021, arXiv 2004.08697), in its units: a pivot at (10, 10.5), a rod of
length 8 with a ball of radius 1.5 at its end, a lamp of radius 3 at height 20.5, and the ground at height -0.5. Rays
are parallel, in the direction from the lamp to the pivot, and the shadow lies between the points where the rays through
the pivot and through the end of the ball (9.5 from the pivot) meet the ground; it is never shorter than 3. There is no
noise: the angle and the lamp say where the shadow is.

Ours: the lamp is told by its place (there: by the angle of its rays), so that light from straight above is no
exception; both causes are drawn uniformly, from ranges that keep the whole shadow in the picture; edges are
antialiased; the picture is square, and so a little wider than theirs.
"""

from collections.abc import Mapping

import numpy as np

from diffmech.data.face_shapes import cover
from diffmech.data.factors.dataset import FactorData, Samples
from diffmech.data.factors.factor import Factor
from diffmech.data.factors.pixels import check_size
from diffmech.data.preparation import LUMA

PIVOT = (10.0, 10.5)
ROD, END, BALL, LAMP = 8.0, 9.5, 1.5, 3.0
LAMP_HEIGHT, GROUND = 20.5, -0.5
SHORTEST = 3.0  # of a shadow: the ball casts one where the rays run along the rod
LEFT, BOTTOM, WIDTH = -1.0, -1.0, 22.0  # what the picture shows
ROD_HALF, SHADOW_HALF = 0.4, 0.5  # half of their widths
ANGLES, LIGHTS = (-0.65, 0.65), (3.0, 17.0)
POSITIONS, LENGTHS = (2.0, 18.0), (SHORTEST, 11.1)  # what the mechanism makes of these, rounded outwards
WHITE, BLACK, RED, ORANGE = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.698, 0.133, 0.133), (1.0, 0.647, 0.0)
CAUSES, EFFECTS = ("angle", "light"), ("shadow_position", "shadow_length")
ROWS = 64  # images drawn at once: their arrays stay in the cache


class PendulumScene(FactorData):
    """The scene at `size` pixels, grey (1 channel) or in colour (3). Any four values can be shown, possible or not.

    `sample` draws scenes as the mechanism makes them. `change` and `images_of` set what is seen and leave the
    mechanism aside; `intervene` sets factors in the mechanism, so that their effects follow.
    """

    def __init__(self, size: int = 64, channels: int = 1) -> None:
        check_size(size, channels)
        self.name = "pendulum"
        self.image_shape = (channels, size, size)
        self.factors = (
            Factor("angle", "continuous", "of the pendulum from the vertical, to the right, in radians", (), (ANGLES,)),
            Factor("light", "continuous", "position of the lamp to the right, in units of the scene", (), (LIGHTS,)),
            Factor("shadow_position", "continuous", "middle of the shadow, in units of the scene", (), (POSITIONS,)),
            Factor("shadow_length", "continuous", "length of the shadow, in units of the scene", (), (LENGTHS,)),
        )

    @property
    def graph(self) -> np.ndarray:
        """Which factor causes which, bool `(cause, effect)`: angle and light each cause both of the shadow."""
        names = [factor.name for factor in self.factors]
        return np.array([[cause in CAUSES and effect in EFFECTS for effect in names] for cause in names])

    def draw(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return values `(sample, factor)` of scenes as the mechanism makes them, and identities, all 0."""
        angle, light = (factor.draw(count, generator) for factor in self.factors[:2])
        return np.stack([angle, light, *shadow(angle, light)], axis=1), np.zeros(count, dtype=np.int64)

    def draw_fixed(
        self, count: int, factor: str, generator: np.random.Generator, value: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values of scenes in which `factor` is set to one value, drawn from its range where none is given."""
        values, identity = self.draw(count, generator)
        column = self.place(factor)
        set_to = float(self.factors[column].draw(1, generator)[0]) if value is None else value
        return self.do(values, {factor: set_to}), identity

    def do(self, values: np.ndarray, interventions: Mapping[str, float | np.ndarray]) -> np.ndarray:
        """Return values `(sample, factor)` of the same scenes under do(`interventions`), each a number or `(sample,)`.

        Angle and light stay unless set; the shadow follows them unless set, which cuts it from its causes. Earlier
        interventions on the shadow are not remembered: give all of them at once. Raises DataError for a factor that
        does not exist or a value outside its range.
        """
        values, _ = self.checked(values, None)
        set_to = {self.place(factor): value for factor, value in interventions.items()}
        result = values.copy()
        for place, value in set_to.items():
            result[:, place] = value
        follow = np.stack(shadow(result[:, 0], result[:, 1]), axis=1)
        for place in {2, 3} - set(set_to):
            result[:, place] = follow[:, place - 2]
        return self.checked(result, None)[0]

    def intervene(self, samples: Samples, interventions: Mapping[str, float | np.ndarray]) -> Samples:
        """Return the same scenes under do(`interventions`), as `do` has it, with their images."""
        values = self.do(samples.values, interventions)
        return Samples(self.images_of(values), values, samples.identity)

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return the pictures of values `(sample, factor)`, whether or not such a shadow is possible.

        What of a shadow would lie outside the picture, under an intervention on its length or position, is not seen.
        """
        values, _ = self.checked(values, identity)
        images = np.empty((len(values), *self.image_shape), dtype=np.float32)
        for start in range(0, len(values), ROWS):
            images[start : start + ROWS] = self._paint(values[start : start + ROWS].astype(np.float32))
        return images

    def _paint(self, values: np.ndarray) -> np.ndarray:
        """Return pictures `(sample, channel, y, x)`, painted from back to front."""
        channels, size, _ = self.image_shape
        angle, light, position, length = values.T[:, :, None, None]
        pixel = WIDTH / size
        axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(pixel)
        x, y = LEFT + axis[None, None, :], BOTTOM + axis[None, ::-1, None]  # row 0 is on top
        # distance to the line from the pivot along the rod, in a frame in which the rod hangs straight down
        right, down = x - PIVOT[0], PIVOT[1] - y
        across = right * np.cos(angle) - down * np.sin(angle)
        along = right * np.sin(angle) + down * np.cos(angle)
        beyond = np.maximum(np.maximum(-along, along - ROD), 0)
        layers = (
            (np.hypot(across, beyond) - ROD_HALF, BLACK),
            (np.hypot(across, along - ROD) - BALL, RED),
            (np.hypot(x - light, y - LAMP_HEIGHT) - LAMP, ORANGE),
            (np.maximum(np.abs(x - position) - length / 2, np.abs(y - GROUND) - SHADOW_HALF), BLACK),
        )
        picture = np.broadcast_to(_paint_of(WHITE, channels), (len(values), channels, size, size)).copy()
        for distance, colour in layers:
            share = cover(distance, pixel)[:, None]
            picture += share * (_paint_of(colour, channels) - picture)
        return np.clip(picture, 0, 1)


def shadow(angle: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mechanism: position and length of the shadow of angle and light, each `(sample,)`."""
    slope = (light - PIVOT[0]) / (LAMP_HEIGHT - PIVOT[1])  # by how much a ray moves to the left as it falls by 1
    of_pivot = PIVOT[0] - (PIVOT[1] - GROUND) * slope
    end_x, end_y = PIVOT[0] + END * np.sin(angle), PIVOT[1] - END * np.cos(angle)
    of_end = end_x - (end_y - GROUND) * slope
    return (of_pivot + of_end) / 2, np.maximum(SHORTEST, np.abs(of_end - of_pivot))


def _paint_of(colour: tuple[float, float, float], channels: int) -> np.ndarray:
    """Return a colour as `(channel, 1, 1)`, its luma where there is one channel."""
    rgb = np.array(colour, dtype=np.float32)
    return (rgb if channels == 3 else rgb[None] @ LUMA).reshape(channels, 1, 1)
