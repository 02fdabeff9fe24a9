"""Tables and stores of a small study of VAEs whose content is known: what the page of VAEs is written from."""

import dataclasses
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.studies.vae import VaeStudy
from diffmech.randomness import generator
from diffmech.report.vae.inputs import OF_ALL
from diffmech.vae.tables import EDGES, OF_ONE, SCORES

REFERENCES = Path(__file__).parents[4] / "resources" / "references-vae.yaml"
FACTORS = ("shape", "scale", "orientation", "x", "y")
CAUSES = ("angle", "light", "shadow_position", "shadow_length")
TRUE = {
    ("angle", "shadow_position"),
    ("light", "shadow_position"),
    ("angle", "shadow_length"),
    ("light", "shadow_length"),
}
MEASURES = ("dci_disentanglement", "dci_completeness", "dci_informativeness", "mig", "sap", "factor_vae")
MOTIFS = ("positive chain", "negative chain", "coherent units", "incoherent units", "factor bi-fan", "fan-out")
EFFECTS = ("total", "direct", "indirect", "interaction")
LATENTS, ACTIVE, STEPS, SIZE = 6, 4, 7, 16


@dataclasses.dataclass(frozen=True)
class Planted:
    """What is true of a small study: every number of its tables follows from these."""

    learned: bool = True
    better: float = 0.2  # DCI of the second family over the first
    p_better: float = 0.01
    correlation: float = -0.8
    single: float = 0.25  # share of units that respond to one factor
    share: float = 0.6  # of a change that chosen units carry; random ones carry 0.2
    distance: int = 0  # of the graph read from latents
    p_motif: float = 0.01
    width: int = 8  # units of a layer


USUAL = Planted()


def study(*, vq: bool = False, seeds: int = 2, kinds: dict | None = None) -> VaeStudy:
    """Return the section of such a study: two families, and a VQ-VAE where it is asked for."""
    families = {
        "vae": {"kind": "vae"},
        "beta_tc": {"kind": "beta_tc_vae"},
        **({"vq": {"kind": "vq_vae"}} if vq else {}),
    }
    return VaeStudy.model_validate(
        {
            "data": kinds or {"sprites": {"kind": "dsprites_like"}},
            "families": families,
            "seeds": list(range(seeds)),
            "measures": {"draws": 200, "pairs": 64},
        }
    )


def write_study(folder: Path, vae: VaeStudy, planted: Planted = USUAL) -> dict:
    """Write every table and store of a study, and return the inputs of its page."""
    inputs: dict = {"references": REFERENCES}
    for data in vae.data:
        made = _Data(Path(folder), data, vae, planted)
        inputs |= {f"{data}__{name}": value for name, value in made.inputs().items()}
    return inputs


