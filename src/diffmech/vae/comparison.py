"""What families differ in, over seeds, and whether effect strength goes with disentanglement, over VAEs.

A seed is the unit of the first: means with intervals by Student's t, differences from the plain VAE with intervals and
p by Welch's t (Welch 1947), corrected over the families of a measure by Holm-Sidak. One seed has no interval and no
test, and neither have seeds that all give the same number.

A VAE is the unit of the second: Spearman's correlation, its percentile bootstrap interval, and a permutation p. VAEs of
one family are alike in both, which makes a correlation between families of that between VAEs: so the correlation of
ranks within each family stands beside it. Effect strengths are means over active latents, so a VAE with many that are
barely active (a variance just above 0.01) has a small one: read it beside how many there are. Ours.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from diffmech.config.studies.vae import VaeMeasures
from diffmech.config.vae import AnyFamily, PlainVae
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import resampling_weights, welch_freedom
from diffmech.statistics.multiplicity import holm_sidak
from diffmech.statistics.permutation import permutation_p
from diffmech.vae.disentanglement import MEASURES
from diffmech.vae.stores import which_vae
from diffmech.vae.strengths import FEWEST, STRENGTHS, mean_strengths
from diffmech.vae.tables import FAMILIES, LATENTS, MODELS, RELATION, SCORES

if TYPE_CHECKING:
    import pandas as pd

Vae = tuple[str, int]  # family and seed
RELATED = ("dci_disentanglement", "mig")
COMPARED = (*MEASURES, "raw_strength", "calibrated_strength", "reconstruction", "active_latents")
NONE = float("nan")


def families_table(
    scores: Sequence[Path],
    models: Path,
    latents: Path,
    output: Path,
    *,
    families: Mapping[str, AnyFamily],
    measures: VaeMeasures,
) -> None:
    """Write FAMILIES from the SCORES of all VAEs of a data set and its MODELS and LATENTS.

    The plain VAE is the first of `families` of that kind; without one nothing is compared.
    """
    values = _scores(scores)
    for (family, seed), mean in _strengths(latents).items():
        values[family, seed] |= {f"{name}_strength": mean[name] for name in ("raw", "calibrated")}
    for row in MODELS.read(models).to_dict("records"):
        of = (str(row["family"]), int(row["vae_seed"]))
        values[of] |= {"reconstruction": row["reconstruction"], "active_latents": row["active_latents"]}
    plain = next((name for name, family in families.items() if isinstance(family, PlainVae)), None)
    rows: list[dict[str, Any]] = []
    for measure in COMPARED:
        of_families = {name: _of(values, name, measure) for name in families}
        compared = [
            compare(of_families[name], of_families[plain] if plain not in (None, name) else np.array([]), measures)
            for name in families
        ]
        corrected = holm_sidak([one["p"] for one in compared])
        for name, one, p in zip(families, compared, corrected, strict=True):
            rows.append({"measure": measure, "family": name, **one, "p_corrected": p, "n": len(of_families[name])})
    FAMILIES.write(output, FAMILIES.frame(rows))


def relation_table(scores: Sequence[Path], models: Path, latents: Path, output: Path, *, measures: VaeMeasures) -> None:
    """Write RELATION from the SCORES of all VAEs of a data set and its MODELS and LATENTS.

    A VQ-VAE has no effect strength; one that has not learned its images is left out.
    """
    values, table = _scores(scores), MODELS.read(models)
    learned = table[table["learned"]]
    strengths = _strengths(latents)
    kept = list(zip(learned["family"], learned["vae_seed"], strict=True))
    strengths = {of: found for of, found in strengths.items() if of in kept}
    rows = []
    for strength in STRENGTHS:
        for measure in RELATED:
            known = [
                (family, strengths[family, seed][strength], values[family, seed].get(measure, NONE))
                for family, seed in sorted(strengths)
            ]
            known = [one for one in known if np.isfinite(one[1:]).all()]
            names = np.array([family for family, _, _ in known])
            first, second = (np.array([one[part] for one in known], dtype=np.float64) for part in (1, 2))
            rows.append({"strength": strength, "measure": measure, **relation(first, second, names, measures)})
    RELATION.write(output, RELATION.frame(rows))


def compare(values: np.ndarray, plain: np.ndarray, measures: VaeMeasures) -> dict[str, float]:
    """Return mean and difference with their intervals and the p of Welch's t, of values `(seed,)` of two families."""
    n, others = len(values), len(plain)
    level = (1 + measures.confidence) / 2
    mean = float(values.mean()) if n else NONE
    wide = stats.t.ppf(level, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else NONE
    difference = mean - float(plain.mean()) if n and others else NONE
    half, p = NONE, NONE
    if n > 1 and others > 1:
        parts = [values.var(ddof=1) / n, plain.var(ddof=1) / others]
        error = float(np.sqrt(sum(parts)))
        if error > 0:
            freedom = float(welch_freedom(parts, [n, others]))
            half = float(stats.t.ppf(level, freedom)) * error
            p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return {
        "mean": mean,
        "low": mean - wide,
        "high": mean + wide,
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
        "p": p,
    }


def relation(first: np.ndarray, second: np.ndarray, names: np.ndarray, measures: VaeMeasures) -> dict[str, float]:
    """Return Spearman's correlation of two values `(vae,)` with its interval, that of ranks within the families that
    `names` `(vae,)` gives, and p. NaN below four VAEs, or where a value never differs; `within` is NaN where no family
    has two VAEs that differ in both."""
    n = len(first)
    nothing = dict.fromkeys(("correlation", "low", "high", "within", "p"), NONE)
    if n < FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return {**nothing, "n": n}
    a, b = stats.rankdata(first), stats.rankdata(second)
    found = float(_correlations(a, b))
    picked = np.rint(resampling_weights(n, measures.draws, measures.seed) * n).astype(np.int64)
    rows = np.stack([np.repeat(np.arange(n), counts) for counts in picked])
    resampled = _correlations(stats.rankdata(first[rows], axis=1), stats.rankdata(second[rows], axis=1))
    tail = (1 - measures.confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    source = generator(measures.seed, "permutation of VAEs")
    orders = source.permuted(np.tile(np.arange(n), (measures.permutations, 1)), axis=1)
    null = np.abs(_correlations(np.broadcast_to(a, orders.shape), b[orders]))
    p = permutation_p(abs(found), null)
    return {"correlation": found, "low": low, "high": high, "within": _within(first, second, names), "p": p, "n": n}


def _within(first: np.ndarray, second: np.ndarray, names: np.ndarray) -> float:
    parts = []
    for name in dict.fromkeys(names):
        own = names == name
        ranks = [stats.rankdata(values[own]) for values in (first, second)]
        parts.append(np.stack([each - each.mean() for each in ranks]))
    return float(_correlations(*np.concatenate(parts, axis=1)))


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations `(...)` of `(..., vae)`; NaN where one never differs."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (first, second))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(size.shape, NONE), where=size > 0)


def _of(values: Mapping[Vae, Mapping[str, float]], family: str, measure: str) -> np.ndarray:
    """Return a measure of the VAEs of a family, `(seed,)`, where it is defined."""
    found = np.array([of.get(measure, NONE) for (name, _), of in values.items() if name == family], dtype=np.float64)
    return found[np.isfinite(found)]


def _scores(paths: Sequence[Path]) -> dict[Vae, dict[str, float]]:
    """Return the scores of VAEs by measure."""
    found: dict[Vae, dict[str, float]] = defaultdict(dict)
    for path in paths:
        table: pd.DataFrame = SCORES.read(path)
        found[which_vae(Path(path).parent)[1:]] = dict(zip(table["measure"], table["score"], strict=True))
    return found


def _strengths(latents: Path) -> dict[Vae, dict[str, float]]:
    """Return the mean effect strengths of VAEs."""
    means = mean_strengths(LATENTS.read(latents))
    rows = means.to_dict("records")
    return {(str(row["family"]), int(row["vae_seed"])): {kind: float(row[kind]) for kind in STRENGTHS} for row in rows}
