"""Images sampled again from the same seeds, clean and with heads removed, kept so that any judge can look at them.

Conditions are those of the gallery: drawn attributes in the labelled domain, the domain alone in others, prompts for a
pipeline. Besides the clean images of the same seeds there are clean images of other seeds, the reference of distances,
and of further ones, from which the means are taken and which are not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import open_store, provenance, write_store
from diffmech.attention.sites import AttentionSite, find_sites
from diffmech.attention.survey import attention_sites
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import Prompts
from diffmech.config.models import SamplingConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import StoreError
from diffmech.interventions.reference import open_reference
from diffmech.interventions.targets import Balance
from diffmech.interventions.windows import schedule_length
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import ddim, domain_condition, guided_prediction, initial_noise
from diffmech.randomness import generator
from diffmech.resampling.removals import Removal, plan_removals
from diffmech.resampling.steering import MEAN
from diffmech.resampling.trajectories import Resampled, Task, resample

UNCONDITIONAL = "unconditional"
TEXT = np.dtypes.StringDType()


@in_smaller_batches
def resample_images(
    model_json: Path | str,
    heads_csv: Path | str,
    reference: Sequence[Path | str],
    output: Path | str,
    *,
    domain: str,
    part: int,
    resampling: ResamplingConfig,
    sampling: SamplingConfig,
    seed: int,
    runtime: RuntimeConfig,
    prompts: Prompts | None = None,
    size: int = 0,
) -> None:
    """Sample one part of the removals of one domain and write its images.

    Variables: clean (image, channel, y, x), others (other, ...) of other seeds, ablated (target, image, ...), matched
    (control, image, ...), in [-1, 1], of a pipeline uint8; asked (image, attribute); the balance of the controls of
    each target, and at how many steps it was removed; the attention calls of clean passes (step,). `heads_csv` names
    the mechanisms, `reference` are the stores of reference outputs, which say how far heads are moved. `sampling` gives
    steps and guidance where `resampling` does not. `prompts` and `size` are those of a pipeline. Removal i belongs to
    part i modulo `resampling.parts`, so do the other images. Raises ConfigError, StoreError or ModelError, as its parts
    do.
    """
    steps = resampling.steps or sampling.steps
    guidance = sampling.guidance if resampling.guidance is None else resampling.guidance
    references = open_reference(reference)
    count = resampling.images
    others = range(count, count + (resampling.reference or count))[part :: resampling.parts]
    after = count + (resampling.reference or count)
    # In front, since they are counted from there; an image that is studied, or compared with, is part of no mean.
    averaged = resampling.mean_images if resampling.method == MEAN else 0
    numbers = [*range(after, after + averaged), *range(count), *others]

    def planned(sites: Sequence[AttentionSite], timesteps: Sequence[int]) -> list[Removal]:
        sizes = {t: references.displacements(resampling.method, t, sites, domain) for t in references.timesteps}
        schedule = schedule_length(model_json)
        removals = plan_removals(
            heads_csv, sites, timesteps, sizes, schedule=schedule, resampling=resampling, seed=seed
        )
        return removals[part :: resampling.parts]

    def tasks_of(removals: Sequence[Removal]) -> list[Task]:
        return [Task(removal, averaged + position) for removal in removals for position in range(count)]

    if prompts is None:
        denoiser = load_denoiser(Path(model_json), device=runtime.device)
        timesteps = [int(t) for t in ddim(denoiser, steps).timesteps]
        sites = _sites(denoiser, (references.timesteps or timesteps)[0])
        removals = planned(sites, timesteps)
        condition = domain_condition(denoiser, domain, max(numbers) + 1, resampling.seed).rows(torch.tensor(numbers))
        images = resample(
            denoiser,
            sites,
            condition,
            tasks_of(removals),
            numbers=numbers,
            averaged=averaged,
            steps=steps,
            guidance=guidance,
            method=resampling.method,
            seed=resampling.seed,
            batch_size=runtime.batch_size,
            show=runtime.progress,
        )
        about = {
            "asked": (("image", "attribute"), condition.values[averaged : averaged + count].numpy()),
            "attribute": np.array(denoiser.attributes, dtype=TEXT),
        }
        label = domain if denoiser.conditional and domain in denoiser.domains else UNCONDITIONAL
    else:
        # a pipeline's own code and its text encoders, which no other denoiser needs
        from diffmech.data.prompts import prompt_of, read_prompts
        from diffmech.models.pipelines import load_pipeline
        from diffmech.resampling.generated import PromptedSampling

        texts = read_prompts(prompts)
        asked = [prompt_of(texts, number) for number in numbers]
        pipeline = PromptedSampling(
            load_pipeline(Path(model_json), scheduler=sampling.scheduler, device=runtime.device),
            asked,
            [int(generator(resampling.seed, "sampling", number).integers(2**63)) for number in numbers],
            negative_prompt=prompts.negative_prompt,
            steps=steps,
            guidance=guidance,
            size=size,
        )
        sites, timesteps = find_sites(pipeline.module), pipeline.timesteps()
        removals = planned(sites, timesteps)
        images = pipeline.resample(
            sites,
            tasks_of(removals),
            averaged=averaged,
            method=resampling.method,
            batch_size=runtime.batch_size,
            show=runtime.progress,
        )
        about = {"prompt": ("image", np.array(asked[averaged : averaged + count], dtype=TEXT))}
        label = domain
    kept, byte = replace(images, clean=images.clean[averaged:]), prompts is not None
    store = stored_images(kept, removals, numbers[averaged:], timesteps, resampling, byte=byte).assign(about)
    store.attrs = {
        "domain": label,
        "method": resampling.method,
        "guidance": guidance,
        "provenance": provenance(rule="resample_images", resampling=resampling.canonical(), steps=steps, seed=seed),
    }
    encoding = {
        name: {"chunks": (1, *store[name].shape[1:])} for name in ("ablated", "matched") if store.sizes[_OVER[name]]
    }
    write_store(output, store, encoding=encoding)


_OVER = {"ablated": "target", "matched": "control"}


def _sites(denoiser: Denoiser, timestep: int) -> list[AttentionSite]:
    """Return all attention sites that run at a timestep of the study. Raises ModelError naming odd ones."""
    noise = initial_noise(0, [0], denoiser.sample_shape).to(denoiser.device)
    condition = domain_condition(denoiser, "", 1, 0).to(denoiser.device)
    return attention_sites(denoiser.module, lambda: guided_prediction(denoiser, noise, timestep, condition, 1.0))


def stored_images(
    images: Resampled,
    removals: Sequence[Removal],
    numbers: Sequence[int],
    timesteps: Sequence[int],
    resampling: ResamplingConfig,
    *,
    byte: bool,
) -> xr.Dataset:
    """Return what `resample_images` writes about images and heads; `images.ablated` has the removals one by one."""
    count, shape = resampling.images, tuple(images.clean.shape[1:])
    own = [removal for removal in removals if not removal.control_of]
    controls = [removal for removal in removals if removal.control_of]
    balances = [removal.balance or Balance() for removal in own]
    by_removal = dict(zip(map(id, removals), images.ablated.split(count) if removals else (), strict=True))

    def stacked(chosen: Sequence[Removal]) -> np.ndarray:
        if not chosen:
            return _kept(torch.empty(0, count, *shape), byte)
        return _kept(torch.stack([by_removal[id(removal)] for removal in chosen]), byte)

    def texts(values: Sequence[str]) -> np.ndarray:
        return np.array(values, dtype=TEXT)

    pixels = ("channel", "y", "x")
    unit = {"units": "1", "long_name": "generated image, -1 black to 1 white" + (", from 0 to 255" if byte else "")}
    members = [" ".join(map(str, sorted(heads))) for removal in own for heads in removal.members]
    removed = [_steps_removed(removal, images.calls) for removal in own]
    return xr.Dataset(
        {
            "clean": (("image", *pixels), _kept(images.clean[:count], byte), unit),
            "others": (("other", *pixels), _kept(images.clean[count:], byte), unit),
            "ablated": (("target", "image", *pixels), stacked(own), unit),
            "matched": (("control", "image", *pixels), stacked(controls), unit),
            "members": (("target", "step"), texts(members).reshape(len(own), len(timesteps))),
            "calls": ("step", texts([" ".join(sorted(called)) for called in images.calls])),
            "steps_removed": ("target", np.array(removed, dtype=np.int64)),
            "heads": ("target", np.array([removal.heads for removal in own], dtype=np.int64)),
            "controls_fair": ("target", np.array([balance.fair for balance in balances])),
            "control_overlap": ("target", np.array([balance.overlap for balance in balances])),
            "control_ratio": ("target", np.array([balance.ratio for balance in balances])),
            "control_ratio_low": ("target", np.array([balance.low for balance in balances])),
            "control_ratio_high": ("target", np.array([balance.high for balance in balances])),
            "control_pool": ("target", texts([balance.pool for balance in balances])),
        },
        coords={
            "image": np.arange(count),
            "other": np.array(numbers[count:], dtype=np.int64),
            "target": texts([removal.target for removal in own]),
            "group": ("target", texts([removal.group for removal in own])),
            "window": ("target", texts([removal.window for removal in own])),
            "control": texts([removal.target for removal in controls]),
            "control_of": ("control", texts([removal.control_of for removal in controls])),
            "timestep": ("step", np.array(timesteps, dtype=np.int64)),
        },
    )


def _steps_removed(removal: Removal, calls: Sequence[frozenset[str]]) -> int:
    """Return the number of steps at which any head of a removal is replaced: where it is meant to be, and runs."""
    return sum(any(head.site in ran for head in heads) for heads, ran in zip(removal.members, calls, strict=True))


def _kept(images: Tensor, byte: bool) -> np.ndarray:
    clipped = images.float().clamp(-1, 1).numpy()
    return np.rint((clipped + 1) * 127.5).astype(np.uint8) if byte else clipped


def as_images(values: np.ndarray) -> Tensor:
    """Return stored images as float32 in [-1, 1]."""
    return torch.from_numpy(values.astype(np.float32) / 127.5 - 1 if values.dtype == np.uint8 else values)


@dataclass(frozen=True)
class Part:
    """One opened store of `resample_images`; its images are read where they are asked for."""

    path: Path
    store: xr.Dataset

    def texts(self, name: str) -> list[str]:
        """Return one of its coordinates as plain text."""
        return [str(value) for value in self.store[name].values]

    def images(self, name: str, index: int | None = None) -> Tensor:
        """Return the clean images or those of others, or of one target or control, float32 in [-1, 1]."""
        values = self.store[name] if index is None else self.store[name][index]
        return as_images(values.values)


def open_parts(paths: Sequence[Path | str]) -> list[Part]:
    """Open the stores of one domain. Raises StoreError where they are not of the same images and steps."""
    parts = [Part(Path(path), open_store(path).to_dataset()) for path in paths]
    for part in parts[1:]:
        for name in ("image", "timestep"):
            if not np.array_equal(part.store[name].values, parts[0].store[name].values):
                raise StoreError(f"{part.path}: its {name}s differ from those of {parts[0].path}; make both anew")
    return parts
