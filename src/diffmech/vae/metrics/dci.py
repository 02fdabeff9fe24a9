"""Disentanglement, completeness and informativeness (Eastwood & Williams 2018).

A regressor is fitted to each factor from all latents. How much it relies on each latent, its importance, is a matrix R
`(latent, factor)`:

- disentanglement of a latent is 1 - H(R over factors) / ln(factors), and that of the code the mean over latents,
  weighted by how much they are relied on at all;
- completeness of a factor is 1 - H(R over latents) / ln(latents), and that of the code the mean over factors;
- informativeness is how well the factors are predicted from the half of the samples that nothing was fitted on: R2 of a
  continuous one, the share of right classes of a discrete one. Ours: a circular one is two numbers, its cosine and its
  sine, of which importances and R2 are averaged.

Regressors are `boosted_trees` (gradient boosting of scikit-learn with its defaults, as in disentanglement_lib, which
reads every factor as classes) and `lasso` (penalty chosen by cross-validation; a discrete factor is one such regression
per class). Codes of different length are compared at your own risk: ln(latents) is in the definition.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffmech.vae.metrics.representation import Representation

Regressor = Literal["boosted_trees", "lasso"]
FOLDS = 5
PENALTIES = np.logspace(-3, 0, 10)  # of standardised codes and factors


@dataclass(frozen=True)
class Dci:
    """Scores, importances `(latent, factor)`, each column of sum 1 (or 0, where nothing is relied on), those of each
    latent and factor, and how well each factor is predicted `(factor,)`, from what was fitted on and from the rest."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray
    by_latent: np.ndarray
    by_factor: np.ndarray
    fit: np.ndarray
    prediction: np.ndarray
    inputs: dict[str, Any]


def dci(representation: Representation, *, regressor: Regressor = "boosted_trees", seed: int = 0) -> Dci:
    """Return the three scores, from half of the samples to fit on and half to predict."""
    fitted, scored = representation.halves(seed)
    codes = representation.standardised()
    importance = np.zeros((representation.latents, len(representation.names)))
    fit, prediction = np.zeros(importance.shape[1]), np.zeros(importance.shape[1])
    fitting = _boosted_trees if regressor == "boosted_trees" else _lasso
    for factor, number in enumerate(representation.continuous):
        targets = representation.targets(factor)
        for target in targets:
            regression = number or len(targets) > 1
            weights, model = fitting(codes[fitted], target[fitted], regression, seed)
            importance[:, factor] += (weights / weights.sum() if weights.sum() > 0 else 0) / len(targets)
            fit[factor] += model(codes[fitted], target[fitted]) / len(targets)
            prediction[factor] += model(codes[scored], target[scored]) / len(targets)
    by_latent, by_factor = concentration(importance, axis=1), concentration(importance, axis=0)
    said = {**representation.statement(), "regressor": regressor, "fitted_on": len(fitted), "scored_on": len(scored)}
    return Dci(
        disentanglement=weighted_mean(by_latent, importance.sum(1)),
        completeness=weighted_mean(by_factor, importance.sum(0)),
        informativeness=float(prediction.mean()),
        importance=importance,
        by_latent=by_latent,
        by_factor=by_factor,
        fit=fit,
        prediction=prediction,
        inputs=said,
    )


def concentration(importance: np.ndarray, *, axis: int) -> np.ndarray:
    """Return 1 - H / ln n of importances along an axis of n: 1 = all on one. 0 where nothing is relied on; with n = 1
    there is nothing else to rely on, so it is 1."""
    n = importance.shape[axis]
    totals = importance.sum(axis, keepdims=True)
    shares = np.divide(importance, totals, out=np.full_like(importance, 1 / n), where=totals > 0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis)
    return np.where(totals.squeeze(axis) > 0, 1 - entropy / np.log(n) if n > 1 else 1.0, 0.0)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean weighted by importance; 0 where nothing is relied on."""
    return float((values * weights).sum() / weights.sum()) if weights.sum() > 0 else 0.0


def _boosted_trees(codes: np.ndarray, target: np.ndarray, number: bool, seed: int) -> tuple[np.ndarray, Any]:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingRegressor if number else GradientBoostingClassifier
    model = kind(random_state=seed).fit(codes, target)
    return model.feature_importances_, model.score


def _lasso(codes: np.ndarray, target: np.ndarray, number: bool, seed: int) -> tuple[np.ndarray, Any]:
    from sklearn.linear_model import LassoCV
    from sklearn.multioutput import MultiOutputRegressor

    classes = np.unique(target)
    wanted = target[:, None].astype(np.float64) if number else (target[:, None] == classes).astype(np.float64)
    centre, scale = wanted.mean(0), wanted.std(0)
    scale = np.where(scale > 0, scale, 1)
    lasso = LassoCV(alphas=PENALTIES, cv=FOLDS, max_iter=10_000)
    model = MultiOutputRegressor(lasso).fit(codes, (wanted - centre) / scale)
    weights = np.abs([one.coef_ for one in model.estimators_]).mean(0)

    def score(rows: np.ndarray, truth: np.ndarray) -> float:
        predicted = model.predict(rows) * scale + centre
        if not number:
            return float(np.mean(classes[predicted.argmax(1)] == truth))
        return float(1 - np.mean((predicted[:, 0] - truth) ** 2) / np.var(truth))

    return weights, score
