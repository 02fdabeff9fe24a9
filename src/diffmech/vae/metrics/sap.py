"""The separated attribute predictability score (Kumar et al. 2018, section 3).

SAP = mean over factors of the difference between the two latents that predict the factor best, one latent at a time:

- a continuous factor by a line; its score is the squared correlation over all samples;
- a discrete one by thresholds on the latent (paper), here those of a decision tree of one leaf per class with balanced
  classes, or by a linear support vector machine (C = 0.01, balanced classes: disentanglement_lib); its score is the
  share of right ones on the half that nothing was fitted on.

By thresholds only the order of a code counts. A linear machine cannot pick a class that lies between others, so with
three classes or more it stays below what the code knows.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffmech.vae.metrics.representation import Representation

Classifier = Literal["thresholds", "linear"]
CONSTANT = 1e-12  # variance below which a latent predicts nothing


@dataclass(frozen=True)
class Sap:
    """The score, the gap of each factor, and how well each latent predicts each factor, `(latent, factor)`."""

    score: float
    gaps: np.ndarray
    predictability: np.ndarray
    inputs: dict[str, Any]


def sap(representation: Representation, *, classifier: Classifier = "thresholds", seed: int = 0) -> Sap:
    """Return the score. With one latent the gap is all that it predicts, as there is no second.

    A perfect code of a discrete factor of n equally frequent values has a gap of 1 - 1/n: others are right by chance.
    """
    fitted, scored = representation.halves(seed)
    found = np.zeros((representation.latents, len(representation.names)))
    for factor, number in enumerate(representation.continuous):
        values = representation.factors[:, factor]
        for latent, code in enumerate(representation.standardised().T):
            if number:
                found[latent, factor] = _squared_correlation(code, values)
            else:
                labels = representation.labels(factor)
                predicted = _predict(code[fitted], labels[fitted], code[scored], classifier)
                found[latent, factor] = np.mean(predicted == labels[scored])
    ordered = np.sort(np.vstack([np.zeros(found.shape[1]), found]), axis=0)
    gaps = ordered[-1] - ordered[-2]
    said = {**representation.statement(), "classifier": classifier, "codes": "standardised"}
    return Sap(float(gaps.mean()), gaps, found, said)


def _squared_correlation(code: np.ndarray, values: np.ndarray) -> float:
    if code.var() < CONSTANT:
        return 0.0
    return float(np.corrcoef(code, values)[0, 1] ** 2)


def _predict(code: np.ndarray, labels: np.ndarray, others: np.ndarray, classifier: Classifier) -> np.ndarray:
    if classifier == "thresholds":
        from sklearn.tree import DecisionTreeClassifier

        leaves = max(2, len(np.unique(labels)))
        model = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    else:
        from sklearn.svm import LinearSVC

        model = LinearSVC(C=0.01, class_weight="balanced", dual=False, max_iter=10_000)
    return model.fit(code[:, None], labels).predict(others[:, None])
