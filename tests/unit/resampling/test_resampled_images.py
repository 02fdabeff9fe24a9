"""Sampling with heads removed: exact where nothing is removed, and alike for every batch size."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from painters import CARRIER, DEAD, HEADS, asked_condition, painter

from diffmech.artifacts import open_store
from diffmech.attention.sites import HeadId, find_sites
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import SamplingConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import ConfigError
from diffmech.interventions.reference import ReferenceStore
from diffmech.interventions.targets import Heads
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import ddim, sample_images
from diffmech.resampling import images
from diffmech.resampling.removals import Removal, plan_removals
from diffmech.resampling.trajectories import Resampled, Task, resample
from diffmech.tables import ALL
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

STEPS, COUNT = 4, 6
QUIET = RuntimeConfig(progress=False, device="cpu", batch_size=COUNT)


@pytest.fixture(scope="module")
def painted() -> Denoiser:
    return painter()


def removal(*heads: HeadId, steps: range = range(STEPS), name: str = "some") -> Removal:
    members: tuple[Heads, ...] = tuple(frozenset(heads) if step in steps else frozenset() for step in range(STEPS))
    return Removal(name, "mechanisms", members)


def head(denoiser: Denoiser, index: int) -> HeadId:
    return HeadId(find_sites(denoiser.module)[0].name, index)


def run(denoiser: Denoiser, removals: list[Removal], **changes: object) -> Resampled:
    settings = {"steps": STEPS, "guidance": 2.0, "method": "mean", "seed": 0, "batch_size": 8} | changes
    return resample(
        denoiser,
        find_sites(denoiser.module),
        asked_condition(COUNT),
        [Task(each, position) for each in removals for position in range(COUNT)],
        numbers=range(COUNT),
        averaged=COUNT,
        **settings,  # type: ignore[arg-type]
    )


def test_removing_nothing_gives_the_clean_images_bit_for_bit(painted: Denoiser) -> None:
    clean = sample_images(painted, asked_condition(COUNT), steps=STEPS, guidance=2.0, seed=0, runtime=QUIET)
    # beside rows that lose a head, and in steps of its own: the last one is replaced in no step but the first
    found = run(painted, [removal(), removal(head(painted, CARRIER)), removal(steps=range(1))], batch_size=COUNT)
    assert torch.equal(found.clean, clean)
    assert torch.equal(found.ablated[:COUNT], clean)
    assert torch.equal(found.ablated[-COUNT:], clean)
    assert not torch.allclose(found.ablated[COUNT : 2 * COUNT], clean, atol=0.1)


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_a_head_that_writes_nothing_changes_nothing(painted: Denoiser, method: str) -> None:
    found = run(painted, [removal(head(painted, DEAD))], method=method)
    assert torch.equal(found.ablated, found.clean)


def test_a_head_that_is_the_same_everywhere_is_its_own_mean(painted: Denoiser) -> None:
    found = run(painted, [removal(head(painted, 0))])
    assert_same_up_to_rounding(found.ablated, found.clean, roundings=ROUNDINGS_OF_MANY_PASSES)
    without = run(painted, [removal(head(painted, 0))], method="zero")
    assert (without.ablated - without.clean).abs().max() > 0.1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_results_do_not_depend_on_the_batch_size(painted: Denoiser, guidance: float) -> None:
    removals = [removal(head(painted, CARRIER)), removal(head(painted, 3), head(painted, 4), steps=range(2, 4))]
    one, other = (run(painted, removals, guidance=guidance, batch_size=size) for size in (1, 64))
    assert_same_up_to_rounding(one.clean, other.clean, roundings=ROUNDINGS_OF_MANY_PASSES)
    assert_same_up_to_rounding(one.ablated, other.ablated, roundings=ROUNDINGS_OF_MANY_PASSES)


def test_passes_of_guidance_have_means_of_their_own(painted: Denoiser) -> None:
    # every image asked for with a square: the mean of the conditional pass is what each one gets anyway
    everyone = Condition(torch.ones(COUNT, dtype=torch.long), torch.ones(COUNT, 1))
    found = resample(
        painted,
        find_sites(painted.module),
        everyone,
        [Task(removal(head(painted, CARRIER)), position) for position in range(COUNT)],
        numbers=range(COUNT),
        averaged=COUNT,
        steps=STEPS,
        guidance=2.0,
        method="mean",
        seed=0,
        batch_size=4,
    )
    assert_same_up_to_rounding(found.ablated, found.clean, roundings=ROUNDINGS_OF_MANY_PASSES)


def test_the_mean_is_of_seeds_that_nothing_else_uses(
    painted: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an image becomes depends neither on which other images are studied nor on those it is compared with."""
    monkeypatch.setattr(images, "load_denoiser", lambda *_, **__: painted)
    monkeypatch.setattr(images, "open_reference", lambda _: ReferenceStore({}, ()))
    monkeypatch.setattr(images, "schedule_length", lambda _: painted.timesteps)

    def every_third_with_a_square(_: Denoiser, __: str, count: int, ___: int) -> Condition:
        return Condition(torch.ones(count, dtype=torch.long), (torch.arange(count) % 3 == 0).float()[:, None])

    monkeypatch.setattr(images, "domain_condition", every_third_with_a_square)
    table, found = heads_table(tmp_path, painted), []
    for own, compared in ((2, 5), (3, 4), (4, 3)):
        asked = {"images": own, "reference": compared, "mean_images": 8, "controls": 0, "parts": 1}
        images.resample_images(
            tmp_path / "model.json",
            table,
            [],
            tmp_path / "images.zarr.zip",
            domain="synthetic",
            part=0,
            resampling=ResamplingConfig.model_validate(asked),
            sampling=SamplingConfig(steps=STEPS, guidance=1.0),
            seed=0,
            runtime=QUIET,
        )
        store = open_store(tmp_path / "images.zarr.zip").to_dataset().load()
        assert store.sizes["image"] == own
        assert store.sizes["other"] == compared
        assert len(np.unique(store["clean"].values, axis=0)) == own
        found.append(store)
    for name, over in (("clean", "image"), ("ablated", "image"), ("asked", "image")):
        first, *others = (each[name].isel({over: [0, 1]}).values for each in found)
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-5)
    assert np.abs(found[0]["ablated"].values - found[0]["clean"].values).max() > 0.1


