"""Heads removed while a pipeline samples by itself: the clean images are untouched, and so is the pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.errors import ModelError
from diffmech.models.pipelines import load_pipeline
from diffmech.resampling.generated import PromptedSampling
from diffmech.resampling.removals import Removal
from diffmech.resampling.trajectories import Resampled, Task
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

STEPS, SEEDS = 3, [11, 12, 13]
PROMPTS = ["a photo of a face", "a drawing of a hat", "a face with glasses"]


@pytest.fixture(scope="module")
def pipeline(pipeline_json: Path) -> Any:
    return load_pipeline(pipeline_json, scheduler=None, device="cpu")


def sampling(pipeline: Any, guidance: float = 5.0) -> PromptedSampling:
    return PromptedSampling(pipeline, PROMPTS, SEEDS, negative_prompt="", steps=STEPS, guidance=guidance, size=16)


def removal(sites: list[AttentionSite], steps: range = range(STEPS), heads: bool = True) -> Removal:
    chosen = frozenset(HeadId(site.name, 0) for site in sites) if heads else frozenset[HeadId]()
    return Removal("some", "mechanisms", tuple(chosen if step in steps else frozenset() for step in range(STEPS)))


def run(
    pipeline: Any, removals: list[Removal], batch_size: int, method: str = "mean", guidance: float = 5.0
) -> Resampled:
    tasks = [Task(each, position) for each in removals for position in range(len(SEEDS))]
    asked = sampling(pipeline, guidance)
    return asked.resample(find_sites(asked.module), tasks, averaged=len(SEEDS), method="mean", batch_size=batch_size)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_removing_nothing_gives_the_clean_images_bit_for_bit(pipeline: Any, guidance: float) -> None:
    sites = find_sites(pipeline.unet)
    found = run(pipeline, [removal(sites, heads=False), removal(sites)], 6, guidance=guidance)
    assert torch.equal(found.ablated[:3], found.clean)
    assert (found.ablated[3:] - found.clean).abs().max() > 1e-3
    assert not pipeline.unet._forward_pre_hooks
    assert "step" not in vars(pipeline.scheduler)


def test_results_do_not_depend_on_the_batch_size(pipeline: Any) -> None:
    sites = find_sites(pipeline.unet)
    removals = [removal(sites), removal(sites, range(1, 2))]
    one, other = (run(pipeline, removals, size) for size in (2, 16))
    assert_same_up_to_rounding(one.clean, other.clean, roundings=ROUNDINGS_OF_MANY_PASSES)
    assert_same_up_to_rounding(one.ablated, other.ablated, roundings=ROUNDINGS_OF_MANY_PASSES)
    assert not torch.allclose(one.ablated[:3], one.ablated[3:], atol=1e-3)


def test_rows_that_belong_to_no_image_are_refused(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(pipeline.unet)

    class Wrapped(own):  # type: ignore[misc, valid-type]
        def __call__(self, sample: Any, timestep: Any, encoder_hidden_states: Any, **rest: Any) -> Any:
            more = (torch.cat([each, each[:1]]) for each in (sample, encoder_hidden_states))
            return (own.__call__(self, next(more), timestep, next(more), **rest)[0][:-1],)

    monkeypatch.setattr(pipeline.unet, "__class__", Wrapped)
    with pytest.raises(
        ModelError,
        match=r"^StableDiffusionPipeline: its denoiser gets 7 rows for 3 images; expected as many, or a multiple",
    ):
        run(pipeline, [removal(find_sites(pipeline.unet))], 3)


def test_steps_are_those_of_the_pipelines_own_sampler(pipeline: Any) -> None:
    pipeline.scheduler.set_timesteps(STEPS)
    assert sampling(pipeline).timesteps() == pipeline.scheduler.timesteps.tolist()
