"""Lesions of synthetic brains: where they are, which pixels they cover, what they look like. Ours.

`bright` is oedema and most tumours in FLAIR, `faint` a third of that, `dark` a cavity with the signal of fluid. `iso`
has the mean intensity of the grey and white matter of its patient, so that no threshold on intensity tells it from them.
What gives it away is the anatomy that should be there and is not: it lies where there is fluid (sulci, ventricles),
which it fills, as a tumour does that obliterates them, and it has no border of grey and white matter. Each pushes what
lies around it outwards (mass effect).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from diffmech.anomaly.anatomy import Anatomy
from diffmech.config.anomaly_data import SyntheticLesions
from diffmech.randomness import generator

EDGE = 2.0  # mm over which a lesion fades into what is around it
TENTORIUM, BELOW = -25.0, 0.15  # mm; below it, in the cerebellum and the brain stem, lesions are as much rarer
COARSE = 4  # of the maps, every so many voxels are enough for a place
WAVES = 6  # of which the outline of a lesion is made
# By how much of the signal of white matter `bright` differs from the tissue around, by modality.
CONTRAST = {"flair": 0.8, "t1": -0.3, "t1ce": 0.5, "t2": 0.8}
FAINT = 1 / 3


@dataclass(frozen=True)
class Lesion:
    """One lesion: `centre` `(3,)` and `radius` in mm, `stretch` `(3,)` of its axes, the waves `(wave, 3)` of its outline
    with their phases, by how much it pushes what is around it, and how strong its contrast is; both in shares."""

    kind: str
    centre: np.ndarray
    radius: float
    stretch: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    push: float
    strength: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return how far points `(3, ...)` in mm lie from the centre, in mm; its outline is at `radius`."""
        away = (points - self.centre.reshape(-1, *[1] * (points.ndim - 1))) / self.radius
        stretched = away / self.stretch.reshape(-1, *[1] * (points.ndim - 1))
        length = np.sqrt((stretched**2).sum(0))
        angles = np.tensordot(self.waves, away, 1) + self.phases.reshape(-1, *[1] * (points.ndim - 1))
        return np.asarray(self.radius * length * (1 + 0.25 * np.cos(angles).mean(0) * np.sqrt(WAVES)))

    def weight(self, points: np.ndarray) -> np.ndarray:
        """Return how much of what is at points `(3, ...)` is lesion, in [0, 1]; in its mask that is 1/2 or more."""
        return np.clip((self.radius - self.distance(points)) / EDGE + 0.5, 0, 1)

    def before(self, points: np.ndarray) -> np.ndarray:
        """Return where what is at points `(3, ...)` had been before the lesion pushed it there."""
        away = points - self.centre.reshape(-1, *[1] * (points.ndim - 1))
        near = np.exp(-(away**2).sum(0) / (1.5 * self.radius) ** 2)
        return points - self.push * near * away


def draw_lesions(anatomy: Anatomy, config: SyntheticLesions, seed: int, patient: int) -> list[Lesion]:
    """Return the lesions of one patient, none for a healthy one; those of a patient never depend on others."""
    random = generator(seed, "synthetic lesions", patient)
    if random.random() >= config.share:
        return []
    return [_draw(anatomy, config, random) for _ in range(random.integers(1, config.most, endpoint=True))]


def _draw(anatomy: Anatomy, config: SyntheticLesions, random: np.random.Generator) -> Lesion:
    kind = str(random.choice(config.kinds))
    radius = float(np.exp(random.uniform(*np.log(config.radius))))
    return Lesion(
        kind=kind,
        centre=_place(anatomy, kind, random),
        radius=radius,
        stretch=np.exp(random.normal(0, 0.15, 3)),
        waves=random.normal(0, 2.0, (WAVES, 3)),
        phases=random.uniform(0, 2 * np.pi, WAVES),
        push=float(random.uniform(0.1, 0.35)),
        strength=float(random.uniform(0.75, 1.25)),
    )


def _place(anatomy: Anatomy, kind: str, random: np.random.Generator) -> np.ndarray:
    """Draw a point of the brain, in mm: matter, or for `iso` what is near to fluid."""
    within, near_fluid = _densities(anatomy)
    density = near_fluid if kind == "iso" else within
    while True:  # by rejection: about one in ten is kept
        index = random.uniform(0, np.array(density.shape) - 1)
        point = anatomy.affine[:3, :3] @ (index * COARSE) + anatomy.affine[:3, 3]
        rare = BELOW if point[2] < TENTORIUM else 1.0
        if random.random() < rare * density[tuple(np.rint(index).astype(int))]:
            return np.asarray(point)


@cache
def _densities(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """Return how likely a lesion is at every fourth voxel of the maps: in matter, not right at the surface of the
    brain; and there where much fluid is near."""
    brain, fluid = anatomy.brain[::COARSE, ::COARSE, ::COARSE], anatomy.tissue[2, ::COARSE, ::COARSE, ::COARSE]
    deep = np.clip(4 * ndimage.gaussian_filter(brain, 8.0 / COARSE) - 3, 0, 1) * brain
    near_fluid = np.clip(ndimage.gaussian_filter(fluid, 6.0 / COARSE) / 0.4, 0, 1)
    return deep * (1 - fluid), deep * near_fluid**2


def paint(
    signal: np.ndarray, points: np.ndarray, lesion: Lesion, modality: str, signals: Sequence[float]
) -> np.ndarray:
    """Return the signal at points `(3, ...)` with a lesion in it; `signals` are those of grey and white matter and
    fluid of the patient in that modality."""
    grey, white, fluid = signals
    weight = lesion.weight(points)
    matter = (grey + white) / 2
    if lesion.kind == "dark":
        return np.asarray(signal + weight * (fluid - signal))
    if lesion.kind == "iso":
        return np.asarray(signal + weight * (matter - signal))
    strength = lesion.strength * (FAINT if lesion.kind == "faint" else 1.0)
    # some of the anatomy shows through
    shown = 0.5 * signal + 0.5 * matter
    return np.asarray(signal + weight * (shown + CONTRAST[modality] * white * strength - signal))
