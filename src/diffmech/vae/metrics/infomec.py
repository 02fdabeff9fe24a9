"""InfoMEC: modularity, explicitness and compactness by information (Hsu et al. 2023, arXiv 2305.18378, section 3).

With NMI the information between a latent and a factor over the entropy of the factor:

- InfoM: over latents, the largest share that one factor has of a latent's NMI, scaled so that equal shares are 0;
- InfoC: over factors, the largest share that one latent has of a factor's NMI, scaled likewise;
- InfoE: over factors, 1 - cross-entropy of a linear prediction of the factor from all latents over that of none.

Latents whose range is below 1/20 of the largest are left out of InfoM and InfoC. As in the paper's code, information of
continuous codes is that of their 10 nearest neighbours (Ross 2014), logistic regressions have no penalty and balanced
classes, and are scored on what they were fitted on; a factor counts as classes, here after `Representation.labels`.

Shares of next to nothing are still shares: codes that know nothing have InfoM and InfoC far above 0 (0.69 and 0.48 in
one draw of 1,000 samples, 5 latents and 3 factors, by this code and the paper's alike), and InfoE alone near it. Read
both beside InfoE and `representation.floor`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffmech.vae.metrics.mig import mutual_information
from diffmech.vae.metrics.representation import Representation

NEIGHBOURS = 10
RANGE = 1 / 20
ITERATIONS = 100  # of L-BFGS, at most, as in the paper's code


@dataclass(frozen=True)
class InfoMec:
    """The scores, NMI `(latent, factor)` of all latents, which of them are `active` `(latent,)`, and how much of each
    factor is predicted `(factor,)`.

    InfoM is NaN for one factor and InfoC for one active latent: there is nothing else that could be known.
    """

    modularity: float
    explicitness: float
    compactness: float
    information: np.ndarray
    active: np.ndarray
    predicted: np.ndarray
    inputs: dict[str, Any]


def infomec(representation: Representation, *, seed: int = 0) -> InfoMec:
    """Return the three scores."""
    discrete = representation.kind == "codes"
    labels = np.stack([representation.labels(factor) for factor in range(len(representation.names))], axis=1)
    codes = representation.standardised()
    entropies = np.array([mutual_information(label, label) for label in labels.T])
    if discrete:
        classes = [np.unique(code, return_inverse=True)[1] for code in representation.codes.T]
        found = np.array([[mutual_information(code, label) for label in labels.T] for code in classes])
    else:
        found = np.array([_neighbours(codes, label, seed) for label in labels.T]).T
    information = found / entropies
    ranges = np.ptp(representation.codes, axis=0)
    active = ranges > (0 if discrete else ranges.max() * RANGE)
    used = information[active]
    predicted = np.array([_predicted(_one_hot(representation.codes) if discrete else codes, y) for y in labels.T])
    said = {
        **representation.statement(),
        "neighbours": None if discrete else NEIGHBOURS,
        "left_out": np.flatnonzero(~active).tolist(),
        "predicted_from": "all samples, which it was fitted on",
    }
    return InfoMec(
        modularity=dominance(used, axis=1),
        explicitness=float(predicted.mean()),
        compactness=dominance(used, axis=0),
        information=information,
        active=active,
        predicted=predicted,
        inputs=said,
    )


def dominance(information: np.ndarray, *, axis: int) -> float:
    """Return the mean of the largest share along an axis of n, less 1/n, over 1 - 1/n; NaN for n below 2, or of none.

    Where nothing is known at all, every share is 1/n (the paper's code gives NaN for the whole).
    """
    n = information.shape[axis]
    if n < 2 or not information.size:
        return float("nan")
    totals = information.sum(axis)
    largest = np.divide(information.max(axis), totals, out=np.full(len(totals), 1 / n), where=totals > 0)
    return float((largest.mean() - 1 / n) / (1 - 1 / n))


def _neighbours(codes: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.feature_selection import mutual_info_classif

    return mutual_info_classif(codes, labels, discrete_features=False, n_neighbors=NEIGHBOURS, random_state=seed)


def _one_hot(codes: np.ndarray) -> np.ndarray:
    return np.concatenate([(code[:, None] == np.unique(code)).astype(np.float64) for code in codes.T], axis=1)


def _predicted(codes: np.ndarray, labels: np.ndarray) -> float:
    """Return 1 - cross-entropy of the prediction of a class from `codes` over that of none (ln of the classes, since
    classes are balanced)."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the definition stops after so many iterations
        model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=ITERATIONS).fit(codes, labels)
    chances = model.predict_proba(codes)[np.arange(len(labels)), labels]
    return float(1 + np.log(np.maximum(chances, np.finfo(float).eps)).mean() / np.log(model.classes_.size))
