"""The table of effects: it finds the head that carries a planted attribute, and nothing where there is nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from painters import CARRIER, DEAD, HEADS, asked_condition, painter
from scipy.special import expit
from torch import Tensor

from diffmech.artifacts import open_store, write_store
from diffmech.attention.sites import HeadId, find_sites
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import StoreError
from diffmech.judging.distances import DISTANCES, distance_excess
from diffmech.judging.panel import Panel
from diffmech.resampling.effects import (
    _effects,
    _Measured,
    attribute_change,
    domain_effects,
    resampling_effects,
)
from diffmech.resampling.images import Part, open_parts, stored_images
from diffmech.resampling.removals import Removal
from diffmech.resampling.tables import RESAMPLING
from diffmech.resampling.trajectories import Task, resample
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation

COUNT, OTHERS, STEPS = 12, 8, 3
QUIET = RuntimeConfig(progress=False, device="cpu")
CONFIG = ResamplingConfig(images=COUNT, reference=OTHERS, draws=200, distance_draws=100)


def square(images: Tensor) -> np.ndarray:
    """Return how much brighter the middle of an image is than its edge, `(image, 1)`, as a logit."""
    rim = torch.cat([images[..., :2, :].flatten(1), images[..., -2:, :].flatten(1)], 1).mean(1)
    return 4 * (images[..., 3:8, 3:8].mean((1, 2, 3)) - rim)[:, None].numpy()


PANEL = Panel(
    space="pixels",
    features=lambda images: images.flatten(1).numpy(),
    judge="an eye for squares",
    attributes=("square",),
    logits=square,
    accuracy={},
    absent=(),
)


@pytest.fixture(scope="module")
def store() -> xr.Dataset:
    """Each head removed alone; the controls of each are all others."""
    denoiser = painter()
    sites = find_sites(denoiser.module)
    heads = [HeadId(sites[0].name, index) for index in range(HEADS)]
    removals = [Removal(str(head), "mechanisms", (frozenset([head]),) * STEPS) for head in heads]
    removals += [
        Removal(f"{head}~{other}", "mechanisms", (frozenset([other]),) * STEPS, control_of=str(head))
        for head in heads
        for other in heads
        if other != head
    ]
    numbers = range(COUNT + OTHERS)
    condition = asked_condition(len(numbers))
    images = resample(
        denoiser,
        sites,
        condition,
        [Task(removal, row) for removal in removals for row in range(COUNT)],
        numbers=numbers,
        averaged=COUNT,
        steps=STEPS,
        guidance=1.0,
        method="mean",
        seed=0,
        batch_size=256,
    )
    found = stored_images(images, removals, numbers, [66, 33, 0], CONFIG, byte=False)
    asked = condition.values[:COUNT].numpy()
    found = found.assign(asked=(("image", "attribute"), asked)).assign_coords(attribute=["square"])
    return found.assign_attrs(domain="synthetic")


@pytest.fixture(scope="module")
def table(store: xr.Dataset) -> pd.DataFrame:
    return domain_effects([Part(Path("one"), store)], PANEL, "synthetic", resampling=CONFIG, seed=0)


def of(table: pd.DataFrame, head: int, measure: str) -> pd.Series:
    chosen = (table["target"] == f"block00.cross2.h{head:02d}") | (table["target"] == f"block00.cross.h{head:02d}")
    (row,) = [row for _, row in table[chosen & (table["measure"] == measure)].iterrows()]
    return row


def test_the_head_that_carries_the_attribute_is_found(table: pd.DataFrame) -> None:
    asked = of(table, CARRIER, "asked:square")
    assert asked["effect"] < -0.3
    assert asked["high"] < 0
    assert asked["p_zero_holm"] < 0.05
    assert asked["p_control"] == pytest.approx(1 / HEADS)  # beyond all of its controls
    assert asked["control_high"] - asked["control_low"] < 0.1
    assert asked["flipped"] > 0.3
    assert of(table, CARRIER, "ssim")["effect"] < of(table, CARRIER, "ssim")["control_low"]
    assert of(table, CARRIER, "fd")["p_control"] == pytest.approx(1 / HEADS)
    others = table[(table["measure"] == "asked:square") & (table["target"] != asked["target"])]
    assert others["effect"].abs().max() < 0.02


def test_asked_counts_towards_what_was_asked_for(table: pd.DataFrame) -> None:
    # half of the images lose a square and half of them gain one: on average the attribute is as frequent as before
    shown, asked = of(table, CARRIER, "attribute:square"), of(table, CARRIER, "asked:square")
    assert abs(shown["effect"]) < 0.1 < -asked["effect"]


def test_a_dead_head_changes_nothing_at_all(table: pd.DataFrame) -> None:
    dead = {measure: of(table, DEAD, measure) for measure in ("ssim", "mse", "attribute:square", "fd", "kid")}
    assert dead["ssim"]["effect"] == 1
    assert [dead[measure]["effect"] for measure in ("mse", "attribute:square", "fd", "kid")] == [0, 0, 0, 0]
    assert [dead[measure]["p_zero"] for measure in ("attribute:square", "fd", "kid")] == [1, 1, 1]
    assert dead["fd"]["clean"] > 0  # the floor: clean images of other seeds are some way off too


def test_likeness_has_no_p_against_zero_and_every_measure_has_its_controls(table: pd.DataFrame) -> None:
    assert list(table.columns) == list(RESAMPLING.columns)
    paired = table["measure"].isin(["ssim", "mse"])
    assert table.loc[paired, "p_zero"].isna().all()
    assert table.loc[~paired, "p_zero_holm"].between(0, 1).all()
    assert (table.loc[~paired, "p_zero_holm"] >= table.loc[~paired, "p_zero"]).all()
    assert (table["p_control_adjusted"] >= table["p_control"]).all()
    assert (table["controls"] == HEADS - 1).all()
    assert (table["n"] == COUNT).all()
    distances = table["measure"].isin(DISTANCES)
    assert table.loc[distances, ["low", "high"]].isna().all(axis=None)
    assert table.loc[~distances, ["low", "high"]].notna().all(axis=None)


def test_the_change_that_stands_beside_controls_is_of_their_images(store: xr.Dataset, table: pd.DataFrame) -> None:
    assert store["matched"].sizes["image"] == store["ablated"].sizes["image"] == store["clean"].sizes["image"]
    row = of(table, CARRIER, "mse")
    mine = store["control_of"].values == row["target"]
    others = np.square(store["matched"].values[mine] - store["clean"].values).mean()
    assert row["control_mean"] == pytest.approx(others, rel=1e-5)


def test_two_domains_are_one_family(store: xr.Dataset, table: pd.DataFrame) -> None:
    """A target is compared with its controls in each domain; corrected apart, either could be the false one."""
    part = Part(Path("one"), store)
    measured = {name: _Measured([part], PANEL, CONFIG, 0, False) for name in ("real", "synthetic")}
    both = _effects(measured)
    one = both[both["domain"] == "real"].reset_index(drop=True)
    assert (one["p_control_adjusted"] >= table["p_control_adjusted"] - 1e-9).all()
    assert (one["p_control"] == table["p_control"]).all()


def test_without_controls_nothing_is_compared_with_them(store: xr.Dataset) -> None:
    alone = store.isel(control=slice(0, 0), target=slice(0, 1))
    rows = domain_effects([Part(Path("one"), alone)], PANEL, "synthetic", resampling=CONFIG, seed=0)
    assert rows[["p_control", "p_control_adjusted", "control_mean"]].isna().all(axis=None)


def test_parts_give_the_table_of_the_whole(store: xr.Dataset, table: pd.DataFrame) -> None:
    def cut(rows: slice, controls: slice, others: slice) -> Part:
        return Part(Path(str(rows)), store.isel(target=rows, control=controls, other=others))

    parts = [
        cut(slice(0, 8, 2), slice(0, None, 2), slice(0, None, 2)),
        cut(slice(1, 8, 2), slice(1, None, 2), slice(1, None, 2)),
    ]
    halves = domain_effects(parts, PANEL, "synthetic", resampling=CONFIG, seed=0)
    columns = [name for name in RESAMPLING.columns if not name.startswith(("p_control_adj",))]
    pd.testing.assert_frame_equal(halves[columns], table[columns], rtol=1e-6, atol=1e-8)


STUDIES, ALPHA = 4000, 0.05


def saturated(random: np.random.Generator, images: int, flips: float) -> np.ndarray:
    """Return changes (image, study) of probabilities of a judge that is sure, some of whose verdicts flip.

    What was asked for is nearly certain without removal, so that noise in the logits can only make it less so.
    """
    clean = random.normal(6, 2, (images, STUDIES))
    changed = clean + random.normal(0, 2, clean.shape)
    changed = np.where(random.random(clean.shape) < flips, -changed, changed)
    return np.asarray(expit(changed) - expit(clean))


@pytest.mark.parametrize("images", [8, 16])
def test_noise_changes_an_attribute_no_more_often_than_alpha(images: int) -> None:
    """A rate of twice alpha would be seen: 4,000 studies tell 0.05 from 0.1 by ten standard errors."""
    changes = saturated(np.random.default_rng(images), images, 0.0)
    rate = np.mean(attribute_change(changes, 0.95)[1] <= ALPHA)
    assert rate <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)


@pytest.mark.parametrize("images", [8, 16])
@pytest.mark.parametrize("flips", [0.0, 0.1, 0.4])
def test_intervals_of_attribute_changes_hold_where_a_sure_judge_flips_in_a_few_images(
    images: int, flips: float
) -> None:
    random = np.random.default_rng(images)
    truth = np.median(np.concatenate([saturated(random, 100, flips) for _ in range(5)]))
    interval, _ = attribute_change(saturated(random, images, flips), 0.95)
    share = np.mean((interval.low <= truth) & (truth <= interval.high))
    noise = 3 * np.sqrt(0.95 * 0.05 / STUDIES)
    assert 0.93 - noise <= share <= 0.97 + noise


def test_neither_an_interval_of_their_mean_nor_random_signs_would_hold() -> None:
    """The reasons for the median: many samples hold no flip at all, and near 1 there is more room below than above."""
    random = np.random.default_rng(0)
    signs = permutation_p(*sign_flip_permutation(np.abs, saturated(random, 16, 0.0), permutations=199))
    assert np.mean(signs <= ALPHA) > 1.6 * ALPHA
    truth = saturated(random, 500, 0.1).mean()
    mean = bootstrap_mean(saturated(random, 16, 0.1)[:, :1000], draws=400)
    assert np.mean((mean.low <= truth) & (truth <= mean.high)) < 0.88


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(("images", "features"), [(16, 4), (8, 32)])
def test_noise_moves_distances_no_more_often_than_alpha(name: str, images: int, features: int) -> None:
    """A rate of twice alpha would be seen: 500 studies tell 0.05 from 0.1 by four standard errors."""
    random, studies = np.random.default_rng(images), 500
    shape = (images, features)
    found = []
    for study in range(studies):
        reference, shared, *own = (random.exponential(size=shape) for _ in range(4))
        clean, ablated = (shared + part for part in own)
        found.append(distance_excess(DISTANCES[name], clean, ablated, reference, swaps=39, seed=study)[2])
    assert np.mean(np.array(found) <= ALPHA) <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    _, excess, p = distance_excess(DISTANCES[name], clean, clean + 2, reference, swaps=199, seed=0)
    assert (excess > 0, p < ALPHA) == (True, True)


def test_corrected_p_values_name_an_attribute_in_no_more_studies_than_alpha() -> None:
    """Thirty changes of the same images; 2,000 studies would show twice alpha, and do where nothing is corrected."""
    random, studies, tests = np.random.default_rng(0), 2000, 30
    shared = random.standard_normal((16, studies, 1))
    logits = 6 + 2 * random.standard_normal((16, studies, tests))
    changes = expit(logits + shared + random.standard_normal(logits.shape)) - expit(logits)
    p = np.asarray(attribute_change(changes, 0.95)[1])
    assert np.mean(p.min(axis=1) <= ALPHA) > 2 * ALPHA
    corrected = np.array([holm(family).min() for family in p])
    assert np.mean(corrected <= ALPHA) <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / studies)


def test_what_is_not_measured_is_named(store: xr.Dataset, tmp_path: Path) -> None:
    write_store(tmp_path / "part.zarr.zip", store)
    for name, why in (("none", "a planted denoiser"), ("some", "")):
        resampling_effects(
            {"synthetic": [] if why else [tmp_path / "part.zarr.zip"]},
            tmp_path / f"{name}.csv",
            tmp_path / f"{name}.zarr.zip",
            judge=None,
            resampling=CONFIG,
            seed=0,
            runtime=QUIET,
            why_none=why,
        )
    nothing = pd.read_csv(tmp_path / "none.csv")
    assert list(nothing.columns) == list(RESAMPLING.columns)
    assert nothing.empty
    assert json.loads(open_store(tmp_path / "none.zarr.zip").attrs["absent"]) == ["a planted denoiser"]
    assert set(pd.read_csv(tmp_path / "some.csv")["measure"]) == {"ssim", "mse"}
    absent = json.loads(open_store(tmp_path / "some.zarr.zip").attrs["absent"])
    assert [reason.split(":")[0] for reason in absent] == ["Frechet and kernel distance", "attributes"]
    examples = open_store(tmp_path / "some.zarr.zip")
    assert examples["image"].shape[:2] == (1 + HEADS, CONFIG.examples)
    np.testing.assert_array_equal(examples["image"][0], store["clean"][: CONFIG.examples])


def test_parts_of_other_images_are_refused(store: xr.Dataset, tmp_path: Path) -> None:
    write_store(tmp_path / "one.zarr.zip", store)
    write_store(tmp_path / "other.zarr.zip", store.isel(image=slice(0, 4)))
    with pytest.raises(StoreError, match=r"other\.zarr\.zip: its images differ from those of"):
        open_parts([tmp_path / "one.zarr.zip", tmp_path / "other.zarr.zip"])


def test_without_features_there_are_no_distances(store: xr.Dataset) -> None:
    blind = replace(PANEL, features=None, logits=None, attributes=())
    rows = domain_effects([Part(Path("one"), store)], blind, "synthetic", resampling=CONFIG, seed=0)
    assert set(rows["measure"]) == {"ssim", "mse"}
