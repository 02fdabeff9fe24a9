"""How the page of VAEs calls measures, and what it takes of many VAEs."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffmech.config.section import Inference
from diffmech.config.studies.vae import VaeStudy
from diffmech.findings import Estimate
from diffmech.statistics.bootstrap import bootstrap_mean

DCI, MIG = "dci_disentanglement", "mig"
NAMES = {
    DCI: "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    MIG: "MIG",
    "sap": "SAP",
    "factor_vae": "FactorVAE score",
    "infomec_modularity": "InfoM (modularity)",
    "infomec_compactness": "InfoC (compactness)",
    "infomec_explicitness": "InfoE (explicitness)",
    "raw": "effect strength, raw",
    "per_pixel": "effect strength per pixel",
    "calibrated": "effect strength, calibrated",
    "raw_strength": "effect strength, raw",
    "calibrated_strength": "effect strength, calibrated",
    "reconstruction": "reconstruction",
    "active_latents": "active latents",
}
PLAIN, CODES = "vae", "vq_vae"  # kinds of families


def measure_words(measure: str) -> str:
    """Return the name of a score or effect as a reader knows it."""
    return NAMES.get(measure, measure.replace("_", " "))


def having(frame: pd.DataFrame, *measures: str) -> pd.DataFrame:
    """Return the rows of `measures`."""
    return frame[frame["measure"].isin(measures)]


def of_kind(vae: VaeStudy, kind: str) -> list[str]:
    """Return the names of the families of a kind."""
    return [name for name, family in vae.families.items() if family.kind == kind]


def of_first_seed(frame: pd.DataFrame, vae: VaeStudy) -> pd.DataFrame:
    """Return the rows of the first seed of each family."""
    return frame[frame["vae_seed"] == vae.seeds[0]]


def vae_words(family: str, seed: int) -> str:
    """Return the name of one VAE."""
    return f"{family}, seed {seed}"


def ordered(names: "pd.Series[str]") -> list[str]:
    """Return each name once, in the order in which they come."""
    return [str(name) for name in dict.fromkeys(names)]


class Mean(NamedTuple):
    """A mean and the ends of its interval, NaN where there is none."""

    value: float
    low: float
    high: float


def over_vaes(values: Iterable[float], settings: Inference) -> Mean:
    """Return the mean of one number per VAE with its bootstrap interval over VAEs, NaN ends for a single one."""
    known = np.array(list(values), dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Mean(np.nan, np.nan, np.nan)
    found = bootstrap_mean(known, draws=settings.draws, confidence=settings.confidence)
    return Mean(float(found.estimate), float(found.low), float(found.high))


def estimate(what: str, mean: Mean, unit: str = "") -> Estimate | None:
    """Return a mean as the number that a finding rests on, None where it has no interval."""
    return Estimate(what, *mean, unit=unit) if np.isfinite(mean).all() else None


def per_vae(frame: pd.DataFrame, values: "pd.Series[float]") -> list[float]:
    """Return the mean of `values`, one per row of `frame`, of each VAE."""
    return list(values.groupby([frame["family"], frame["vae_seed"]], sort=False).mean())


def over_all(p_values: Iterable[float]) -> float:
    """Return one p of the hypothesis that nothing is there in any VAE, from the p of each.

    It is n / k times the k-th smallest, with k half of them, rounded up (Rueger 1978), which holds however VAEs depend:
    they share images and untrained twins.
    """
    known = sorted(p_values)
    half = -(-len(known) // 2)
    return min(1.0, len(known) / half * known[half - 1]) if known else 1.0
