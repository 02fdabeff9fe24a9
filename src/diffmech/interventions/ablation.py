"""Local ablation: how much worse one denoising pass gets when heads are replaced, on the very same noised images.

For every image and timestep there is one clean pass, and one pass per target and method. Kept are the two mean squared
errors of the predicted noise (paired: same image, same noise), the shift of the prediction
|eps_ablated - eps|^2 / |eps|^2, and how far the replaced outputs lie from what they replace. Controls (matched random
sets of heads) run with the first method, on the very images of their targets; methods beyond the first, which decide
nothing, may run on fewer images. Mean, zero and resample ablation are usual; this set of measures is ours.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import progress, provenance, write_store
from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.attention.tap import AttentionTap
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.errors import ConfigError, ModelError
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, ReferenceOutputs, replace_heads
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.interventions.prefix import SharedPrefix
from diffmech.interventions.recording import mean_square, repeated
from diffmech.interventions.reference import ReferenceStore, open_reference, tapped_sites
from diffmech.interventions.replay import LatentFiles, Passes, open_latent_files
from diffmech.interventions.targets import Balance, Heads, Target, layers, matched_controls, mechanisms, single_heads
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.memory_format import channels_last
from diffmech.statistics.reach import draws_needed

MEASURES = {
    "mse_ablated": "mean squared error of the noise predicted with the heads replaced",
    "shift": "squared change of the predicted noise over its squared norm",
    "distance_off": "distance of the replacement from the replaced output over the norm of the latter",
}

# Larger batches fall out of the caches of a CPU: with 64 rows the bundled model takes a fifth longer per pass.
ROWS_ON_CPU = 32


def rows_at_once(denoiser: Denoiser, runtime: RuntimeConfig, most_on_cpu: int = ROWS_ON_CPU) -> int:
    """Return the batch size of `runtime`, on a CPU no more than its caches hold. Results are the same for any."""
    return min(runtime.batch_size, most_on_cpu) if denoiser.device.type == "cpu" else runtime.batch_size


@in_smaller_batches
def ablate_heads(
    latents: Sequence[Path | str],
    model_json: Path | str,
    reference: Sequence[Path | str],
    output: Path | str,
    *,
    group: str,
    heads_csv: Path | str | None = None,
    ablation: AblationConfig,
    seed: int,
    runtime: RuntimeConfig,
    sample_ids: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
) -> None:
    """Ablate every target of `group` ("heads", "layers", "mechanisms") and write one store for one data set and shard.

    `latents` are the stores of the timesteps that are ablated. `reference` are their reference outputs; for mechanisms
    those of all blocks of the study, so that a control is the same set of heads in every block. `heads_csv` names the
    mechanisms and is only read for them.
    `sample_ids` is the shard (ids that the latents lack are left out); without it, the first `ablation.samples`.
    `timesteps` are by default those of `ablation`, else of the latents. The store has mse_ablated, shift, distance_off
    (target, method, sample, timestep), NaN where a method was not run, mse_clean (sample, timestep), size (target,
    timestep), which is how far the first method moves the outputs, and the balance of the controls of each target.
    Raises ConfigError, StoreError or ModelError, as its parts do.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    files, references = open_latent_files(latents), open_reference(reference)
    sites = tapped_sites(denoiser, files)
    timesteps = sorted(files.nearest(timesteps or ablation.timesteps or files.timesteps))
    targets = ablation_targets(group, sites, references, heads_csv=heads_csv, ablation=ablation, seed=seed)
    known = files.samples
    chosen = known[: ablation.samples] if sample_ids is None else sorted(set(known) & set(sample_ids))
    result = ablate_targets(
        denoiser,
        sites,
        files,
        references,
        targets,
        samples=chosen,
        timesteps=timesteps,
        ablation=ablation,
        seed=seed,
        runtime=runtime,
    )
    note = provenance(rule="ablate_heads", group=group, ablation=ablation.canonical(), seed=seed)
    measure = OUTPUT_SHIFT if files.on_trajectory else DENOISING_LOSS
    write_store(output, result.assign_attrs(group=group, measure=measure, provenance=note))


