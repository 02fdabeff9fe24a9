"""Numbers that describe a head at one timestep, from the statistics of its attention. The choice is ours.

- normalised_entropy: H / ln(keys);
- position_information: mutual information between query position and key, over ln(keys);
- sink_mass: largest share of attention that one key receives in the mean over samples, where text or extra tokens stand
  beside the image one of the image's keys, of the attention on these. Averaging first means a fixed key; a key that
  moves with the content counts as content dependence;
- content_dependence: share of the variance of the received map (over samples and keys) that lies between samples; 0 for
  a map that is flat to within 0.1 %;
- distance (root mean square, image sides), self_mass, neighbourhood_mass, mirror_mass: self-attention only;
- log_enrichment of edges, texture, intensity, parts (the most enriched part): self-attention only.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from diffmech.mechanisms.captured import SPATIAL_QUANTITIES, Site
from diffmech.mechanisms.probes import Ratios
from diffmech.mechanisms.reference_maps import PART

COMMON_FEATURES = ("normalised_entropy", "position_information", "sink_mass", "content_dependence")
# Mean squared deviation from a uniform map below which float16 rounding decides the rest.
FLAT_MAP = 1e-6


def feature_names(probes: Sequence[str]) -> tuple[str, ...]:
    """Return the features of self-attention heads; the first are those of every head."""
    return (*COMMON_FEATURES, *SPATIAL_QUANTITIES, *(f"log_enrichment_{probe}" for probe in probes))


def describe(
    site: Site,
    quantities: dict[str, Float[np.ndarray, "sample head"]],
    received: Float[np.ndarray, "sample head key"],
    maps: Ratios | None,
    weights: Float[np.ndarray, "draw sample"],
    probes: Sequence[str],
) -> Float[np.ndarray, "draw feature head"]:
    """Return the features of weighted samples.

    Rows of `weights` sum to 1; a draw without any valid map of a probe takes the first row's value. Features that a
    site lacks are NaN.
    """
    bound = np.log(site.keys)
    n, heads, keys = received.shape
    mean_map = (weights @ received.reshape(n, -1)).reshape(-1, heads, keys)
    total = weights @ ((received - 1) ** 2).mean(axis=-1)
    between_keys = ((mean_map - 1) ** 2).mean(axis=-1)
    content = 1 - np.divide(between_keys, total, out=np.ones_like(total), where=total > FLAT_MAP)
    missing = np.full_like(total, np.nan)
    columns = {
        "normalised_entropy": weights @ quantities["entropy"] / bound,
        "position_information": weights @ quantities["position_information"] / bound,
        "sink_mass": mean_map.max(axis=-1) / keys,
        "content_dependence": np.clip(content, 0, 1),
        **{name: weights @ quantities[name] if name in quantities else missing for name in SPATIAL_QUANTITIES},
    }
    enrichment = {} if maps is None else _log_enrichment(maps, weights)
    for probe in probes:
        members = [name for name in enrichment if name == probe or (probe == "parts" and name.startswith(PART))]
        found = np.stack([enrichment[name] for name in members] or [missing])
        columns[f"log_enrichment_{probe}"] = np.fmax.reduce(found, axis=0)
    return np.stack([columns[name] for name in feature_names(probes)], axis=1)


def _log_enrichment(
    maps: Ratios, weights: Float[np.ndarray, "draw sample"]
) -> dict[str, Float[np.ndarray, "draw head"]]:
    """Return the log of the weighted mean enrichment over valid samples, by probe; NaN without any."""
    found = {}
    for index, name in enumerate(maps.names):
        valid = maps.valid[:, index]
        mass = weights[:, valid].sum(axis=1, keepdims=True)
        mean = weights[:, valid] @ maps.values[valid, :, index]
        if valid.any():
            ratio = np.divide(mean, mass, out=np.full_like(mean, np.nan), where=mass > 0)
            ratio = np.where(np.isnan(ratio), ratio[:1], ratio)
            # attention that avoids a map altogether has no logarithm; a thousandth of uniform is as good as none
            found[name] = np.log(np.maximum(ratio, 1e-3))
    return found
