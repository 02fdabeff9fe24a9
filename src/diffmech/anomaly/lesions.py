"""Lesions of synthetic brains: where they are, which pixels they cover, what they look like. Ours.

`bright` is oedema and most tumours in FLAIR, `faint` a third of that, `dark` a cavity with the signal of fluid. `iso`
is cortex of the same patient, with the fluid between its folds, in white matter where there is none, as in heterotopia:
in every modality its intensities are as frequent as in the whole brain, so that no threshold sees it, and what gives it
away is where they are (compare foreign patches, Tan et al. 2022). All but `iso` push what lies around them outwards.
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
FARTHEST = 2.5  # radii from its centre, beyond which there is none of a lesion


@dataclass(frozen=True)
class Lesion:
    """One lesion: `centre` `(3,)` and `radius` in mm, `stretch` `(3,)` of its axes, the waves `(wave, 3)` of its
    outline with their phases, by how much it pushes what is around it, how strong its contrast is, both in shares, and
    how far away `(3,)` in mm what is in it should be, 0 for all but `iso`."""

    kind: str
    centre: np.ndarray
    radius: float
    stretch: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    push: float
    strength: float
    shift: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return how far points `(3, point)` in mm lie from the centre, in mm; its outline is at `radius`."""
        away = (points - self.centre[:, None]) / self.radius
        length = np.linalg.norm(away / self.stretch[:, None], axis=0)
        waves = np.cos(self.waves @ away + self.phases[:, None]).mean(0)
        return np.asarray(self.radius * length * (1 + 0.25 * np.sqrt(WAVES) * waves))

    def weight(self, points: np.ndarray) -> np.ndarray:
        """Return how much of what is at points `(3, point)` is lesion, float32 `(point,)`; from 1/2 on is its mask."""
        near = ((points - self.centre[:, None]) ** 2).sum(0) < (FARTHEST * self.radius + EDGE) ** 2
        weight = np.zeros(points.shape[1], dtype=np.float32)
        weight[near] = np.clip((self.radius - self.distance(points[:, near])) / EDGE + 0.5, 0, 1)
        return weight

    def before(self, points: np.ndarray) -> np.ndarray:
        """Return where what is at points `(3, point)` had been before the lesion pushed it there."""
        away = points - self.centre[:, None]
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
    moved = kind == "iso"
    radius = float(np.exp(random.uniform(*np.log(config.radius))))
    density = _densities(anatomy)
    centre = _place(anatomy, density["core" if moved else "matter"], random)
    return Lesion(
        kind=kind,
        centre=centre,
        radius=radius,
        stretch=np.exp(random.normal(0, 0.15, 3)),
        waves=random.normal(0, 2.0, (WAVES, 3)),
        phases=random.uniform(0, 2 * np.pi, WAVES),
        push=0.0 if moved else float(random.uniform(0.1, 0.35)),
        strength=float(random.uniform(0.75, 1.25)),
        shift=_place(anatomy, density["cortex"], random) - centre if moved else np.zeros(3),
    )


def _place(anatomy: Anatomy, density: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a point of the brain in mm by its density, which is given at some of the voxels; fewer lie far down."""
    while True:  # by rejection: about one in ten is kept
        index = random.uniform(0, np.array(density.shape) - 1)
        point = anatomy.affine[:3, :3] @ (index * COARSE) + anatomy.affine[:3, 3]
        rare = BELOW if point[2] < TENTORIUM else 1.0
        if random.random() < rare * density[tuple(np.rint(index).astype(int))]:
            return np.asarray(point)


@cache
def _densities(anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Return densities at every fourth voxel of the maps: of matter that is not right at the surface of the brain, of
    its core, where no folds are near, and of cortex with folds."""
    coarse = anatomy.tissue[:, ::COARSE, ::COARSE, ::COARSE]
    brain = coarse.sum(0)
    grey, white, fluid = (ndimage.gaussian_filter(share, 6.0 / COARSE) for share in coarse)
    deep = np.clip(4 * ndimage.gaussian_filter(brain, 8.0 / COARSE) - 3, 0, 1) * brain
    core = np.clip((white - 0.6) / 0.2, 0, 1)
    cortex = deep * np.clip(fluid / 0.3, 0, 1) ** 2 * np.clip(grey / 0.5, 0, 1) ** 2
    return {"matter": deep * (1 - coarse[2]), "core": core, "cortex": cortex}


def paint(
    signal: np.ndarray, weight: np.ndarray, lesion: Lesion, modality: str, signals: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the signal `(point,)` with a lesion of that weight `(point,)` in it; `signals` are those of grey and white
    matter and fluid of the patient in that modality."""
    grey, white, fluid = signals
    matter = (grey + white) / 2
    if lesion.kind == "dark":
        return np.asarray(signal + weight * (fluid - signal))
    if lesion.kind == "iso":  # other tissue, and no other signal
        return signal
    strength = lesion.strength * (FAINT if lesion.kind == "faint" else 1.0)
    # some of the anatomy shows through
    shown = 0.5 * signal + 0.5 * matter
    return np.asarray(signal + weight * (shown + CONTRAST[modality] * white * strength - signal))
