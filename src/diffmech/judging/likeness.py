"""How alike two images are: structural similarity (Wang et al. 2004) and mean squared error, on the scale [-1, 1].

Structural similarity is with a Gaussian window of 11 pixels and population covariances, as there; images below 11
pixels have a flat window of their own size.
"""

import numpy as np
from skimage.metrics import structural_similarity as ssim

WINDOW = 11


def structural_similarity(image: np.ndarray, other: np.ndarray) -> float:
    """Return the structural similarity of two images `(channel, y, x)`, 1 where they are equal."""
    side = min(image.shape[1:])
    fits = side >= WINDOW
    window = {"gaussian_weights": True, "sigma": 1.5} if fits else {"win_size": side - 1 + side % 2}
    return float(
        ssim(
            image.astype(np.float64),
            other.astype(np.float64),
            data_range=2.0,
            channel_axis=0,
            use_sample_covariance=False,
            **window,
        )
    )


def squared_error(image: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared difference of two images `(channel, y, x)`."""
    return float(np.square(image.astype(np.float64) - other).mean())
