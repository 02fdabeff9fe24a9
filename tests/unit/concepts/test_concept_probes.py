"""Probes of an edited denoiser: steps of sampling, fresh noise, tokens that are looked for, what comes back."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from test_concept_jobs import EVALUATION, HAT, judge, untrained  # noqa: F401 (a fixture)

from diffmech.artifacts import open_store
from diffmech.concepts.asking import asking_for
from diffmech.concepts.inversion import inverted_token, with_token
from diffmech.concepts.masks import Mask, applied, write_mask
from diffmech.concepts.probes import Stepper, completion, probe_concept, random_edit
from diffmech.concepts.recovery import recovered
from diffmech.config.concept_probes import InversionConfig, ProbesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import (
    cut_steps,
    ddim,
    ddim_step,
    fresh_spread,
    initial_noise,
    sample_images,
    steps_from,
)
from diffmech.models.tokens import AttributeTokens
from diffmech.report.concepts.probes import verdict

STEPS, GUIDANCE, WIDTH = 4, 2.0, 4
SAMPLING = {"steps": STEPS, "guidance": GUIDANCE}
SETTINGS = {"draws": 400, "confidence": 0.95, "seed": 0}


class MeanDenoiser(torch.nn.Module):
    """The exact denoiser of images that all equal the token of the first attribute, pixel by channel."""

    def __init__(self, scheduler):
        super().__init__()
        self.abar, self.anchor = scheduler.alphas_cumprod, torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x_t, steps, tokens):
        share = self.abar[steps].reshape(-1, 1, 1, 1)
        mean = tokens[:, 1].reshape(len(x_t), 1, 2, 2)
        return SimpleNamespace(sample=(x_t - share.sqrt() * mean) / (1 - share).sqrt())


@pytest.fixture
def mean() -> Denoiser:
    scheduler = DDPMScheduler(num_train_timesteps=20, beta_start=0.02, beta_end=0.4)
    tokens = AttributeTokens(["glasses", "hat"], ["real"], WIDTH).requires_grad_(False)
    return Denoiser(MeanDenoiser(scheduler), scheduler, (1, 2, 2), tokens, ("glasses", "hat"), ("real",))


@pytest.fixture
def tiny(tmp_path) -> Denoiser:
    return load_denoiser(untrained(tmp_path, 5), device="cpu")


def told(denoiser, n):
    return Condition(torch.zeros(n, dtype=torch.long), torch.ones(n, len(denoiser.attributes)))


def mask_of(denoiser, count=400, **about):
    name = next(name for name, _ in denoiser.module.named_parameters() if "ff.net.2.weight" in name)
    edit = {"groups": ["feed_forward"], "granularity": "global", "order": "first", "factor": 0.0}
    key = {"concept": "hat", "attribute": "hat", "objective": "erase", "dose": count, "count": count}
    return Mask.of({name: np.arange(count)}, 0.0, edit=edit, **key, **about)


def test_all_steps_are_sampling_and_parts_of_them_add_up(tiny, runtime):
    condition, noise = told(tiny, 3), initial_noise(7, range(3), tiny.sample_shape)
    whole = sample_images(tiny, condition, **SAMPLING, seed=7, runtime=runtime)
    assert torch.equal(steps_from(tiny, condition, noise, range(STEPS), **SAMPLING, runtime=runtime), whole)
    half = steps_from(tiny, condition, noise, range(1), **SAMPLING, runtime=runtime)
    assert torch.equal(steps_from(tiny, condition, half, range(1, STEPS), **SAMPLING, runtime=runtime), whole)


def test_who_finishes_after_all_steps_changes_nothing_and_after_none_everything(tiny, runtime):
    stepper, own = Stepper(asking_for(tiny, HAT), EVALUATION, runtime), mask_of(tiny)
    every = range(EVALUATION.steps)
    original = stepper.run(stepper.noise(), every, stepper.told("asked"))
    with applied(tiny, own):
        edited = stepper.run(stepper.noise(), every, stepper.told("asked"))
    assert not torch.equal(original, edited)
    last, _ = completion(stepper, own, random_edit(tiny, own, 0), [0.999])
    assert torch.equal(last.images, original)
    [first, random] = completion(stepper, own, random_edit(tiny, own, 0), [1e-9])
    assert first.setting == 1 / EVALUATION.steps  # at least one, and what was really done is told
    assert not torch.equal(first.images, original)
    assert not torch.equal(first.images, random.images)


def test_a_random_edit_has_as_many_weights(tiny):
    own = mask_of(tiny)
    random = random_edit(tiny, own, 3)
    assert random.count == own.count
    matrix = random_edit(tiny, own, 3, matrix=True)
    assert {name: len(positions) for name, positions in matrix.indices.items()} == {
        name: len(positions) for name, positions in own.indices.items()
    }


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_fresh_noise_is_that_of_diffusers(eta):
    scheduler = DDPMScheduler(num_train_timesteps=20, clip_sample=False)
    sampler = DDIMScheduler.from_config(scheduler.config, set_alpha_to_one=False)
    sampler.set_timesteps(20)
    x_t, predicted, fresh = torch.randn(3, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for t in (19, 10, 1):
        theirs = sampler.step(predicted, t, x_t, eta=eta, variance_noise=fresh).prev_sample
        assert torch.allclose(ddim_step(sampler, predicted, t, x_t, eta=eta, fresh=fresh), theirs, atol=1e-5)


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.85, 50.0])
def test_images_stay_as_noisy_as_the_schedule_says_whatever_eta_is(eta):
    scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    scheduler.set_timesteps(8)
    for place, t in enumerate(scheduler.timesteps[:-1].tolist()):
        share, left = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[scheduler.timesteps[place + 1]]
        # pure noise in, no image predicted: what is left is noise, old and fresh, whose variances add up
        old = ddim_step(scheduler, (1 - share) ** -0.5 * torch.ones(1), t, torch.ones(1), eta=eta, fresh=torch.zeros(1))
        new = fresh_spread(scheduler, t, eta)
        assert float(old * (1 - share) ** 0.5) ** 2 + float(new) ** 2 == pytest.approx(float(1 - left), rel=1e-4)


def test_steps_without_any_old_noise_are_counted(mean):
    scheduler = ddim(mean, 5)
    shares = [float(mean.scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [1.0]
    pairs = list(pairwise(shares))
    for eta in (1.0, 1.85):
        expected = sum(eta**2 * (1 - share / left) / (1 - share) > 1 for share, left in pairs if left < 1)
        assert cut_steps(mean, eta, 5) == expected
    assert cut_steps(mean, 0.5, 5) == 0


def test_fresh_noise_belongs_to_seed_image_and_step(tiny, runtime):
    condition, noise = told(tiny, 3), initial_noise(7, range(3), tiny.sample_shape)
    which = {**SAMPLING, "eta": 1.0, "runtime": runtime}
    several = steps_from(tiny, condition, noise, range(STEPS), **which, seed=1)
    fewer = steps_from(tiny, condition.rows(slice(0, 2)), noise[:2], range(STEPS), **which, seed=1)
    assert torch.allclose(several[:2], fewer, atol=1e-5)
    assert not torch.allclose(several, steps_from(tiny, condition, noise, range(STEPS), **which, seed=2), atol=1e-2)


def test_the_token_of_the_images_is_found_and_no_other_is_touched(mean):
    truth = torch.tensor([0.8, -0.5, 0.1, 0.4])
    images = truth.reshape(1, 1, 2, 2).expand(6, 1, 2, 2)
    before = {name: value.clone() for name, value in mean.tokens.state_dict().items()}
    search = {"value": 1.0, "batch": 4, "seed": 0}
    token = inverted_token(mean, 0, images, told(mean, 6), steps=200, rate=0.1, **search)
    assert torch.allclose(token, truth, atol=0.02)
    assert all(torch.equal(value, before[name]) for name, value in mean.tokens.state_dict().items())
    changed = with_token(mean, 0, token).tokens(
        torch.zeros(2, dtype=torch.long), torch.tensor([[1.0, 0.5], [torch.nan, 0]])
    )
    own = mean.tokens(torch.zeros(2, dtype=torch.long), torch.tensor([[1.0, 0.5], [torch.nan, 0]]))
    assert torch.equal(changed[0, 1], token)
    own[0, 1] = changed[0, 1]
    assert torch.equal(changed, own)  # the unknown token, by which guidance goes, and those of others
    nothing = inverted_token(mean, 0, images, told(mean, 6), steps=1, rate=1e-12, **search)
    assert torch.allclose(nothing, mean.tokens.base[0] + mean.tokens.slope[0])


def test_tokens_that_are_none_are_named(mean, linear):
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ModelError, match="only where there are tokens of attributes"):
        with_token(linear, 0, torch.zeros(4))
    with pytest.raises(ModelError, match=r"smaller concepts\.probes\.inversion\.rate"):
        inverted_token(mean, 0, images, told(mean, 2), value=1, steps=3, rate=1e30, batch=2, seed=0)


def test_the_job_writes_every_probe_again_alike(judge, runtime, tmp_path):  # noqa: F811
    model = untrained(tmp_path, 4)
    write_mask(mask_of(load_denoiser(model, device="cpu")), tmp_path / "mask.safetensors")
    probes = ProbesConfig(completion=[0.1, 0.3, 0.6], eta=[1.85], inversion=InversionConfig(images=2, steps=2, batch=2))
    for name in ("once", "again"):
        probe_concept(
            model,
            tmp_path / "mask.safetensors",
            judge,
            tmp_path / name,
            concept=HAT,
            evaluation=EVALUATION,
            probes=probes,
            judges=JudgesConfig(),
            seed=100,
            runtime=runtime,
        )
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()
    store = open_store(tmp_path / "once").to_dataset()
    keys = zip(store["probe"].values, store["setting"].values.round(2), store["edit"].values, strict=True)
    assert [(str(probe), float(setting), str(edit)) for probe, setting, edit in keys] == [
        # of three steps, the first two shares are both one
        *(("completion", share, edit) for share, edit in ((0.33, "own"), (0.67, "own"), (0.67, "random"))),
        *(("noise", 1.85, edit) for edit in ("own", "original")),
        *(("inversion", 2, edit) for edit in ("own", "control")),
    ]
    assert np.isfinite(store["images"].values).all()
    assert store.attrs["absent"] == []


def seen(share, n=24):
    return np.arange(n) < round(share * n)


def test_what_comes_back_is_a_share_of_what_was_taken_away():
    half = recovered(seen(0.5), seen(0), seen(1), **SETTINGS)
    assert half[0] == 0.5
    assert half[1] < 0.35 < 0.65 < half[2]
    # of 0.5 that is gone a half is back
    assert recovered(seen(0.75), seen(0.5), seen(1), **SETTINGS)[0] == pytest.approx(0.5)
    assert recovered(seen(1), seen(0), seen(1), **SETTINGS)[0] == 1
    # nothing of 4 seeds is no proof of nothing
    none, few = (recovered(seen(0, n), seen(0, n), seen(1, n), **SETTINGS) for n in (100, 4))
    assert none[:2] == few[:2] == (0, 0)
    assert none[2] < 0.05 < 0.4 < few[2]
    assert np.isnan(recovered(seen(1), seen(1), seen(1), **SETTINGS)).all()


def probes(*rows):
    columns = ["probe", "edited", "original", "recovered_low", "recovered_high", "above_control", "above_control_low"]
    nothing = (np.nan, np.nan)
    padded = [("completion", 0.0, *row, *(nothing if len(row) == 3 else ())) for row in rows]
    return pd.DataFrame(padded, columns=columns)


def test_a_verdict_needs_intervals_on_one_side():
    assert verdict(probes((1, 0, 0.1), (1, 0, 0.2))) == "destroyed"
    assert verdict(probes((1, 0, 0.1), (1, 0.4, 0.9))) == "avoided"
    assert verdict(probes((1, 0, 0.1), (1, 0.1, 0.4))) == "cannot be told"
    assert verdict(probes((1, 0, 0.1), (0, np.nan, np.nan))) == "not erased"
    # where noise alone takes the concept away, it says nothing of an edit, and the other probes still do
    for other, said in (((1, 0, 0.1), "cannot be told"), ((1, 0.4, 0.9), "avoided")):
        rows = probes(other, (0, np.nan, np.nan))
        rows.loc[1, "probe"] = "noise"
        assert verdict(rows) == said
    # a token that brings back no more than any search does tells nothing
    assert verdict(probes((1, 0, 0.1), (1, 0.4, 0.9, 0.1, -0.1))) == "cannot be told"
    assert verdict(probes((1, 0, 0.1), (1, 0.4, 0.9, 0.5, 0.3))) == "avoided"