class _Data:
    def __init__(self, folder: Path, data: str, vae: VaeStudy, planted: Planted) -> None:
        self.folder, self.data, self.vae, self.planted = folder, data, vae, planted
        self.random = generator(0, "small vaes", data)
        self.changes = vae.data[data].changeable
        self.causal = vae.data[data].kind == "pendulum"
        self.factors = CAUSES if self.causal else FACTORS
        self.vaes = [(family, seed) for family in vae.families for seed in vae.seeds]
        self.continuous = [(family, seed) for family, seed in self.vaes if vae.families[family].kind != "vq_vae"]

    def inputs(self) -> dict:
        tables = {name: self._write(name, getattr(self, f"_{name}")()) for name in OF_ALL}
        tables["scores"] = [self._write_one("scores", SCORES, vae) for vae in self.vaes]
        tables["edges"] = [self._write_one("edges", EDGES, vae) for vae in self.vaes] if self.changes else []
        return {**tables, "codes": [self._codes(family, seed) for family, seed in self.vaes]}

    def _write(self, name: str, rows: list) -> Path:
        path = self.folder / OF_ALL[name].at(data=self.data)
        OF_ALL[name].write(path, OF_ALL[name].frame(rows))
        return path

    def _write_one(self, name: str, table, vae: tuple) -> Path:
        path = self.folder / table.at(data=self.data, family=vae[0], vae_seed=str(vae[1]))
        rows = getattr(self, f"_{name}")(*vae)
        table.write(path, table.frame([(*row, *[None] * (len(table.columns) - len(row))) for row in rows]))
        return path

    def _noise(self, scale: float) -> float:
        return float(self.random.normal(0, scale))

    def _around(self, value: float, half: float) -> tuple[float, float, float]:
        return value, value - half, value + half

    def _layers(self) -> list[str]:
        return [f"encoder.conv{n}" for n in (1, 2, 3)] + ["encoder.hidden", "decoder.hidden", "decoder.conv1"]

    def _models(self) -> list:
        learned = self.planted.learned
        nats = 40.0 if learned else 160.0
        return [
            (*vae, nats + self._noise(2), 163.0, nats + 15, learned, LATENTS, ACTIVE, None, 250000, 800, 41.5)
            if vae in self.continuous
            else (*vae, nats, 163.0, nats + 60, learned, None, None, 37.5, 250000, 800, 39.0)
            for vae in self.vaes
        ]

    def _latents(self) -> list:
        rows = []
        for vae in self.continuous:
            for latent in range(LATENTS):
                active = latent < ACTIVE
                size = (0.12 - 0.02 * latent + abs(self._noise(0.01))) if active else 0.0004
                raw, pixels = 16 * size * 1.4, size * 1.4
                factor, spread = (
                    (self.factors[latent % len(self.factors)], 0.7 - 0.1 * latent + self._noise(0.02))
                    if self.changes
                    else (None, None)
                )
                ends = (*self._around(raw, raw / 10), pixels, *self._around(size, size / 10))
                rows.append(
                    (*vae, latent, active, 0.9, *ends, size / 2, size * 1.3, 0.17, 0.3 + 0.02 * latent, factor, spread)
                )
        return rows

    def _effects(self) -> list:
        if not self.changes:
            return []
        return [
            (*vae, factor, latent, *self._around(value, 0.05), 0.3, 64)
            for vae in self.continuous
            for place, factor in enumerate(self.factors)
            for latent in range(LATENTS)
            for value in [(1.2 if latent == place else 0.15) + abs(self._noise(0.1))]
        ]

    def _units(self) -> list:
        if not self.changes:
            return []
        rows = []
        for vae in self.vaes:
            for layer in self._layers():
                for unit in range(self.planted.width):
                    single = unit < self.planted.single * self.planted.width
                    silent = unit == self.planted.width - 1
                    ratio = 1.3 if single else 3 + abs(self._noise(0.5))
                    p = 0.001 if single else 0.4
                    kind = "silent" if silent else "monosemantic" if single else "polysemantic"
                    numbers = (None,) * 5 if silent else (1 / ratio, ratio, p, p, p)
                    factor = None if silent else self.factors[unit % len(self.factors)]
                    rows.append((*vae, layer, unit, factor, *numbers, kind))
        return rows

    def _patching(self) -> list:
        if not self.changes:
            return []
        units = max(1, self.planted.width // 8)
        return [
            (
                *vae,
                layer,
                factor,
                units,
                self.planted.width,
                *self._around(share, 0.1),
                *self._around(0.2, 0.1),
                units + 1,
            )
            for vae in self.vaes
            for layer in self._layers()
            for factor in self.factors
            for share in [self.planted.share + self._noise(0.03)]
        ]

    def _mediation(self) -> list:
        if not self.changes:
            return []
        effects = dict(zip(EFFECTS, (1.0, 0.3, 0.5, 0.2), strict=True))
        return [
            (*vae, layer, factor, place % LATENTS, 1, *parts, 1e-7, 0.1)
            for vae in self.continuous
            for layer in self._layers()[:4]
            for place, factor in enumerate(self.factors)
            for parts in [[end for name in EFFECTS for end in self._around(effects[name] + self._noise(0.1), 0.1)]]
        ]

    def _modularity(self) -> list:
        if not self.changes:
            return []
        width = self.planted.width
        return [
            (*vae, layer, width, 0.7 + self._noise(0.03), 0.95, 0.6) for vae in self.vaes for layer in self._layers()
        ]

    def _motifs(self) -> list:
        if not self.changes:
            return []
        counts = {"coherent units": (60, 30.0, self.planted.p_motif), "fan-out": (44, 44.0, None)}
        return [
            (*vae, "encoder.hidden", motif, found, expected, expected - 10, expected + 10, p, p)
            for vae in self.continuous
            for motif in MOTIFS
            for found, expected, p in [counts.get(motif, (30, 31.0, 0.6))]
        ]

    def _links(self) -> list:
        if not self.changes:
            return []
        rows = []
        for vae in self.continuous:
            for unit in range(self.planted.width):
                for step in (0, 2):
                    factor = self.factors[(unit + step) % len(self.factors)]
                    weight = (-1) ** unit * (0.9 - 0.2 * step) * (0.5 + 0.5 / (unit + 1))
                    rows.append((*vae, "encoder.hidden", factor, f"unit {unit}", "factor-unit", weight, 0.001))
                weight = (-1) ** (unit // 2) * (0.4 + 0.4 / (unit + 1))
                target = f"latent {unit % ACTIVE}"
                rows.append((*vae, "encoder.hidden", f"unit {unit}", target, "unit-latent", weight, 0.002))
            for latent in range(ACTIVE):
                for place, output in enumerate(("brightness", "centre_x", "centre_y", "spread")):
                    weight = 0.8 if place == latent else 0.3
                    ends = ("encoder.hidden", f"latent {latent}", output, "latent-output", weight, 0.003)
                    rows.append((*vae, *ends))
        return rows

    def _graphs(self) -> list:
        if not self.changes:
            return []
        true = len(TRUE) if self.causal else 0
        distance = self.planted.distance
        levels = [("generator", true, 0, None), ("inputs", true + distance, distance, 0.83)]
        levels.append(("untrained", true, 0, 0.7))
        p = 0.02 if self.causal and distance < 3 else 1.0
        return [
            (*vae, level, edges, true, far, 5.1 if true else float(edges), p, readout)
            for vae in self.vaes
            for level, edges, far, readout in levels
        ]

    def _swaps(self) -> list:
        rows = []
        for vae in [vae for vae in self.vaes if vae not in self.continuous]:
            rows.append((*vae, "neighbour", *self._around(0.021, 0.002), 0.8, None))
            rows.append((*vae, "random", *self._around(0.063, 0.004), 0.7, None))
            note = "undefined: codes have no order; the same code is chosen again in 71 % of places"
            rows.append((*vae, "shift", *self._around(0.004, 0.001), 0.6, note))
        return rows

    def _families(self) -> list:
        rows, plain = [], next(iter(self.vae.families))
        several = len(self.vae.seeds) > 1
        for measure in (*MEASURES, "raw_strength", "calibrated_strength", "reconstruction", "active_latents"):
            for family in dict.fromkeys(family for family, _ in self.continuous):
                base = {"reconstruction": 40.0, "active_latents": 4.0, "raw_strength": 2.0}.get(measure, 0.2)
                mean = base if family == plain else base + self.planted.better
                ends = (mean - 0.05, mean + 0.05) if several else (None, None)
                other = (None,) * 5
                if family != plain:
                    better, p = self.planted.better, self.planted.p_better
                    other = (better, better - 0.1, better + 0.1, p, p) if several else (better, None, None, None, None)
                rows.append((measure, family, mean, *ends, *other, len(self.vae.seeds)))
        return rows

    def _relation(self) -> list:
        if len(self.continuous) < 3:
            return []
        value = self.planted.correlation
        ends = max(-1, value - 0.15), min(1, value + 0.15)
        return [
            (strength, measure, value, *ends, value / 2, 0.01, len(self.continuous))
            for strength in ("raw", "per_pixel", "calibrated")
            for measure in ("dci_disentanglement", "mig")
        ]

    def _scores(self, family: str, seed: int) -> list:
        first = family == next(iter(self.vae.families))
        better = 0 if first else self.planted.better
        inputs = "means of 2,000 images; 5 factors (orientation and place as numbers); boosted trees"
        return [(m, 0.2 + better + 0.01 * seed + 0.03 * n, 0.02, 0.05, 0.9, inputs) for n, m in enumerate(MEASURES)]

    def _edges(self, family: str, seed: int) -> list:
        rows = []
        for level in ("generator", "inputs"):
            false = self.planted.distance if level == "inputs" else 0
            for cause in self.factors:
                for effect in self.factors:
                    if cause == effect:
                        continue
                    true = self.causal and (cause, effect) in TRUE
                    wrong = not true and false > 0
                    false -= wrong
                    size = 0.9 if true else 0.4 if wrong else 0.01
                    rows.append(
                        (level, cause, effect, true, size, 0.02, 0.001 if true or wrong else 1.0, true or wrong)
                    )
        return rows

    def _codes(self, family: str, seed: int) -> Path:
        continuous = (family, seed) in self.continuous
        pictures = {
            "original": (("example", "y", "x", "channel"), np.stack([square(n, 5) for n in range(5)])),
            "reconstruction": (("example", "y", "x", "channel"), np.stack([square(n, 6) for n in range(5)])),
        }
        if continuous:
            moved = np.stack([[square(step, 5 + latent) for step in range(STEPS)] for latent in range(LATENTS)])
            pictures["traversal"] = (("latent", "step", "y", "x", "channel"), moved)
        else:
            swapped = np.stack([[square(n, 3 + kind) for n in range(5)] for kind in range(2)])
            pictures["swapped"] = (("swap", "example", "y", "x", "channel"), swapped)
        coords = {} if continuous else {"swap": np.array(["neighbour", "random"])}
        attrs = {"data": self.data, "family": family, "vae_seed": seed, "continuous": continuous}
        path = self.folder / OF_ONE.format(data=self.data, family=family, vae_seed=seed) / "codes.zarr.zip"
        tree = {"/": xr.Dataset(attrs=attrs), "/pictures": xr.Dataset(pictures, coords=coords)}
        write_store(path, xr.DataTree.from_dict(tree))
        return path


def square(place: int, top: int) -> np.ndarray:
    """Return an image of a bright square, uint8 `(y, x, 1)`."""
    image = np.zeros((SIZE, SIZE, 1), np.uint8)
    image[top : top + 4, place : place + 5] = 240
    return image
