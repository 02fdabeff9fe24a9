"""Patching along the line from a clean to a counterfactual prediction: its ends, its doses, and single passes."""

import numpy as np
import pytest
import torch
import xarray as xr
from random_denoisers import tiny_denoiser

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError
from diffmech.interventions.counterfactuals import other_attribute, other_domain, other_sample
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import PatchHead, ReferenceOutputs
from diffmech.interventions.patching import patch_heads
from diffmech.interventions.recording import predict, record_heads
from diffmech.interventions.replay import Passes
from diffmech.interventions.targets import ALWAYS, HeadSpan, Target, single_heads
from diffmech.interventions.windows import over_windows
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.prompted import PromptCondition, PromptedDenoiser
from diffmech.testing import tiny_model

TIMESTEPS = (100, 700)


def clean_passes(n: int = 3) -> list[Passes]:
    x_t = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    known = Condition(torch.arange(n) % 2, torch.full((n, 1), 0.3))
    return [Passes(timestep, tuple(range(n)), x_t, None, known) for timestep in TIMESTEPS]


def cross_heads(sites: list[AttentionSite], *, first: int = 0, last: int = 999) -> Target:
    """All heads through which the condition enters."""
    heads = [HeadId(site.name, head) for site in sites if site.kind == "cross" for head in range(site.heads)]
    return Target("cross", tuple(HeadSpan(head, first, last) for head in heads))


