"""Reading what the jobs of the study of VAEs keep. Ours.

Stores say in their attributes of which data set, family and seed they are; folders of VAEs say it by their path.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffmech.artifacts import open_store, read_json
from diffmech.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

RECORD = "vae.json"  # what a training notes beside its weights


@dataclass(frozen=True)
class Codes:
    """The codes of one VAE: what images are `(image, factor)`, and what they are encoded as.

    `mean` and `log_variance` `(image, latent)` are None for a VQ-VAE, whose codes are `chosen` `(image, y, x)`, and
    that is None for the others. `deviation` `(latent,)` is that of the aggregate posterior.
    """

    data: str
    family: str
    seed: int
    factors: tuple[str, ...]
    values: np.ndarray
    identity: np.ndarray
    mean: np.ndarray | None
    log_variance: np.ndarray | None
    deviation: np.ndarray | None
    chosen: np.ndarray | None


def which_vae(directory: Path | str) -> tuple[str, str, int]:
    """Return data set, family and seed of the folder of a VAE, `.../data/family/seed`.

    Raises StoreError for a path that does not end so.
    """
    parts = Path(directory).parts[-3:]
    if len(parts) < 3 or not parts[2].isdecimal():
        raise StoreError(f"{directory}: is no folder of a VAE; give one that ends in data set, family and seed")
    return parts[0], parts[1], int(parts[2])


def read_codes(path: Path | str) -> Codes:
    """Return the codes that `diffmech.vae.codes` wrote. Raises StoreError where they are missing or not whole."""
    root = group(path)
    told = _told(path, root)
    try:
        factors = tuple(str(name) for name in root.coords["factor"].values)
        values, identity = root["values"].values, root["identity"].values
        if not root.attrs["continuous"]:
            chosen = root["chosen"].values.astype(np.int64)
            return Codes(*told, factors, values, identity, None, None, None, chosen)
        mean, log_variance = root["mean"].values, root["log_variance"].values
    except KeyError as error:
        raise StoreError(f"{path}: holds no codes, {error} is missing; let the workflow encode the images") from error
    return Codes(*told, factors, values, identity, mean, log_variance, group(path, "latents")["deviation"].values, None)


def group(path: Path | str, name: str = "") -> "xr.Dataset":
    """Return a group of a store, the outermost without a name, read lazily. Raises StoreError where it has none."""
    tree = open_store(path)
    if name and name not in tree.children:
        raise StoreError(
            f"{path}: has no group {name!r}, only {', '.join(map(str, tree.children)) or 'none'}; "
            "delete the store and let its job run again"
        )
    found = tree.children[name] if name else tree
    return found.to_dataset(inherit=False).assign_attrs(tree.attrs)


def identified(path: Path | str) -> dict[str, Any]:
    """Return the columns `family` and `vae_seed` of what a store is of. Raises StoreError where it does not say."""
    _, family, seed = _told(path, group(path))
    return {"family": family, "vae_seed": seed}


def record(directory: Path | str) -> dict[str, Any]:
    """Return the record of a VAE's training. Raises StoreError where it is missing or lacks its quality."""
    found = read_json(Path(directory) / RECORD)
    if not isinstance(found, dict) or not {"config", "quality", "training", "parameters"} <= set(found):
        raise StoreError(f"{directory}: its {RECORD} lacks parts of the record; delete it and let the VAE be trained")
    return found


def _told(path: Path | str, root: "xr.Dataset") -> tuple[str, str, int]:
    attrs = root.attrs
    if missing := [key for key in ("data", "family", "vae_seed") if key not in attrs]:
        raise StoreError(f"{path}: does not say of which VAE it is ({', '.join(missing)}); let its job run again")
    return str(attrs["data"]), str(attrs["family"]), int(attrs["vae_seed"])
