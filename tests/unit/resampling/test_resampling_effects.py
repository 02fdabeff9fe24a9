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
from torch import Tensor

from diffmech.artifacts import open_store, write_store
from diffmech.attention.sites import HeadId, find_sites
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import StoreError
from diffmech.resampling.effects import COLUMNS, domain_effects, resampling_effects
from diffmech.resampling.images import Part, open_parts, stored_images
from diffmech.resampling.judging import Panel
from diffmech.resampling.removals import Removal
from diffmech.resampling.trajectories import Resampled, Task, resample

COUNT, OTHERS, STEPS = 12, 8, 3
QUIET = RuntimeConfig(progress=False, device="cpu")
CONFIG = ResamplingConfig(
    images=COUNT, reference=OTHERS, control_images=8, draws=200, permutations=2000, distance_draws=100
)


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
    sizes = [CONFIG.control_images if removal.control_of else COUNT for removal in removals]
    images = resample(
        denoiser,
        sites,
        condition,
        [Task(removal, row) for removal, size in zip(removals, sizes, strict=True) for row in range(size)],
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
    assert list(table.columns) == COLUMNS
    paired = table["measure"].isin(["ssim", "mse"])
    assert table.loc[paired, "p_zero"].isna().all()
    assert table.loc[~paired, "p_zero_holm"].between(0, 1).all()
    assert (table.loc[~paired, "p_zero_holm"] >= table.loc[~paired, "p_zero"]).all()
    assert (table["p_control_adjusted"] >= table["p_control"]).all()
    assert (table["controls"] == HEADS - 1).all()
    assert (table["n"] == COUNT).all()


def test_parts_give_the_table_of_the_whole(store: xr.Dataset, table: pd.DataFrame) -> None:
    def cut(rows: slice, controls: slice, others: slice) -> Part:
        return Part(Path(str(rows)), store.isel(target=rows, control=controls, other=others))

    parts = [
        cut(slice(0, 8, 2), slice(0, None, 2), slice(0, None, 2)),
        cut(slice(1, 8, 2), slice(1, None, 2), slice(1, None, 2)),
    ]
    halves = domain_effects(parts, PANEL, "synthetic", resampling=CONFIG, seed=0)
    columns = [name for name in COLUMNS if not name.startswith(("p_control_adj",))]
    pd.testing.assert_frame_equal(halves[columns], table[columns], rtol=1e-6, atol=1e-8)


def test_nothing_is_found_where_changes_are_noise() -> None:
    random = np.random.default_rng(0)
    hits, tests = 0, 0
    for study in range(12):
        clean = torch.from_numpy(random.uniform(-1, 1, (COUNT + OTHERS, 1, 12, 12)).astype(np.float32))
        removals = [Removal(f"m{k}", "mechanisms", (frozenset([HeadId("s", k)]),)) for k in range(4)]
        noise = 0.3 * torch.from_numpy(random.standard_normal((4 * COUNT, 1, 12, 12)).astype(np.float32))
        changed = clean[:COUNT].repeat(4, 1, 1, 1) + noise
        found = stored_images(Resampled(clean, changed), removals, range(COUNT + OTHERS), [0], CONFIG, byte=False)
        part = Part(Path("one"), found.assign_attrs(domain="synthetic"))
        config = CONFIG.model_copy(update={"controls": 0, "permutations": 500})
        rows = domain_effects([part], PANEL, "synthetic", resampling=config, seed=study)
        rows = rows[rows["measure"] == "attribute:square"]
        hits, tests = hits + int((rows["p_zero_holm"] < 0.05).any()), tests + 1
        assert rows["p_control"].isna().all()
    assert hits <= 3  # at level 0.05 over 12 studies more than 3 happen once in 5,000


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
    assert list(nothing.columns) == COLUMNS
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
