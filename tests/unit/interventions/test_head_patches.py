"""Scaling, patching and swapping: the identity at dose 0, closed forms, mixtures in one batch, clear refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import (
    HeadIntervention,
    MeanHead,
    PatchHead,
    ReferenceOutputs,
    ResampleHead,
    ScaleHead,
    SwapTimestep,
    UniformAttention,
    ZeroHead,
    from_config,
    to_config,
)
from diffmech.interventions.recording import predict, record_heads
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.testing import assert_same_up_to_rounding


def passes(n: int, *, seed: int = 0, timestep: int = 300, value: float = 0.3) -> Passes:
    x_t = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    known = Condition(torch.arange(n) % 2, torch.full((n, 1), value))
    return Passes(timestep, tuple(range(n)), x_t, None, known)


def every_head(sites: list[AttentionSite]) -> list[HeadId]:
    return [HeadId(site.name, head) for site in sites for head in range(site.heads)]


def recorded(denoiser: Denoiser, sites: list[AttentionSite], of: dict[str | int, Passes]) -> ReferenceOutputs:
    outputs = {name: record_heads(denoiser, sites, each)[1] for name, each in of.items()}
    first = next(iter(outputs.values()))
    return ReferenceOutputs(300, {site: bank.mean(0) for site, bank in first.items()}, first, outputs)


def intervened(
    denoiser: Denoiser,
    sites: list[AttentionSite],
    given: Passes,
    rows: list[list[HeadIntervention]],
    reference: ReferenceOutputs | None = None,
    samples: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the predicted noise and the distance off."""
    plan = AblationPlan(rows, sites, reference=reference, samples=samples)
    with torch.inference_mode(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
        return predict(denoiser, given), plan.distance_off()


def test_dose_zero_is_exactly_the_identity(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    given, heads = passes(3), every_head(sites)
    reference = recorded(denoiser, sites, {"other": passes(3, seed=5)})
    rows: list[list[HeadIntervention]] = [
        [ScaleHead(head, 0) for head in heads],
        [PatchHead(head, "other", 0.0) for head in heads],
        [PatchHead(head, "batch", 0.0, row=0) for head in heads],
    ]
    predicted, distance = intervened(denoiser, sites, given, rows, reference)
    assert torch.equal(predicted, predict(denoiser, given))
    assert torch.equal(distance, torch.zeros(3))


@pytest.mark.parametrize("dose", [0.3, 0.7, 1.0, 2.0])
def test_patching_heads_with_their_own_clean_outputs_changes_no_bit(
    denoiser: Denoiser, sites: list[AttentionSite], dose: float
) -> None:
    given, heads = passes(3), every_head(sites)
    reference = recorded(denoiser, sites, {"clean": given, 300: given})
    rows: list[list[HeadIntervention]] = [
        [PatchHead(head, "clean", dose) for head in heads],
        [PatchHead(head, "batch", dose) for head in heads],
        [SwapTimestep(head, 300) for head in heads],
    ]
    predicted, distance = intervened(denoiser, sites, given, rows, reference)
    assert torch.equal(predicted, predict(denoiser, given))
    assert torch.equal(distance, torch.zeros(3))


def test_swapping_two_identical_samples_changes_no_bit(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    twins, heads = passes(2).rows(torch.tensor([0, 0])), every_head(sites)
    rows: list[list[HeadIntervention]] = [[PatchHead(head, "batch", row=1 - row) for head in heads] for row in (0, 1)]
    predicted, _ = intervened(denoiser, sites, twins, rows)
    assert torch.equal(predicted, predict(denoiser, twins))


def test_a_full_dose_of_scaling_is_zero_ablation(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    given, heads = passes(2), every_head(sites)[:20]
    scaled, _ = intervened(denoiser, sites, given, [[ScaleHead(head, 1.0) for head in heads]] * 2)
    zeroed, _ = intervened(denoiser, sites, given, [[ZeroHead(head) for head in heads]] * 2)
    assert torch.equal(scaled, zeroed)


@pytest.mark.parametrize("dose", [0.25, 0.5, 1.0])
def test_the_distance_off_of_a_patch_grows_in_proportion_to_its_dose(
    denoiser: Denoiser, sites: list[AttentionSite], dose: float
) -> None:
    # The first site sees the same input whatever the dose.
    given, head = passes(2), HeadId(sites[0].name, 3)
    reference = recorded(denoiser, sites, {"other": passes(2, seed=5)})
    _, whole = intervened(denoiser, sites, given, [[PatchHead(head, "other")]] * 2, reference)
    _, part = intervened(denoiser, sites, given, [[PatchHead(head, "other", dose)]] * 2, reference)
    assert_same_up_to_rounding(part, dose * whole)
    _, less = intervened(denoiser, sites, given, [[ScaleHead(head, dose)]] * 2)
    assert_same_up_to_rounding(less, torch.full((2,), dose))


def test_patching_every_cross_attention_head_from_another_condition_gives_the_output_under_that_condition(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    clean, other = passes(3), passes(3, value=-0.9)
    reference = recorded(denoiser, sites, {"other": other})
    heads = [HeadId(site.name, head) for site in sites if site.kind == "cross" for head in range(site.heads)]
    patched, _ = intervened(denoiser, sites, clean, [[PatchHead(head, "other") for head in heads]] * 3, reference)
    assert_same_up_to_rounding(patched, predict(denoiser, other))
    assert not torch.allclose(patched, predict(denoiser, clean), atol=1e-4)


def test_rows_may_repeat_samples_and_mix_any_interventions(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    given, heads = passes(4), every_head(sites)
    reference = recorded(denoiser, sites, {"other": passes(4, seed=5), 700: passes(4, timestep=700)})
    mixture: list[HeadIntervention] = [
        ZeroHead(heads[0]),
        MeanHead(heads[1]),
        ResampleHead(heads[2], 3),
        UniformAttention(heads[3]),
        ScaleHead(heads[4], 0.4),
        PatchHead(heads[5], "other", 0.6),
        PatchHead(heads[6], "other", row=0),
        SwapTimestep(heads[7], 700),
        SwapTimestep(heads[30], 700),
    ]
    samples = [2, 0, 2]
    rows = [mixture, mixture[4:], [*mixture[:3], *mixture[7:]]]
    chosen = given.rows(torch.tensor(samples))
    together, distance = intervened(denoiser, sites, chosen, rows, reference, samples)
    for row, sample in enumerate(samples):
        one = chosen.rows(torch.tensor([row]))
        alone, off = intervened(denoiser, sites, one, [rows[row]], reference, [sample])
        assert_same_up_to_rounding(together[row : row + 1], alone)
        assert_same_up_to_rounding(distance[row : row + 1], off)


HEAD = HeadId("down1.0.self", 1)
VALUES: list[tuple[HeadIntervention, str]] = [
    (ScaleHead(HEAD, 0.25), "scale down1.0.self.h01 by 0.75"),
    (PatchHead(HEAD, "smiling"), "patch down1.0.self.h01 from smiling"),
    (PatchHead(HEAD, "batch", 0.5, row=3), "patch down1.0.self.h01 from batch row 3, dose 0.5"),
    (SwapTimestep(HEAD, 700), "swap_timestep down1.0.self.h01 to its output at timestep 700"),
]


@pytest.mark.parametrize(("intervention", "words"), VALUES)
def test_interventions_say_what_they_do_and_survive_the_way_to_config(
    intervention: HeadIntervention, words: str, sites: list[AttentionSite]
) -> None:
    assert str(intervention) == words
    assert from_config(to_config(intervention), sites, timesteps=1000) == intervention
    assert all(isinstance(value, str | int | float | None) for value in to_config(intervention).values())


@pytest.mark.unchecked
@pytest.mark.parametrize("dose", [math.nan, math.inf, "much"])
def test_a_dose_that_is_not_finite_is_refused(dose: Any) -> None:
    with pytest.raises(ConfigError, match=r"scale down1\.0\.self\.h01: the dose .* is not a finite number"):
        ScaleHead(HEAD, dose)
    with pytest.raises(ConfigError, match="is not a finite number"):
        from_config({"method": "patch", "head": str(HEAD), "source": "other", "dose": dose})


def test_timesteps_outside_the_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"timestep 1200 is outside the schedule, 0 to 999"):
        from_config({"method": "swap_timestep", "head": str(HEAD), "timestep": 1200}, timesteps=1000)
    with pytest.raises(ConfigError, match="-1 is no timestep"):
        SwapTimestep(HEAD, -1)


def test_sources_that_do_not_fit_are_refused(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    head = HeadId(sites[0].name, 1)
    reference = recorded(denoiser, sites, {"other": passes(2)})
    with pytest.raises(ConfigError, match=r"its source has 2 rows, 0 to 1, and no row 2"):
        intervened(denoiser, sites, passes(1), [[PatchHead(head, "other", row=2)]], reference)
    with pytest.raises(
        StoreError, match=r"no head outputs of .* are recorded of the pass 'frowning'; recorded are: other"
    ):
        intervened(denoiser, sites, passes(1), [[PatchHead(head, "frowning")]], reference)
    with pytest.raises(StoreError, match=r"recorded of timestep 700; recorded are: other"):
        intervened(denoiser, sites, passes(1), [[SwapTimestep(head, 700)]], reference)
    larger = {name: outputs[:, :, :5] for name, outputs in reference.recorded["other"].items()}
    small = ReferenceOutputs(300, {}, {}, {"small": larger})
    with pytest.raises(
        StoreError, match=r"has shape \(8, 5, 2\), the model's output \(8, 16, 2\); record it with the same"
    ):
        intervened(denoiser, sites, passes(1), [[PatchHead(head, "small")]], small)