def ablation_targets(
    group: str,
    sites: Sequence[AttentionSite],
    references: ReferenceStore,
    *,
    heads_csv: Path | str | None,
    ablation: AblationConfig,
    seed: int,
) -> list[Target]:
    """Return the targets of `group`, and behind the mechanisms their matched controls.

    Heads and layers have none: too few heads are left to draw fair ones from, and the others of their kind are shown.
    """
    if group == "heads":
        return single_heads(sites)
    if group == "layers":
        return layers(sites)
    if group != "mechanisms" or heads_csv is None:
        raise ConfigError(f"ablation.groups: {group!r} needs a table of heads, or is none of heads, layers, mechanisms")
    targets = mechanisms(heads_csv, sites)
    sizes = [
        {t: references.displacements(ablation.methods[0], t, sites, domain) for t in references.timesteps}
        for domain in references.domains
    ]
    count, needed = ablation.controls, draws_needed(ablation.alpha)
    matched = [matched_controls(target, sites, *sizes, count=count, needed=needed, seed=seed) for target in targets]
    own = [replace(target, balance=found.balance) for target, found in zip(targets, matched, strict=True)]
    return own + [control for found in matched for control in found.controls]


def ablate_targets(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    files: LatentFiles,
    references: ReferenceStore,
    targets: Sequence[Target],
    *,
    samples: Sequence[int],
    timesteps: Sequence[int],
    ablation: AblationConfig,
    seed: int,
    runtime: RuntimeConfig,
    reuse_prefix: bool = True,
) -> xr.Dataset:
    """Return what `ablate_heads` writes. `reuse_prefix` False runs every pass from its start, with equal results."""
    references.check_apart(samples)
    result = _empty_result(sites, targets, samples, timesteps, ablation)
    for column, timestep in enumerate(timesteps):
        moved = references.displacements(ablation.methods[0], timestep, sites, files.domain)
        for row, target in enumerate(targets):
            result["size"].values[row, column] = np.sqrt(sum(moved[head] ** 2 for head in target.heads_at(timestep)))
    work = {timestep: _work(targets, timestep, ablation) for timestep in timesteps}
    size = rows_at_once(denoiser, runtime)
    chunks = [slice(i, i + size) for i in range(0, len(samples), size)]
    runner = _Runner(denoiser, sites, references, files.domain, ablation, seed, size, reuse_prefix)

    def run() -> Iterator[None]:
        for column, timestep in enumerate(timesteps):
            outputs = references.at(timestep, sites, files.domain, denoiser.device)
            for chunk in chunks:
                passes = files.read(timestep, samples[chunk], denoiser.device)
                yield from runner.run(passes, work[timestep], outputs, result, (chunk, column))

    batches = sum(runner.batches(work[timestep], samples[chunk]) for timestep in timesteps for chunk in chunks)
    with channels_last(denoiser.module):
        for _ in progress(run(), "ablated passes", total=batches, show=runtime.progress):
            pass
    return result


@dataclass
class _Work:
    """One distinct set of heads and method, with the (target, method) cells of the result that it fills."""

    heads: tuple[HeadId, ...]
    method: str
    cells: list[tuple[int, int]] = field(default_factory=list)
    images: int = 0  # those with smaller ids


def _work(targets: Sequence[Target], timestep: int, ablation: AblationConfig) -> list[_Work]:
    """Return the distinct ablations at `timestep`; equal sets of heads, of targets or controls, run once."""
    found: dict[tuple[Heads, str], _Work] = {}
    for row, target in enumerate(targets):
        heads = target.heads_at(timestep) if _inside(timestep, ablation) else frozenset()
        # Controls answer one question, whether a target stands out, so one method is enough.
        for column, method in enumerate(ablation.methods[:1] if target.control_of else ablation.methods):
            item = found.setdefault((heads, method), _Work(tuple(sorted(heads)), method))
            item.cells.append((row, column))
            item.images = max(item.images, _images(column, ablation))
    return list(found.values())


def _images(method: int, ablation: AblationConfig) -> int:
    """Return below which sample id targets are ablated by the method at position `method`."""
    return sys.maxsize if method == 0 or ablation.method_samples is None else ablation.method_samples


