"""What all VAEs of a data set are and what their latents do, as tables. Ours.

Specificity over factors takes the changes of a latent when each factor is changed, in its own spread, as shares: it
asks how few factors move a latent, where specificity over pixels asks how few places it moves.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.config.studies.vae import VaeMeasures
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.vae.effects import bounded_specificity, specificity
from diffmech.vae.learned import has_learned
from diffmech.vae.quality import ACTIVE
from diffmech.vae.stores import group, identified, record, which_vae
from diffmech.vae.tables import LATENTS, MODELS

NONE = float("nan")


def models_table(records: Sequence[Path], output: Path) -> None:
    """Write MODELS from the records of all VAEs of a data set. Raises StoreError for one that is not whole."""
    rows = []
    for path in records:
        _, family, seed = which_vae(Path(path).parent)
        found = record(Path(path).parent)
        quality, config = found["quality"], found["config"]
        variances = quality["variances"]
        rows.append(
            {
                "family": family,
                "vae_seed": seed,
                **{name: quality[name] for name in ("reconstruction", "mean_image", "bound")},
                "learned": has_learned(quality, config["network"]["likelihood"]),
                "latents": None if variances is None else len(variances),
                "active_latents": None if variances is None else sum(quality["active"]),
                "codes_in_use": quality["codes_in_use"],
                "parameters": found["parameters"],
                "steps": config["training"]["steps"],
                "seconds": found["training"]["seconds"],
            }
        )
    frame = MODELS.frame(rows)
    MODELS.write(output, frame.astype({"codes_in_use": float}))


def latents_table(codes: Sequence[Path], of_factors: Sequence[Path], output: Path, *, measures: VaeMeasures) -> None:
    """Write LATENTS from the stores of codes and of factors of all VAEs of a data set.

    A VQ-VAE has no latents and no rows. Without stores of factors, what says which factor moves a latent is empty.
    """
    moved = _moved(of_factors)
    rows = [row for path in codes for row in _of_a_vae(path, moved, measures)]
    LATENTS.write(output, LATENTS.frame(rows))


def factor_shares(moved: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Return the names of factors and the mean absolute change `(latent, factor)` of each latent when one is changed,
    from the signed ones `(pair, latent)` by factor."""
    names = list(moved)
    return names, np.stack([np.abs(moved[name]).mean(0) for name in names], axis=1)


def _moved(of_factors: Sequence[Path]) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for path in of_factors:
        store = group(path)
        changes = store["moved"]
        if "latent" in changes.dims:  # those of a VQ-VAE are of places
            of = identified(path)
            found.setdefault((of["family"], of["vae_seed"]), {})[str(store.attrs["factor"])] = changes.values
    return found


def _of_a_vae(
    path: Path, moved: Mapping[tuple[str, int], Mapping[str, np.ndarray]], measures: VaeMeasures
) -> Iterator[dict[str, Any]]:
    if not group(path).attrs["continuous"]:
        return
    of, latents = identified(path), group(path, "latents")
    change = latents["change"].values
    strength = {name: latents["strength"].sel(intervention=name).values.T for name in latents["intervention"].values}
    values = float(np.sqrt(latents.attrs["pixel_values"]))
    per_pixel = {name: found / values for name, found in strength.items()}

    def mean(of_probes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = bootstrap_mean(of_probes, draws=measures.draws, confidence=measures.confidence, seed=measures.seed)
        return np.asarray(found.estimate), np.asarray(found.low), np.asarray(found.high)

    raw, calibrated = mean(strength["raw"]), mean(per_pixel["calibrated"])
    flat = change.reshape(len(change), -1)
    over_pixels, bounded = specificity(flat), bounded_specificity(flat)
    names, shares = factor_shares(moved.get((of["family"], of["vae_seed"]), {"": np.full((1, len(change)), NONE)}))
    over_factors = bounded_specificity(shares)
    for latent, variance in enumerate(latents["variance"].values):
        yield {
            **of,
            "latent": latent,
            "active": bool(variance > ACTIVE),
            "deviation": latents["deviation"].values[latent],
            **_with_ends("raw", [float(part[latent]) for part in raw]),
            "per_pixel": per_pixel["raw"][:, latent].mean(),
            **_with_ends("calibrated", [float(part[latent]) for part in calibrated]),
            "clamped": per_pixel["clamped"][:, latent].mean(),
            "swapped": per_pixel["swapped"][:, latent].mean(),
            "specificity": over_pixels[latent],
            "bounded": bounded[latent],
            "factor": names[int(np.argmax(shares[latent]))] or None,
            "over_factors": over_factors[latent],
        }


def _with_ends(name: str, found: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
