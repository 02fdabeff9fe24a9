"""The tables of a data set that are made of what factors do inside its VAEs (`diffmech.vae.factor_study`). Ours.

Opening a store takes longer than all that is done with it here, so `read_studies` reads all of them once, and every
table is made of what it returns. All VAEs of a data set see the same pairs, and what is resampled is resampled alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import open_store
from diffmech.config.studies.vae import VaeMeasures
from diffmech.errors import StoreError
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.tables import Table
from diffmech.vae.effects import modularity
from diffmech.vae.factor_study import EFFECTS as MEDIATED
from diffmech.vae.factor_study import halves_of
from diffmech.vae.tables import EFFECTS, MEDIATION, MODULARITY, PATCHING, UNITS
from diffmech.vae.units import Activity, units_of

HALF = 0.5  # share of the change of the output for which units are counted
READ = (
    *("activity", "signed", "alone", "chosen", "together", "random_together"),
    *("compared", "twins", "twins_changing", "twins_signed", "mediation", "random_indirect"),
    *("unit_latent", "tried"),
)
Layer = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Study:
    """One factor inside one VAE: the arrays of the root of its store, and of each of its layers by name."""

    family: str
    seed: int
    factor: str
    latent: int | None
    root: Layer
    layers: Mapping[str, Layer]

    @property
    def key(self) -> dict[str, Any]:
        """The columns that say which VAE it is."""
        return {"family": self.family, "vae_seed": self.seed}

    def weight(self, layer: str) -> np.ndarray:
        """Return how much the output of the network that a layer is of changes, `(pair,)`."""
        return self.root[f"{layer.split('.')[0]}_weight"].astype(np.float64)


def factor_tables(studies: Sequence[Study], outputs: Mapping[str, Path], *, measures: VaeMeasures) -> None:
    """Write the tables of effects, units, patching, mediation and modularity that `outputs` has, by their names, from
    what all factors do in all VAEs of one data set; without rows where there are none."""
    for table, write in WRITERS.items():
        if table in outputs:
            write(studies, outputs[table], measures=measures)


def read_studies(paths: Iterable[Path]) -> list[Study]:
    """Return what the stores of factors hold. Raises StoreError for one that is missing or not whole."""
    return [_read(Path(path)) for path in paths]


def effects_table(studies: Sequence[Study], output: Path, *, measures: VaeMeasures) -> None:
    """Write EFFECTS: what each factor does to each latent; nothing of a VQ-VAE, which has none."""
    rows: list[dict[str, Any]] = []
    of_latents = [study for study in studies if study.latent is not None]
    for study in of_latents:
        moved = np.abs(study.root["moved"].astype(np.float64))
        found = bootstrap_mean(moved, **_resampling(measures))
        untrained = study.root["twins_moved"].mean(0)
        rows += [
            {
                **study.key,
                "factor": study.factor,
                "latent": latent,
                **_ends("change", "", found, latent),
                "untrained": untrained[latent],
                "pairs": len(moved),
            }
            for latent in range(moved.shape[1])
        ]
    _write(EFFECTS, output, rows)


def units_table(studies: Sequence[Study], output: Path, *, measures: VaeMeasures) -> None:
    """Write UNITS: which factors each unit responds to."""
    rows: list[dict[str, Any]] = []
    for of_vae in _by_vae(studies):
        factors = [study.factor for study in of_vae]
        names = list(of_vae[0].layers)
        found = units_of(
            [
                Activity(
                    own=_stacked(of_vae, name, "activity"),
                    compared=_stacked(of_vae, name, "compared"),
                    twins=_stacked(of_vae, name, "twins").swapaxes(0, 1),
                    twins_changing=_stacked(of_vae, name, "twins_changing").swapaxes(0, 1),
                )
                for name in names
            ],
            permutations=measures.permutations,
            alpha=measures.alpha,
            seed=measures.seed,
        )
        for name, units in zip(names, found, strict=True):
            most = np.nan_to_num(units.shares, nan=-1).argmax(0)
            rows += [
                {
                    **of_vae[0].key,
                    "layer": name,
                    "unit": unit,
                    "factor": None if np.isnan(units.participation[unit]) else factors[most[unit]],
                    "share": units.shares[most[unit], unit],
                    "participation": units.participation[unit],
                    "p_permuted": units.p_permuted[unit],
                    "p_untrained": units.p_untrained[unit],
                    "p_corrected": units.p_corrected[unit],
                    "kind": str(units.kind[unit]),
                }
                for unit in range(len(most))
            ]
    _write(UNITS, output, rows)


def patching_table(studies: Sequence[Study], output: Path, *, measures: VaeMeasures) -> None:
    """Write PATCHING: how few units of each layer carry what each factor does.

    Shares are `sum <d_unit, d> / sum <d, d>` over pairs, empty where the output does not change.
    """
    cells = [(study, name) for study in studies for name in study.layers]
    rows: list[dict[str, Any]] = []
    if cells:
        second = [halves_of(len(study.root["before"]))[1] for study, _ in cells]
        weight = np.stack([study.weight(name)[half] for (study, name), half in zip(cells, second, strict=True)], axis=1)
        together = np.stack([study.layers[name]["together"] for study, name in cells], axis=1)
        found = bootstrap_statistic(_ratio, together * weight, weight, **_resampling(measures))
    tails = np.array([1 - measures.confidence, 1 + measures.confidence]) / 2
    for place, (study, name) in enumerate(cells):
        layer = study.layers[name]
        tried, _ = halves_of(len(study.root["before"]))
        weights = study.weight(name)[tried]
        first, later = np.array_split(weights[:, None] * layer["alone"], 2)
        some = weights[len(first) :]
        random = _ratio((layer["random_together"] * some).sum(1), some.sum())
        order = np.argsort(-first.sum(0), kind="stable")
        carried = np.cumsum(_ratio(later.sum(0), some.sum())[order])
        low, high = np.quantile(random, tails)
        rows.append(
            {
                **study.key,
                "layer": name,
                "factor": study.factor,
                "units": len(layer["chosen"]),
                "of": len(order),
                **_ends("share", "", found, place),
                "random": random.mean(),
                "random_low": low,
                "random_high": high,
                "half": 1 + int(np.argmax(carried >= HALF)) if (carried >= HALF).any() else None,
            }
        )
    _write(PATCHING, output, rows)


def mediation_table(studies: Sequence[Study], output: Path, *, measures: VaeMeasures) -> None:
    """Write MEDIATION: through which units of the encoder a factor moves the latent that it moves most."""
    cells = [(study, name) for study in studies for name, layer in study.layers.items() if "mediation" in layer]
    rows: list[dict[str, Any]] = []
    if cells:
        every = np.stack([study.layers[name]["mediation"].T for study, name in cells], axis=1)  # (pair, cell, effect)
        found = bootstrap_mean(every, **_resampling(measures))
        residual = np.abs(every[..., 0] - every[..., 1:].sum(2)).max(0)
    for place, (study, name) in enumerate(cells):
        layer = study.layers[name]
        rows.append(
            {
                **study.key,
                "layer": name,
                "factor": study.factor,
                "latent": study.latent,
                "units": len(layer["chosen"]),
                **{
                    column: value
                    for effect, label in enumerate(MEDIATED)
                    for column, value in _ends(label, f"{label}_", found, (place, effect)).items()
                },
                "residual": residual[place],
                "random": layer["random_indirect"].mean(),
            }
        )
    _write(MEDIATION, output, rows)


def modularity_table(studies: Sequence[Study], output: Path, *, measures: VaeMeasures) -> None:
    """Write MODULARITY: whether the units of a layer change together, over the pairs of all factors.

    All three numbers are of the pairs that untrained twins have seen: correlations of fewer pairs are larger by chance.
    """
    rows: list[dict[str, Any]] = []
    for of_vae in _by_vae(studies):
        for name in of_vae[0].layers:
            tried, _ = halves_of(len(of_vae[0].root["before"]))
            changes = _stacked(of_vae, name, "signed")[:, tried].reshape(len(of_vae) * len(tried), -1)
            twins = _stacked(of_vae, name, "twins_signed").swapaxes(0, 1)
            source = generator(measures.seed, "changes of units permuted", name)
            found, units = modularity(changes)
            of_twins = np.array([modularity(twin.reshape(len(changes), -1))[0] for twin in twins])
            known = of_twins[~np.isnan(of_twins)]
            rows.append(
                {
                    **of_vae[0].key,
                    "layer": name,
                    "units": units,
                    "modularity": found,
                    "ceiling": modularity(source.permuted(changes, axis=0))[0],
                    "untrained": known.mean() if known.size else np.nan,
                }
            )
    _write(MODULARITY, output, rows)


WRITERS = {
    EFFECTS.name: effects_table,
    UNITS.name: units_table,
    PATCHING.name: patching_table,
    MEDIATION.name: mediation_table,
    MODULARITY.name: modularity_table,
}


def _read(path: Path) -> Study:
    tree = open_store(path)
    try:
        told = tree.attrs
        latent = int(told["latent"])
        return Study(
            family=str(told["family"]),
            seed=int(told["vae_seed"]),
            factor=str(told["factor"]),
            latent=None if latent < 0 else latent,
            root={str(name): each.to_numpy() for name, each in tree.data_vars.items()},
            layers={
                str(name): {key: tree[name][key].to_numpy() for key in READ if key in tree[name].variables}
                for name in told["layers"]
            },
        )
    except KeyError as error:
        raise StoreError(
            f"{path}: is no whole study of a factor ({error} is missing); delete it and let the factor be studied anew"
        ) from error


def _by_vae(studies: Sequence[Study]) -> list[list[Study]]:
    """Return the studies of each VAE, in the order in which they are given."""
    found: dict[tuple[str, int], list[Study]] = {}
    for study in studies:
        found.setdefault((study.family, study.seed), []).append(study)
    return list(found.values())


def _stacked(studies: Sequence[Study], layer: str, name: str) -> np.ndarray:
    """Return an array of one layer of all factors, `(factor, ...)`, in float64."""
    return np.stack([study.layers[layer][name] for study in studies]).astype(np.float64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(denominator, np.shape(numerator))
    return np.divide(numerator, whole, out=np.full(np.shape(numerator), np.nan), where=whole > 0)


def _resampling(measures: VaeMeasures) -> dict[str, Any]:
    return {"draws": measures.draws, "confidence": measures.confidence, "seed": measures.seed}


def _ends(name: str, prefix: str, found: Any, place: Any) -> dict[str, float]:
    """Return an estimate and the ends of its interval as cells."""
    estimate, low, high = (np.asarray(each)[place] for each in (found.estimate, found.low, found.high))
    return {name: float(estimate), f"{prefix}low": float(low), f"{prefix}high": float(high)}


def _write(table: Table, output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table.write(output, table.frame(rows))