@dataclass
class _Runner:
    """Runs clean and ablated passes of some images at one timestep in batches of one fixed size.

    The fixed size matters: kernels may round differently for another one, and a dead head should change nothing.
    """

    denoiser: Denoiser
    sites: Sequence[AttentionSite]
    references: ReferenceStore
    domain: str
    ablation: AblationConfig
    seed: int
    batch_size: int
    reuse_prefix: bool
    prefix: SharedPrefix | None = None

    def batches(self, work: Sequence[_Work], samples: Sequence[int]) -> int:
        """Return how many batches of ablated passes `run` makes."""
        return -(-len(self._tasks(work, samples)) // self.batch_size)

    def run(
        self,
        passes: Passes,
        work: Sequence[_Work],
        reference: ReferenceOutputs,
        result: xr.Dataset,
        where: tuple[slice, int],
    ) -> Iterator[None]:
        """Fill in `result` at samples and timestep `where`, yielding after each batch."""
        if self.prefix is None:
            self.prefix = SharedPrefix(self.denoiser.module, self.sites, lambda n: self._predict(repeated(passes, n)))
        order = {name: position for position, name in enumerate(self.prefix.order)}
        tasks = self._tasks(work, passes.samples)
        # Neighbours start at the same site, so that a batch shares as long a prefix as possible.
        tasks.sort(key=lambda task: min(order[head.site] for head in work[task[0]].heads))
        size = min(self.batch_size, max(len(tasks), len(passes)))
        with torch.inference_mode(), self.prefix.recording():
            clean = self._predict(repeated(passes, size))[: len(passes)]
        mse_clean = mean_square(clean if passes.noise is None else clean - passes.noise).numpy()
        result["mse_clean"].values[where] = mse_clean
        table = {name: result[name].values[:, :, where[0], where[1]] for name in MEASURES}
        for item in work:
            if not item.heads:
                _fill(table, item, slice(None), (mse_clean, np.zeros_like(mse_clean), np.zeros_like(mse_clean)))
        sources = [self._source(sample) for sample in passes.samples]
        cache: dict[tuple[int, int], tuple[HeadIntervention, ...]] = {}
        for start in range(0, len(tasks), size):
            batch = tasks[start : start + size]
            rows: list[Sequence[HeadIntervention]] = []
            for index, position in batch:
                key = (index, sources[position])
                if key not in cache:
                    cache[key] = replace_heads(work[index].method, work[index].heads, source=sources[position])
                rows.append(cache[key])
            filling = size - len(batch)
            positions = torch.tensor([position for _, position in batch] + [0] * filling, device=clean.device)
            first = min((head.site for head in work[batch[0][0]].heads), key=order.__getitem__)
            ablated, distance = self._ablate(passes.rows(positions), rows + [()] * filling, reference, first, positions)
            before = clean[positions]
            moved = mean_square(ablated - before).numpy()
            shift = moved / mean_square(before).numpy()
            if passes.noise is None:
                # Nobody knows the noise on a sampling trajectory: then the effect on the loss is the output shift.
                mse = mse_clean[[position for _, position in batch] + [0] * filling] + moved
            else:
                mse = mean_square(ablated - passes.noise[positions]).numpy()
            if not np.isfinite(mse[: len(batch)]).all():
                worst = work[batch[int(np.argmin(np.isfinite(mse[: len(batch)])))][0]]
                names = " ".join(str(head) for head in worst.heads)
                raise ModelError(
                    f"the noise predicted at t = {passes.timestep} with {names} replaced ({worst.method}) is not"
                    " finite; leave this method out of ablation.methods, or run in float32"
                )
            for row, (index, position) in enumerate(batch):
                _fill(table, work[index], position, (mse[row], shift[row], distance[row]))
            yield

    def _tasks(self, work: Sequence[_Work], samples: Sequence[int]) -> list[tuple[int, int]]:
        """Return (work, position of the sample) of every ablated pass."""
        return [
            (index, position)
            for index, item in enumerate(work)
            if item.heads
            for position, sample in enumerate(samples)
            if sample < item.images
        ]

    def _source(self, sample: int) -> int:
        if "resample" not in self.ablation.methods:
            return 0
        return self.references.resample_source(self.domain, sample, self.seed)

    def _predict(self, passes: Passes) -> Tensor:
        return self.denoiser.predict_noise(passes.x_t, passes.timestep, passes.condition)

    def _ablate(
        self,
        passes: Passes,
        rows: Sequence[Sequence[HeadIntervention]],
        reference: ReferenceOutputs,
        first: str,
        positions: Tensor,
    ) -> tuple[Tensor, np.ndarray]:
        """Return the predicted noise and the distance off per row."""
        plan = AblationPlan(rows, self.sites, reference=reference, device=positions.device)
        assert self.prefix is not None
        replayed = self.prefix.replaying(first if self.reuse_prefix else None, positions)
        with (
            torch.inference_mode(),
            replayed,
            AttentionTap(self.denoiser.module, interventions=[plan], sites=self.sites),
        ):
            predicted = self._predict(passes)
        return predicted, plan.distance_off().cpu().numpy()


def _inside(timestep: int, ablation: AblationConfig) -> bool:
    return ablation.window is None or ablation.window[0] <= timestep <= ablation.window[1]


def _fill(
    table: dict[str, np.ndarray], item: _Work, position: int | slice, values: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Write mse, shift and distance of one ablation into all its cells."""
    for target, method in item.cells:
        for name, value in zip(MEASURES, values, strict=True):
            table[name][target, method, position] = value


def _empty_result(
    sites: Sequence[AttentionSite],
    targets: Sequence[Target],
    samples: Sequence[int],
    timesteps: Sequence[int],
    ablation: AblationConfig,
) -> xr.Dataset:
    text = np.dtypes.StringDType()
    kinds = {site.name: site.kind for site in sites}
    dims = ("target", "method", "sample", "timestep")
    shape = (len(targets), len(ablation.methods), len(samples), len(timesteps))
    members = [
        [" ".join(map(str, sorted(t.heads_at(step)))) if _inside(step, ablation) else "" for step in timesteps]
        for t in targets
    ]
    found = [sorted({kinds[head.site] for head in target.heads()}) for target in targets]
    balances = [target.balance or Balance() for target in targets]
    pools = [target.control_pool or balance.pool for target, balance in zip(targets, balances, strict=True)]
    return xr.Dataset(
        {name: (dims, np.full(shape, np.nan), {"units": "1", "long_name": what}) for name, what in MEASURES.items()}
        | {
            "mse_clean": (
                dims[2:],
                np.full(shape[2:], np.nan),
                {"units": "1", "long_name": "mean squared error of the predicted noise"},
            ),
            "members": (("target", "timestep"), np.array(members, dtype=text), {"long_name": "heads replaced"}),
            "size": (
                ("target", "timestep"),
                np.zeros((len(targets), len(timesteps))),
                {"units": "1", "long_name": "root sum of squares of how far the outputs of its heads are moved"},
            ),
            "control_of": ("target", np.array([t.control_of for t in targets], dtype=text)),
            "control_pool": ("target", np.array(pools, dtype=text)),
            "control_overlap": ("target", np.array([balance.overlap for balance in balances])),
            "control_ratio": ("target", np.array([balance.ratio for balance in balances])),
            "control_ratio_low": ("target", np.array([balance.low for balance in balances])),
            "control_ratio_high": ("target", np.array([balance.high for balance in balances])),
            "controls": ("target", np.array([balance.sets for balance in balances], dtype=np.int64)),
            "controls_fair": ("target", np.array([balance.fair for balance in balances])),
            "kind": ("target", np.array([kind[0] if len(kind) == 1 else "mixed" for kind in found], dtype=text)),
            "heads": ("target", np.array([len(t.heads()) for t in targets], dtype=np.int64)),
        },
        coords={
            "target": np.array([t.name for t in targets], dtype=text),
            "method": np.array(ablation.methods, dtype=text),
            "sample": np.array(samples, dtype=np.int64),
            "timestep": np.array(timesteps, dtype=np.int64),
        },
    )
