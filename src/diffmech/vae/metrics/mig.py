"""The mutual information gap (Chen et al. 2018, section 4.2).

MIG = mean over factors of (I(z_1; v) - I(z_2; v)) / H(v), with the two latents that know most of the factor. Codes are
cut into 20 bins of equal width over their range, as in disentanglement_lib, and so are continuous factors of more
values than that; information and entropy are those of counts, in nats, not corrected for their bias, which
`representation.floor` shows. A factor of more values than a code has bins cannot reach 1: its ceiling is the entropy of
its bins over its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffmech.vae.metrics.representation import BINS, Representation, bins


@dataclass(frozen=True)
class Mig:
    """The gap, that of each factor, the information `(latent, factor)` and the entropies `(factor,)`, in nats."""

    score: float
    gaps: np.ndarray
    information: np.ndarray
    entropies: np.ndarray
    inputs: dict[str, Any]


def mig(representation: Representation) -> Mig:
    """Return the mutual information gap. With one latent the gap is its whole information, as there is no second."""
    labels = [representation.labels(factor) for factor in range(len(representation.names))]
    codes = [code_bins(code, representation.kind) for code in representation.codes.T]
    information = np.array([[mutual_information(code, label) for label in labels] for code in codes])
    entropies = np.array([mutual_information(label, label) for label in labels])
    ordered = np.sort(np.vstack([np.zeros(len(labels)), information]), axis=0)
    gaps = (ordered[-1] - ordered[-2]) / entropies
    said = {**representation.statement(), "bins": BINS}
    return Mig(float(gaps.mean()), gaps, information, entropies, said)


def code_bins(code: np.ndarray, kind: str) -> np.ndarray:
    """Return the bins `(sample,)` of one code; a number of a code is its own."""
    return np.unique(code, return_inverse=True)[1] if kind == "codes" else bins(code)


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Return the information, in nats, between two classes `(sample,)` from 0 on, as counted."""
    counts = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(counts, (first, second), 1)
    shares = counts / counts.sum()
    independent = shares.sum(1, keepdims=True) * shares.sum(0)
    there = shares > 0
    return max(float((shares[there] * np.log(shares[there] / independent[there])).sum()), 0.0)