def test_a_late_removal_starts_from_the_clean_image_of_that_step(painted: Denoiser) -> None:
    late = run(painted, [removal(head(painted, CARRIER), steps=range(2, 4))])
    whole = run(painted, [removal(head(painted, CARRIER))])
    early = run(painted, [removal(head(painted, CARRIER), steps=range(2))])
    changed = [(each.ablated - each.clean).abs().mean() for each in (early, late, whole)]
    assert 0 < changed[0] < changed[2]  # the last steps paint the square again
    assert 0.3 * changed[2] < changed[1] < changed[2]


def heads_table(folder: Path, painted: Denoiser) -> Path:
    site = find_sites(painted.module)[0].name
    rows = [
        (f"{site}.h{index:02d}", first, last, "carrier" if index == CARRIER else "others" if index < 4 else "dead")
        for index in (0, 1, CARRIER, DEAD)
        for first, last in ((0, 20), (40, 80))
    ]
    table = pd.DataFrame(rows, columns=["head", "phase_first", "phase_last", "mechanism"])
    # in the late phase the carrier is one of the others
    table.loc[(table["mechanism"] == "carrier") & (table["phase_last"] == 20), "mechanism"] = "others"
    table.to_csv(folder / "heads.csv", index=False)
    return folder / "heads.csv"


def test_steps_between_phases_belong_to_the_nearest_and_controls_have_as_many_heads(
    painted: Denoiser, tmp_path: Path
) -> None:
    table, sites = heads_table(tmp_path, painted), find_sites(painted.module)
    sizes = {t: {HeadId(sites[0].name, index): 1.0 for index in range(HEADS)} for t in (10, 60)}
    config = ResamplingConfig(controls=3, windows="thirds", heads=[f"{sites[0].name}.h07"])
    plan = plan_removals(table, sites, [75, 50, 25, 0], sizes, schedule=100, resampling=config, seed=0)
    whole = {each.target: each for each in plan if each.window == ALL and not each.control_of}
    carrier = HeadId(sites[0].name, CARRIER)
    assert set(whole) == {"carrier", "others", "dead", f"{sites[0].name}.h07"}
    assert [carrier in heads for heads in whole["carrier"].members] == [True, True, False, False]
    assert [carrier in heads for heads in whole["others"].members] == [False, False, True, True]
    assert whole["carrier"].first_step == 0
    controls = [each for each in plan if each.control_of]
    assert {each.control_of for each in controls} >= {"carrier", "dead"}
    for control in controls:
        own = whole[control.control_of]
        assert [len(heads) for heads in control.members] == [len(heads) for heads in own.members]
        assert control.members != own.members
    windows = {each.window for each in plan if each.target == "carrier" and not each.control_of}
    assert windows == {ALL, "0-32", "33-66", "67-99"}
    late = next(each for each in plan if (each.target, each.window) == ("others", "0-32"))
    assert [bool(heads) for heads in late.members] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"heads": ["block00.cross.h09"]}, "no head matches 'block00.cross.h09'.*nearest: block00.cross.h0"),
        ({"windows": [[90, 99]]}, "the window 90 to 99 holds none of the timesteps"),
        ({"windows": [[0, 100]]}, "the window 0 to 100 is outside the schedule"),
    ],
)
def test_bad_targets_are_answered_with_one_line(
    painted: Denoiser, tmp_path: Path, changes: dict[str, object], line: str
) -> None:
    sites = find_sites(painted.module)
    with pytest.raises(ConfigError, match=line):
        plan_removals(
            heads_table(tmp_path, painted),
            sites,
            [75, 50, 25, 0],
            {10: {HeadId(sites[0].name, index): 1.0 for index in range(HEADS)}},
            schedule=100,
            resampling=ResamplingConfig(**changes),  # type: ignore[arg-type]
            seed=0,
        )