def test_the_heads_that_read_the_condition_carry_the_whole_difference_between_two_conditions(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    clean = clean_passes()
    smiling = [other_attribute(each, denoiser, "smile", -0.9) for each in clean]
    grid = patch_heads(denoiser, sites, clean, smiling, targets=[cross_heads(sites)])
    assert (grid["difference"] > 1e-8).all()
    np.testing.assert_allclose(grid["effect"].sel(direction="denoising"), 1, atol=1e-3)
    np.testing.assert_allclose(grid["effect"].sel(direction="noising"), 0, atol=1e-3)
    np.testing.assert_allclose(grid["off"], 0, atol=3e-3)


def test_dose_zero_stays_at_the_start_of_the_line(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    grid = patch_heads(denoiser, sites, clean, [other_sample(each) for each in clean], doses=[0.0, 1.0])
    start = grid.sel(dose=0.0)
    assert (start["shift"] == 0).all()
    assert (start["effect"].sel(direction="denoising") == 0).all()
    np.testing.assert_allclose(start["effect"].sel(direction="noising"), 1, rtol=1e-12)
    assert (grid["shift"].sel(dose=1.0) > 0).all()


def test_patching_from_the_very_same_pass_changes_no_bit_and_leaves_no_line(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    clean = clean_passes()
    twins = [each.rows(torch.tensor([0, 0, 0])) for each in clean]
    for first, second in ((clean, clean), (twins, [other_sample(each) for each in twins])):
        grid = patch_heads(denoiser, sites, first, second, doses=[0.5, 1.0])
        assert (grid["shift"] == 0).all()
        assert (grid["difference"] == 0).all()
        assert grid["effect"].isnull().all()


def test_the_grid_equals_single_patches_one_at_a_time(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    other = [other_domain(each, denoiser, "synthetic") for each in clean]
    grid = patch_heads(denoiser, sites, clean, other, doses=[0.3, 1.0], batch_size=7)
    for name in ("down1.0.cross.h02", "up0.1.self.h05"):
        for row, dose, column in ((0, 0.3, 1), (2, 1.0, 0)):
            here, there = (each[column].rows(torch.tensor([row])) for each in (clean, other))
            (before, own), (after, others) = (record_heads(denoiser, sites, each) for each in (here, there))
            difference = (after - before).double().flatten()
            for direction, start, outputs in (("denoising", here, others), ("noising", there, own)):
                plan = AblationPlan(
                    [[PatchHead(HeadId.parse(name), "source", dose)]],
                    sites,
                    reference=ReferenceOutputs(0, {}, {}, {"source": outputs}),
                )
                with torch.inference_mode(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
                    patched = predict(denoiser, start)
                cell = grid.sel(target=name, dose=dose, direction=direction).isel(sample=row, timestep=column)
                if not difference.any():  # a real image said to be real
                    assert cell["effect"].isnull()
                    continue
                expected = torch.dot((patched - before).double().flatten(), difference) / difference.dot(difference)
                assert float(cell["effect"]) == pytest.approx(float(expected), abs=1e-4)


def test_a_shared_prefix_and_the_batch_size_change_nothing(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    other = [other_sample(each) for each in clean]
    grid = patch_heads(denoiser, sites, clean, other)
    xr.testing.assert_allclose(grid, patch_heads(denoiser, sites, clean, other, reuse_prefix=False), atol=1e-5)
    xr.testing.assert_allclose(grid, patch_heads(denoiser, sites, clean, other, batch_size=2), atol=1e-5)


def test_a_dead_head_has_no_effect_at_all(sites: list[AttentionSite]) -> None:
    deaf = tiny_denoiser(5)
    deaf.module.get_submodule(sites[0].module_path).to_out[0].weight[:, 2:4] = 0
    clean = clean_passes()
    targets = single_heads(sites)[:2]
    grid = patch_heads(deaf, sites, clean, [other_sample(each) for each in clean], targets=targets)
    assert (grid["shift"].isel(target=1) == 0).all()
    assert (grid["shift"].isel(target=0) > 0).all()


def test_a_target_is_patched_within_its_timesteps_only(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    late = [cross_heads(sites, first=500), cross_heads(sites, last=ALWAYS[1])]
    grid = patch_heads(denoiser, sites, clean, [other_sample(each) for each in clean], targets=late)
    assert (grid["shift"].isel(target=0).sel(timestep=100) == 0).all()
    np.testing.assert_array_equal(grid["effect"].isel(target=0).sel(timestep=100, direction="denoising"), 0)
    np.testing.assert_array_equal(grid["effect"][0].sel(timestep=700), grid["effect"][1].sel(timestep=700))


def test_windows_average_the_passes_they_hold(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    grid = patch_heads(denoiser, sites, clean, [other_sample(each) for each in clean], targets=[cross_heads(sites)])
    windows = over_windows(grid, [(0, 400), (0, 999)], timesteps=1000)
    assert windows["effect"].dims == ("window", "target", "dose", "direction", "sample")
    np.testing.assert_array_equal(windows["effect"][0], grid["effect"].sel(timestep=100))
    np.testing.assert_allclose(windows["effect"][1], grid["effect"].mean("timestep"))
    with pytest.raises(ConfigError, match=r"the window 0 to 1000 is outside the schedule; give .*within 0 to 999"):
        over_windows(grid, [(0, 1000)], timesteps=1000)
    with pytest.raises(ConfigError, match=r"the window 200 to 300 holds none of the timesteps \[100, 700\]"):
        over_windows(grid, [(200, 300)], timesteps=1000)


def test_every_variable_and_dimension_says_what_it_is(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes(1)
    other = [other_attribute(each, denoiser, "smile", None) for each in clean]
    grid = patch_heads(denoiser, sites, clean, other, targets=[cross_heads(sites)])
    assert dict(grid.sizes) == {"target": 1, "dose": 1, "direction": 2, "sample": 1, "timestep": 2}
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in grid.data_vars.values())


def test_prompted_denoisers_are_patched_between_prompts() -> None:
    module = tiny_model("sd1").requires_grad_(False)
    denoiser = PromptedDenoiser(module, {"num_train_timesteps": 1000}, (3, 16, 16))
    source = torch.Generator().manual_seed(0)
    x_t = torch.randn(2, 4, 16, 16, generator=source)
    passes = [
        Passes(300, (0, 1), x_t, None, PromptCondition({"encoder_hidden_states": text}, {}, 2, 300.0, False))
        for text in torch.randn(2, 2, 7, 24, generator=source)
    ]
    sites = find_sites(module)
    grid = patch_heads(denoiser, sites, passes[:1], passes[1:], targets=[cross_heads(sites)])
    np.testing.assert_allclose(grid["effect"].sel(direction="denoising"), 1, atol=1e-3)
    with pytest.raises(ConfigError, match="conditioned on prompts"):
        other_domain(passes[0], denoiser, "real")


@pytest.mark.unchecked
def test_an_unknown_direction_is_refused(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    with pytest.raises(ConfigError, match="'sideways' is no direction"):
        patch_heads(denoiser, sites, clean_passes(), clean_passes(), directions=["sideways"])  # type: ignore[list-item]


def test_pairs_that_do_not_belong_together_are_refused(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = clean_passes()
    with pytest.raises(ConfigError, match="there are 2 clean and 1 counterfactual timesteps; give one pair each"):
        patch_heads(denoiser, sites, clean, clean[:1])
    with pytest.raises(ConfigError, match=r"at timestep 100 have shape \(3, .*at 700"):
        patch_heads(denoiser, sites, clean, clean[::-1])
    with pytest.raises(ConfigError, match=r"at timestep 100 have shape \(3, 1, 8, 8\), .* \(2, 1, 8, 8\)"):
        patch_heads(denoiser, sites, clean, clean_passes(2))
    with pytest.raises(ConfigError, match=r"the doses \[nan\] are not all finite"):
        patch_heads(denoiser, sites, clean, clean, doses=[float("nan")])
    with pytest.raises(ConfigError, match="no attribute 'smiles'; nearest: smile"):
        other_attribute(clean[0], denoiser, "smiles", 1.0)
    with pytest.raises(ConfigError, match="attribute smile: inf is not finite; give a number, or None for unknown"):
        other_attribute(clean[0], denoiser, "smile", float("inf"))
    with pytest.raises(ConfigError, match="3 samples moved on by 3 are the same samples"):
        other_sample(clean[0], by=3)
