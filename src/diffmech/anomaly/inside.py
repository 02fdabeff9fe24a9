"""What the heads of the encoder's attention do on slices with and without lesions, seen through the tap of all studies.

The entropy of a head is that of the attention of a place, averaged over places, in nats. Whether it differs on slices
with lesions is asked as of any score, overall and within bins of position (`diffmech.anomaly.discrimination`): entropy
also differs between the middle of the head and its ends. Ours.
"""

import numpy as np
import torch
from torch import Tensor

from diffmech.anomaly.network import AnomalyVae, in_batches
from diffmech.anomaly.slices import Slices
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError


def head_entropies(vae: AnomalyVae, slices: Slices) -> np.ndarray:
    """Return the entropy of each head on each slice, float64 `(slice, head)`, in nats.

    Raises ModelError for a network without attention.
    """
    if not vae.config.attention:
        raise ModelError("entropies of heads were asked for, but the network was built with attention: false")

    def watched(images: Tensor, positions: Tensor) -> Tensor:
        observer = StatisticsObserver()
        with AttentionTap(vae, [observer]):
            vae(images, positions)
        [statistics] = observer.results.values()
        return statistics.entropy.double().cpu()

    return torch.cat(in_batches(vae, slices, watched)).numpy()
