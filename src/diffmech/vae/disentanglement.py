"""How well the factors are told apart in the latents of one VAE: nine scores, each beside its floor.

All are of the means of the posterior of the images whose codes are kept, by `diffmech.vae.metrics`. Discrete factors
are classes, ordinal and continuous ones numbers, circular ones classes or a point on the circle, as each measure can
read them. The floor is the same score of codes that know nothing, dealt out anew among the images.

A VQ-VAE has no means: its codes are the numbers at the places of its grid, which are classes. What counts information
(MIG, InfoMEC) is defined of these. What needs an order or a variance of a latent (SAP, FactorVAE score), or a regressor
that reads latents as numbers (DCI), is not, and is given as undefined. Ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.dataset import FactorData
from diffmech.vae.encoding import batches
from diffmech.vae.families import ContinuousVae
from diffmech.vae.metrics.dci import Dci, dci
from diffmech.vae.metrics.factor_vae import DrawCodes, FactorVaeScore, factor_vae_score
from diffmech.vae.metrics.infomec import InfoMec, infomec
from diffmech.vae.metrics.mig import mig
from diffmech.vae.metrics.representation import Representation, floor
from diffmech.vae.metrics.sap import sap
from diffmech.vae.stores import Codes, read_codes
from diffmech.vae.tables import SCORES
from diffmech.vae.training import read_vae

DCI = ("dci_disentanglement", "dci_completeness", "dci_informativeness")
INFOMEC = ("infomec_modularity", "infomec_explicitness", "infomec_compactness")
MEASURES = (*DCI, "mig", "sap", "factor_vae", *INFOMEC)
FEW = 1  # floors of what takes a second to fit: DCI and InfoMEC
NONE = float("nan")
UNDEFINED = {
    **dict.fromkeys(DCI, "undefined of numbers of codes: a regressor would read these as quantities"),
    "sap": "undefined of numbers of codes: thresholds need an order of them",
    "factor_vae": "undefined of numbers of codes: these have no variance",
}


@dataclass(frozen=True)
class Score:
    """A score with its floors `(draw,)`, the fit of its predictors, and what it is of, in words."""

    measure: str
    score: float
    floors: np.ndarray
    fit: float
    inputs: str

    def row(self) -> tuple[str, float, float, float, float, str]:
        """Return its row of SCORES."""
        known = self.floors[np.isfinite(self.floors)]
        ends = (float(known.mean()), float(known.max())) if known.size else (NONE, NONE)
        return (self.measure, self.score, *ends, self.fit, self.inputs)


def disentanglement(
    vae_dir: Path,
    codes: Path,
    output: Path,
    *,
    data: FactorData,
    factors: list[str],
    measures: VaeMeasures,
    runtime: RuntimeConfig,
) -> None:
    """Write SCORES of the VAE in `vae_dir`, of the factors named, from the store of its `codes`.

    More factors than latents are scored and said. Raises StoreError for a store or a VAE that is not whole, DataError
    for a factor that the data set does not have, or that has one value in all images.
    """
    kept = read_codes(codes)
    represented = representation(kept, data, factors)
    found = list(scores(represented, measures))
    if represented.kind == "codes":
        found += [Score(name, NONE, np.array([]), NONE, why) for name, why in UNDEFINED.items()]
    else:
        vae = read_vae(vae_dir, device=runtime.device)
        assert isinstance(vae, ContinuousVae)
        found.append(_factor_vae(drawing(vae, represented, data), represented, measures))
    rows = sorted((score.row() for score in found), key=lambda row: MEASURES.index(row[0]))
    SCORES.write(output, SCORES.frame(rows))


def representation(codes: Codes, data: FactorData, factors: Sequence[str]) -> Representation:
    """Return the means of the posterior, or the numbers of codes of all places, with the factors named."""
    columns = [data.place(name) for name in factors]
    chosen = [data.factors[column] for column in columns]
    if codes.mean is None:
        assert codes.chosen is not None
        latents, kind = codes.chosen.reshape(len(codes.chosen), -1), "codes"
    else:
        latents, kind = codes.mean, "means"
    return Representation(
        latents.astype(np.float64),
        codes.values[:, columns],
        tuple(factors),
        tuple(factor.kind in ("ordinal", "continuous") for factor in chosen),
        "codes" if kind == "codes" else "means",
        tuple(factor.period if factor.kind == "circular" else None for factor in chosen),
    )


def scores(represented: Representation, measures: VaeMeasures) -> Iterator[Score]:
    """Yield the scores that are defined of a representation alone: all but FactorVAE's."""
    seed = measures.seed
    few = min(measures.floors, FEW)

    def floors(measure: Callable[[Representation], Sequence[float]], draws: int) -> np.ndarray:
        return floor(measure, represented, draws=draws, seed=seed)

    gap = mig(represented)
    null = floors(lambda one: [mig(one).score], measures.floors)
    yield Score("mig", gap.score, null[:, 0], NONE, words(gap.inputs, f"{gap.inputs['bins']} bins", len(null)))
    information = infomec(represented, seed=seed)
    null = floors(lambda one: _of_infomec(infomec(one, seed=seed)), few)
    how = words(information.inputs, _about_infomec(information), few)
    fits = (NONE, information.explicitness, NONE)
    for name, score, fit, column in zip(INFOMEC, _of_infomec(information), fits, null.T, strict=True):
        yield Score(name, score, column, fit, how)
    if represented.kind == "codes":
        return
    predicted = dci(represented, seed=seed)
    null = floors(lambda one: _of_dci(dci(one, seed=seed)), few)
    how = words(predicted.inputs, _about_dci(predicted), few)
    fits = (NONE, NONE, float(predicted.fit.mean()))
    for name, score, fit, column in zip(DCI, _of_dci(predicted), fits, null.T, strict=True):
        yield Score(name, score, column, fit, how)
    alone = sap(represented, seed=seed)
    null = floors(lambda one: [sap(one, seed=seed).score], measures.floors)
    how = "a line to numbers, thresholds to classes, scored on the half not fitted on"
    yield Score("sap", alone.score, null[:, 0], NONE, words(alone.inputs, how, len(null)))


