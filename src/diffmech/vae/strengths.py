"""How strong the latents of a VAE are on the whole: one number per kind of effect strength. Ours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # VAEs, below which a correlation of ranks is -1, 0.5 or 1 by chance
STRENGTHS = ("raw", "per_pixel", "calibrated")


def mean_strengths(latents: "pd.DataFrame") -> "pd.DataFrame":
    """Return `family`, `vae_seed` and the mean of each kind of effect strength over the active latents of a VAE, from
    LATENTS; NaN where none is active."""
    strengths = latents[list(STRENGTHS)].where(latents["active"].astype(bool))
    return strengths.groupby([latents["family"], latents["vae_seed"]], sort=False).mean().reset_index()
