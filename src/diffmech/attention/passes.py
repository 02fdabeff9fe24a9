"""Reading the stored latents: which passes of the denoiser there are, and what each is given.

Apart from `latents`, which makes them, so that what replays passes does not depend on the code that reads data sets.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diffmech.artifacts import open_store
from diffmech.errors import StoreError


@dataclass(frozen=True)
class Latents:
    """An open latents store. `x_t` and `noise` (sample, timestep, channel, y, x) are read where they are indexed.

    domain is (sample,), an index into the model's domains or -1; condition is (sample, attribute), NaN where unknown.
    """

    path: Path
    samples: np.ndarray
    timesteps: np.ndarray
    domain: np.ndarray
    condition: np.ndarray
    x_t: xr.DataArray
    noise: xr.DataArray
    attrs: dict[str, Any]


def open_latents(path: Path | str) -> Latents:
    """Open a latents store; only its small arrays are read. Raises StoreError where it is missing or broken."""
    store = open_store(path).to_dataset()
    missing = [name for name in ("x_t", "noise", "domain", "condition") if name not in store]
    if missing:
        raise StoreError(f"{path}: is not a latents store, it lacks {', '.join(missing)}; give results/latents/...")
    return Latents(
        path=Path(path),
        samples=store["sample"].values,
        timesteps=store["timestep"].values,
        domain=store["domain"].values,
        condition=store["condition"].values,
        x_t=store["x_t"],
        noise=store["noise"],
        attrs=store.attrs,
    )