def test_sampling_steps_at_one_timestep_are_refused(painted: Denoiser, tmp_path: Path) -> None:
    """As where those of a sampler with many steps are rounded."""
    sites, table = find_sites(painted.module), heads_table(tmp_path, painted)
    with pytest.raises(
        ConfigError, match=r"two of the 4 sampling steps fall on one timestep; give fewer resampling\.ste"
    ):
        plan_removals(table, sites, [75, 25, 25, 0], {}, schedule=100, resampling=ResamplingConfig(), seed=0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"features": "clip"}, "features clip needs the CLIP model in clip"),
        ({"features": "inception"}, "needs the TorchScript file in inception"),
        ({"text_attributes": {"hat": ["a hat", "no hat"]}}, "text_attributes need the CLIP model"),
        ({"clip": "x", "text_attributes": {"hat": ["a", "b"]}, "attributes": ["hat"]}, "name two judges"),
        ({"clip": "x", "text_attributes": {"hat": ["a hat"]}}, "at least 2 items"),
        ({"windows": "early"}, "none of phases, thirds and a list"),
    ],
)
def test_settings_that_do_not_fit_are_answered_with_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ResamplingConfig(**changes)  # type: ignore[arg-type]


def test_more_steps_than_the_diffusion_has_are_refused(painted: Denoiser) -> None:
    with pytest.raises(ConfigError, match="101 is not between 1 and the 100 steps"):
        run(painted, [removal()], steps=101)


def test_different_seeds_are_different_images(painted: Denoiser) -> None:
    one, other = (run(painted, [removal()], seed=seed).clean for seed in (0, 1))
    assert np.abs((one - other).numpy()).max() > 0.05


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_heads_that_run_at_some_steps_only_are_removed_where_they_run(painted: Denoiser, method: str) -> None:
    class Experts(torch.nn.Module):
        """Two copies of the painter, one for each half of the noise levels."""

        def __init__(self) -> None:
            super().__init__()
            self.clean, self.noisy = deepcopy(painted.module), deepcopy(painted.module)

        def forward(self, x_t: torch.Tensor, asked: torch.Tensor, timestep: int) -> torch.Tensor:
            return (self.clean if timestep < 50 else self.noisy)(x_t, asked)

    network = Experts()

    def forward(x_t: torch.Tensor, steps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return network(x_t, torch.nan_to_num(2 * condition.values[:, 0] - 1, nan=0.0), int(steps[0]))

    experts = replace(painted, module=network, forward=forward)
    sites = [site for site in find_sites(network) if site.name.startswith("clean.")]
    [carrier] = [HeadId(site.name, CARRIER) for site in sites]
    tasks = [Task(removal(carrier), position) for position in range(COUNT)]
    settings = {"steps": STEPS, "guidance": 2.0, "method": method, "seed": 0, "batch_size": 8}
    shared = {"numbers": range(COUNT), "averaged": COUNT, **settings}
    found = resample(experts, sites, asked_condition(COUNT), tasks, **shared)  # type: ignore[arg-type]
    later = range(sum(int(t) >= 50 for t in ddim(painted, STEPS).timesteps), STEPS)
    assert 0 < len(later) < STEPS
    expected = run(painted, [removal(head(painted, CARRIER), steps=later)], method=method)
    assert torch.equal(found.clean, expected.clean)
    assert torch.equal(found.ablated, expected.ablated)
    elsewhere = {site.name.replace("clean.", "noisy.") for site in sites}
    assert found.calls == tuple({site.name for site in sites} if step in later else elsewhere for step in range(STEPS))
    shown = images.stored_images(
        found, [tasks[0].removal], range(COUNT), range(STEPS), ResamplingConfig(images=COUNT), byte=False
    )
    assert shown["steps_removed"].item() == len(later)
    assert not torch.allclose(found.ablated, found.clean, atol=0.1)
