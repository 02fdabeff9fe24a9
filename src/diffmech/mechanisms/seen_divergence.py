"""Do heads treat images that the denoiser was trained on differently from new ones of the same domain? Ours.

The measure is that of the domains' divergence: at each timestep, for each kind of attention by itself, the mean over
heads of |mean entropy of the seen images - mean entropy of the unseen ones|, beside its floor under permuted labels. So
it says how much of a difference between domains could come from the share of their images that were trained on.
"""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from diffmech.attention.store import per_sample
from diffmech.config.analysis import EntropyConfig
from diffmech.mechanisms.captured import open_domains, timesteps_of
from diffmech.mechanisms.entropy import divergence_interval, head_table
from diffmech.mechanisms.tables import SEEN_DIVERGENCE
from diffmech.models.tables import SEEN
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import label_permutation, permutation_p
from diffmech.statistics.reach import smallest_label_p

FEWEST = 8  # seen and unseen images each: below, hardly anything could be told


def seen_divergence(
    attention: Mapping[str, Sequence[Path]],
    seen_csv: Path | str,
    output: Path | str,
    *,
    entropy: EntropyConfig,
    seed: int,
    grouped: Container[str] = (),
) -> None:
    """Write the divergence between seen and unseen images of each domain that has at least eight of both.

    `seen_csv` says which images of a domain the denoiser was trained on. There are no rows of a domain of whose images
    it is not on record, or with too few of either, nor of one that is `grouped`: training keeps out images, not groups,
    so that seen and unseen ones of a group are not independent.
    """
    listed = SEEN.read(seen_csv)
    counts = listed.groupby("domain")["seen"].agg(seen="sum", images="size")
    enough = [
        domain
        for domain, seen, images in counts.itertuples()
        if seen >= FEWEST and images - seen >= FEWEST and domain in attention and domain not in grouped
    ]
    tables = []
    for domain, tree in (open_domains({domain: attention[domain] for domain in enough}) if enough else {}).items():
        known = listed[listed["domain"] == domain].set_index("sample")["seen"]
        array = per_sample(tree, "entropy")
        seen = known.reindex(array["sample"].values).to_numpy(dtype=bool)
        kinds = head_table(tree)["kind"].to_numpy()
        values = np.asarray(array.values, dtype=np.float64)
        table = seen_divergence_table(values, seen, kinds, timesteps_of(tree), entropy=entropy, seed=seed)
        table.insert(0, "domain", domain)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True) if tables else SEEN_DIVERGENCE.frame()
    if tables:
        whole["p_holm"] = holm(whole["p"].to_numpy())
        whole["p_least"] = np.minimum(1.0, len(whole) * whole["p_least"])
    SEEN_DIVERGENCE.write(output, SEEN_DIVERGENCE.in_order(whole))


def seen_divergence_table(
    values: Float[np.ndarray, "sample timestep head"],
    seen: Bool[np.ndarray, "sample"],
    kinds: Shaped[np.ndarray, "head"],
    timesteps: Sequence[int],
    *,
    entropy: EntropyConfig,
    seed: int,
) -> pd.DataFrame:
    """Return the uncorrected rows of one domain from entropies; `seen` says which samples the twins saw."""
    a, b = values[seen], values[~seen]
    names = [kind for kind in ("self", "cross", "joint") if kind in kinds]
    weights = np.stack([kinds == kind for kind in names], axis=1).astype(float)
    weights /= weights.sum(axis=0)

    def divergence(mean_seen: np.ndarray, mean_unseen: np.ndarray) -> np.ndarray:
        return np.abs(mean_seen - mean_unseen) @ weights  # (draw, timestep, kind)

    observed, null = label_permutation(divergence, a, b, permutations=entropy.permutations, seed=seed)
    low, high = divergence_interval(a, b, weights, draws=entropy.draws, confidence=entropy.confidence, seed=seed)
    columns = {
        "divergence": np.asarray(observed),
        "low": low,
        "high": high,
        "floor": null.mean(axis=0),
        "floor_high": np.quantile(null, 0.95, axis=0),
        "p": np.asarray(permutation_p(observed, null)),
    }
    table = pd.DataFrame({"timestep": np.repeat(timesteps, len(names)), "kind": names * len(timesteps)})
    for name, array in columns.items():
        table[name] = array.ravel()
    least = smallest_label_p(len(a), len(b), entropy.permutations)
    return table.assign(p_least=least, n_seen=len(a), n_unseen=len(b))