def drawing(vae: ContinuousVae, represented: Representation, data: FactorData) -> DrawCodes:
    """Return what draws means of the posterior of new images with one factor fixed; of those kept where none is."""

    def draw(factor: int | None, count: int, source: np.random.Generator) -> np.ndarray:
        if factor is None:
            return _dealt(represented, count, source)
        images = data.images_of(*data.draw_fixed(count, represented.names[factor], source))
        return np.concatenate([vae.encode(part)[0].double().cpu().numpy() for part in batches(vae, images)])

    return draw


def words(said: dict[str, Any], how: str, floors: int) -> str:
    """Return the inputs of a score as is written beside it."""
    numbers, circles = said["continuous"], said["circular"]
    classes = [name for name in said["factors"] if name not in (*numbers, *circles)]
    kinds = (("classes", classes), ("numbers", numbers), ("circular", circles))
    factors = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds if names)
    parts = [
        f"{said['inputs']} of {said['samples']} images, {said['latents']} latents",
        factors,
        how,
        f"floor of {floors} draws",
        said.get("note", ""),
    ]
    return "; ".join(part for part in parts if part)


def _factor_vae(draw: DrawCodes, represented: Representation, measures: VaeMeasures) -> Score:
    factors, samples = len(represented.names), len(represented.codes)

    def score(drawn: DrawCodes, seed: int) -> FactorVaeScore:
        return factor_vae_score(drawn, factors, votes=measures.votes, variance_samples=samples, seed=seed)

    found = score(draw, measures.seed)

    def nothing(_: int | None, count: int, source: np.random.Generator) -> np.ndarray:
        return _dealt(represented, count, source)

    null = [score(nothing, measures.seed + number).score for number in range(measures.floors)]
    said = found.inputs
    left_out = np.flatnonzero(~found.active).tolist()
    how = (
        f"{said['votes']} votes to learn from and as many to score, each of {said['batch_size']} new images with one "
        f"factor fixed; left out for a standard deviation below {said['collapsed']}: {left_out or 'none'}"
    )
    inputs = words(represented.statement(), how, len(null))
    return Score("factor_vae", found.score, np.array(null), found.fit, inputs)


def _dealt(represented: Representation, count: int, source: np.random.Generator) -> np.ndarray:
    """Return codes of images that share nothing; each once where as many are asked for as there are."""
    samples = len(represented.codes)
    return represented.codes if count == samples else represented.codes[source.integers(samples, size=count)]


def _of_dci(found: Dci) -> tuple[float, float, float]:
    return found.disentanglement, found.completeness, found.informativeness


def _of_infomec(found: InfoMec) -> tuple[float, float, float]:
    return found.modularity, found.explicitness, found.compactness


def _about_dci(found: Dci) -> str:
    said = found.inputs
    return (
        f"boosted trees, R2 or share of right classes {found.fit.mean():.3f} on the {said['fitted_on']} images fitted "
        f"on and {found.prediction.mean():.3f} on {said['scored_on']} others"
    )


def _about_infomec(found: InfoMec) -> str:
    said = found.inputs
    how = f"information of {said['neighbours']} neighbours" if said["neighbours"] else "information as counted"
    return (
        f"{how}; linear prediction, of {said['predicted_from']}; left out for their range: {said['left_out'] or 'none'}"
    )
