"""What an edit does to attention: the entropy of each head before and after, on the very same noisy images.

The images are points of the unedited denoiser's trajectories, asked for the concept as in the evaluation (weakly, for
amplification), and every denoiser sees them under that condition. Entropies are those of the main study, by the same
capture (`attention.capture`, `attention.statistics`). The null is what edits of as many weights at random in each
matrix do to the same images: the rank among them, whose unit is the edit, so that few draws can tell nothing.
Concentration or dispersal of attention after erasing is spoken of (SEE) and, as far as we know, measured nowhere; the
measure is ours.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import open_store, provenance, write_store
from diffmech.attention.capture import observing, survey_pass
from diffmech.attention.layout import SiteLayout
from diffmech.batches import in_smaller_batches
from diffmech.concepts.asking import open_asking
from diffmech.concepts.edits import ORIGINAL, OWN, RANDOM, TARGET, TEXT
from diffmech.concepts.masks import Mask, applied, read_mask
from diffmech.concepts.probes import Stepper, random_edit
from diffmech.concepts.tables import ATTENTION
from diffmech.concepts.ways import Conditioned
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.concept_probes import InsideConfig
from diffmech.config.studies.concepts import EvaluationConfig, NamedConcept
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import ddim
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.controls import joint_rank_p
from diffmech.statistics.permutation import joint_sign_flip_p
from diffmech.tables import ALL

logger = logging.getLogger(__name__)


@in_smaller_batches
def edited_attention(
    model_json: Path | str,
    mask: Path | str,
    output: Path | str,
    *,
    concept: NamedConcept,
    evaluation: EvaluationConfig,
    inside: InsideConfig,
    runtime: RuntimeConfig,
) -> None:
    """Write the store of entropies `(set, sample, timestep, head)` of one edit, of random ones, and of none.

    Where the attention of the denoiser cannot be seen, there are no heads, and a warning says why. Raises as
    `open_asking` does.
    """
    asking, own = open_asking(model_json, concept, device=runtime.device), read_mask(mask)
    count = min(inside.samples, evaluation.seeds)
    if not isinstance(asking, Conditioned):
        logger.warning("the entropy of attention is left out: the denoiser is that of a pipeline, which samples itself")
        write_store(output, _stored([], np.empty((0, count, 0, 0)), [], [], own, inside))
        return
    denoiser, stepper = asking.denoiser, Stepper(asking, evaluation, runtime)
    told = stepper.told(TARGET[own.about["objective"]], count=count)
    steps = np.unique(np.linspace(0, evaluation.steps - 1, min(inside.timesteps, evaluation.steps)).round().astype(int))
    timesteps = [int(ddim(denoiser, evaluation.steps).timesteps[step]) for step in steps]
    points = list(_points(stepper, told, steps.tolist()))
    layouts: list[SiteLayout] = []
    try:
        one = points[0][:1].to(denoiser.device, _dtype(denoiser))
        layouts = survey_pass(denoiser, one, timesteps[0], told.rows(slice(0, 1)).to(denoiser.device))
    except ModelError as error:
        logger.warning("the entropy of attention is left out: %s", error)
    changes: list[tuple[str, AbstractContextManager[None]]] = [(ORIGINAL, nullcontext()), (OWN, applied(denoiser, own))]
    for draw in range(inside.draws):
        random = random_edit(denoiser, own, evaluation.seed, matrix=True, draw=draw)
        changes.append((RANDOM, applied(denoiser, random)))
    entropy = [
        _entropies(denoiser, layouts, points, timesteps, told, change, runtime.batch_size) for _, change in changes
    ]
    write_store(output, _stored([edit for edit, _ in changes], np.stack(entropy), timesteps, layouts, own, inside))


def _stored(
    edits: Sequence[str],
    entropy: np.ndarray,
    timesteps: Sequence[int],
    layouts: Sequence[SiteLayout],
    own: Mask,
    inside: InsideConfig,
) -> xr.Dataset:
    """Return the store of entropies `(set, sample, timestep, head)`, the mean over queries in nats."""
    return xr.Dataset(
        {
            "entropy": (
                ("set", "sample", "timestep", "head"),
                entropy.astype(np.float32),
                {"units": "nat", "long_name": "attention entropy, mean over queries"},
            )
        },
        coords={
            "edit": ("set", np.array(list(edits), dtype=TEXT)),
            "sample": np.arange(entropy.shape[1]),
            "timestep": np.array(timesteps, dtype=np.int64),
            "head": np.array([head for site in layouts for head in site.heads], dtype=TEXT),
            "kind": ("head", np.array([site.kind for site in layouts for _ in site.heads], dtype=TEXT)),
            "h_max": ("head", np.array([np.log(site.keys) for site in layouts for _ in site.heads])),
        },
        attrs={
            **{name: own.about[name] for name in ("concept", "objective", "dose", "count")},
            "provenance": provenance(rule="edited_attention", inside=inside.canonical()),
        },
    )


def _points(stepper: Stepper, told: Condition, steps: Sequence[int]) -> Iterator[Tensor]:
    """Yield x_t `(sample, channel, y, x)` of the unedited denoiser before each of `steps`."""
    x_t, done = stepper.noise(len(told)), 0
    for step in steps:
        x_t, done = stepper.run(x_t, range(done, step), told), step
        yield x_t


def _entropies(
    denoiser: Denoiser,
    layouts: list[SiteLayout],
    points: Sequence[Tensor],
    timesteps: Sequence[int],
    told: Condition,
    change: AbstractContextManager[None],
    batch_size: int,
) -> np.ndarray:
    """Return the entropies `(sample, timestep, head)` while `change` is applied."""
    found = np.empty((len(told), len(timesteps), sum(len(site.heads) for site in layouts)))
    ends = np.cumsum([len(site.heads) for site in layouts])
    columns = {site.name: slice(end - len(site.heads), end) for site, end in zip(layouts, ends, strict=True)}
    if not layouts:
        return found
    with change, observing(denoiser, layouts) as observe:
        for row, (x_t, t) in enumerate(zip(points, timesteps, strict=True)):
            for start in range(0, len(told), batch_size):
                rows = slice(start, min(start + batch_size, len(told)))

                def fill(site: str, values: Mapping[str, np.ndarray], rows: slice = rows, row: int = row) -> None:
                    if site in columns:
                        found[rows, row, columns[site]] = values["entropy"]

                here = told.rows(rows).to(denoiser.device)
                observe(fill, x_t[rows].to(denoiser.device, _dtype(denoiser)), None, t, here)
    return found


def _dtype(denoiser: Denoiser) -> torch.dtype:
    return next(denoiser.module.parameters()).dtype


def concept_attention(
    stores: Sequence[Path | str], output_csv: Path | str, *, draws: int, permutations: int, confidence: float, seed: int
) -> None:
    """Write the table of the entropies of all `stores`."""
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    opened = [open_store(path).to_dataset() for path in stores]
    rows = [row for store in opened for row in changes_of(store, permutations=permutations, **settings)]
    ATTENTION.write(output_csv, ATTENTION.frame(rows))


def changes_of(
    store: xr.Dataset, *, permutations: int, draws: int, confidence: float, seed: int
) -> Iterator[dict[str, object]]:
    """Yield the rows of one edit: all heads of each kind over all timesteps, then each head at each timestep."""
    if not store.sizes["head"]:
        return
    edits, entropy = store["edit"].values, store["entropy"].values.astype(np.float64)
    before, after = entropy[edits == ORIGINAL][0], entropy[edits == OWN][0]
    random = entropy[edits == RANDOM]
    kinds, heads = store["kind"].values, [str(head) for head in store["head"].values]
    names = list(dict.fromkeys(str(kind) for kind in kinds))
    shares = np.stack([kinds == kind for kind in names], axis=1) / [np.sum(kinds == kind) for kind in names]
    cells = [
        *((ALL, kind, ALL) for kind in names),
        *((h, str(k), str(t)) for t in store["timestep"].values for h, k in zip(heads, kinds, strict=True)),
    ]
    bounds = [*(store["h_max"].values @ shares), *np.tile(store["h_max"].values, store.sizes["timestep"])]

    def families(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values.mean(axis=1) @ shares, values.reshape(len(values), -1)

    def tested(values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [joint_sign_flip_p([each], permutations=permutations, seed=seed)[0] for each in families(values)]
        )

    def estimated(values: np.ndarray) -> np.ndarray:
        both = np.concatenate(families(values), axis=1)
        found = bootstrap_mean(both, draws=draws, confidence=confidence, seed=seed)
        return np.stack([found.estimate, found.low, found.high], axis=1)

    def ranked(own: np.ndarray, others: np.ndarray) -> np.ndarray:
        # a mask is the unit: what two masks do to the same images differs, however many images there are
        parts = zip(families(own), zip(*map(families, others), strict=True), strict=True)
        sizes = [(np.abs(one.mean(0)), np.stack([np.abs(other.mean(0)) for other in many])) for one, many in parts]
        return np.concatenate([joint_rank_p(mine[None], [theirs])[0] for mine, theirs in sizes])

    change, by_chance = estimated(after - before), estimated(random.mean(axis=0) - before)
    p, p_random = tested(after - before), ranked(after - before, random - before)
    means = np.concatenate([np.concatenate(families(values), axis=1).mean(axis=0)[None] for values in (before, after)])
    for place, (head, kind, timestep) in enumerate(cells):
        yield {
            **{name: store.attrs[name] for name in ("concept", "objective", "dose", "count")},
            "head": head,
            "kind": kind,
            "timestep": timestep,
            "before": means[0, place],
            "after": means[1, place],
            **dict(zip(("change", "low", "high"), change[place], strict=True)),
            "h_max": bounds[place],
            "p_corrected": p[place],
            **dict(zip(("random", "random_low", "random_high"), by_chance[place], strict=True)),
            "p_random": p_random[place],
            "draws": len(random),
            "n": len(before),
        }
