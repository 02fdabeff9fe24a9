"""Activation patching as a study: planted carriers are found, nothing is found where nothing is, tables by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from random_denoisers import RUNTIME, TIMESTEPS, write_latents
from scipy.stats import kstest

from diffmech.artifacts import open_store
from diffmech.attention.sites import AttentionSite, find_sites
from diffmech.config.models import PlantedCircuit
from diffmech.config.patching import PatchingConfig
from diffmech.errors import ConfigError
from diffmech.interventions.counterfactuals import flipped_attribute
from diffmech.interventions.patching_study import pair, patch_data_set, patch_pairs, patching_targets
from diffmech.interventions.patching_table import (
    dose_response,
    effects_of_source,
    patching_effects,
)
from diffmech.interventions.replay import Passes, open_latent_files
from diffmech.interventions.tables import DOSES, PATCHING
from diffmech.interventions.targets import Target, single_heads
from diffmech.interventions.windows import sign_flip_max_p, sign_flip_max_smallest
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.planted.images import draw_images, places
from diffmech.planted.roles import build_network, shuffled_layers

QUICK = PatchingConfig(draws=100, permutations=499, samples=3, dose_targets=3)
SIZE, IMAGES = 20, 6


@pytest.fixture(scope="module")
def planted() -> tuple[Denoiser, list[AttentionSite], list[Target], torch.Tensor]:
    """A denoiser with planted heads, its sites, its heads as targets named by their roles, and images."""
    scheduler = DDPMScheduler(1000, beta_schedule="linear", prediction_type="sample")
    circuit = PlantedCircuit(images=32, weight_noise=0.0)
    network = build_network(circuit, SIZE, scheduler.alphas_cumprod).requires_grad_(False)
    denoiser = Denoiser(network, scheduler, (1, SIZE, SIZE), forward=lambda x_t, steps, _: network(x_t, steps))
    sites = find_sites(network)
    roles = [role for layer in shuffled_layers(circuit) for role in layer]
    targets = [Target(role, head.spans) for role, head in zip(roles, single_heads(sites), strict=True)]
    drawn, _, _ = draw_images(range(500, 500 + IMAGES), 0, SIZE, symmetric=True)
    return denoiser, sites, targets, torch.tensor(drawn, dtype=torch.float32)[:, None]


def effects_between(planted, other: torch.Tensor, targets: list[Target]) -> xr.DataArray:
    """Return the mean effect (target, direction) between the planted images and `other`."""
    denoiser, sites, _, images = planted
    clean, changed = (Passes(50, tuple(range(IMAGES)), x_t, None, Condition.null(IMAGES, 0)) for x_t in (images, other))
    config = QUICK.model_copy(update={"doses": [1.0]})
    grid = patch_pairs(denoiser, sites, [(clean, changed)], targets, config, RUNTIME)
    return grid["effect"].isel(dose=0).mean(("sample", "timestep"))


def test_the_head_that_carries_what_is_at_one_place_is_found_to_bring_its_change(planted) -> None:
    spot = places(SIZE).spot
    other = planted[3].clone()
    other[:, :, spot[0], spot[1]] *= -1
    effect = effects_between(planted, other, planted[2]).sel(direction="denoising")
    assert effect.sel(target="sink") > 0.3
    assert float(np.abs(effect.drop_sel(target="sink")).max()) < 0.06


def test_heads_that_stand_in_for_each_other_are_each_sufficient_and_only_together_necessary(planted) -> None:
    columns = list(places(SIZE).columns)
    other = planted[3].clone()
    other[:, :, :, columns] *= -1
    single = [target for target in planted[2] if target.name.startswith("pair")]
    both = Target("both", tuple(span for target in single for span in target.spans))
    effect = effects_between(planted, other, [*single, both])
    brought = effect.sel(direction="denoising").values
    np.testing.assert_allclose(brought, brought[0], rtol=1e-3)
    assert brought[0] > 0.2
    taken = 1 - effect.sel(direction="noising").values
    np.testing.assert_allclose(taken[:2], 0, atol=1e-3)
    assert taken[2] > 0.2


def test_dead_heads_carry_exactly_nothing(planted) -> None:
    effect = effects_between(planted, planted[3].roll(1, 0), planted[2])
    for role in ("dead_local", "dead_sink"):
        assert effect.sel(target=role, direction="denoising") == 0
        assert effect.sel(target=role, direction="noising") == pytest.approx(1, abs=1e-12)


def grid_of(share: np.ndarray, doses: list[float], *, difference: np.ndarray | None = None) -> xr.Dataset:
    """Return a patching store whose effects are `share` (target, dose, direction, sample, timestep)."""
    share = share.copy()
    share[:, :, 1] = 1 - share[:, :, 1]
    targets, _, _, samples, steps = share.shape
    dims = ("target", "dose", "direction", "sample", "timestep")
    text = np.dtypes.StringDType()
    found = np.ones((samples, steps)) if difference is None else difference
    return xr.Dataset(
        {"effect": (dims, share), "off": (dims, np.full(share.shape, 0.1)), "difference": (dims[3:], found)}
        | {name: ("target", np.array([name] * targets, dtype=text)) for name in ("group", "kind")}
        | {"heads": ("target", np.ones(targets, dtype=np.int64))},
        coords={
            "target": np.array([f"h{k:02d}" for k in range(targets)], dtype=text),
            "dose": doses,
            "direction": np.array(["denoising", "noising"], dtype=text),
            "sample": np.arange(samples),
            "timestep": [100, 300, 700][:steps],
        },
        attrs={"schedule": 1000, "source": "sample"},
    )


def test_effects_are_means_of_the_share_moved_over_images_and_the_passes_of_a_window() -> None:
    share = np.random.default_rng(0).normal(0.3, 0.1, (4, 1, 2, 5, 3))
    table = effects_of_source(grid_of(share, [1.0]), [(0, 400), (401, 999)], patching=QUICK, seed=0)
    rows = table.set_index(["target", "direction", "window"])["effect"]
    for direction, name in enumerate(("denoising", "noising")):
        assert rows["h02", name, "all"] == pytest.approx(share[2, 0, direction].mean())
        assert rows["h02", name, "0-400"] == pytest.approx(share[2, 0, direction, :, :2].mean())
        assert rows["h02", name, "401-999"] == pytest.approx(share[2, 0, direction, :, 2].mean())
    assert table["n"].eq(5).all()
    assert ((table["low"] <= table["effect"]) & (table["effect"] <= table["high"])).all()


def test_images_whose_two_passes_do_not_differ_are_left_out_and_counted() -> None:
    share = np.full((2, 1, 2, 5, 3), 0.5)
    share[:, :, :, 3] = np.nan
    difference = np.ones((5, 3))
    difference[3, 1] = 0
    table = effects_of_source(grid_of(share, [1.0], difference=difference), [], patching=QUICK, seed=0)
    assert table["n"].tolist() == [4] * 4
    assert table["effect"].tolist() == pytest.approx([0.5] * 4)
    nothing = effects_of_source(grid_of(share, [1.0], difference=0 * difference), [], patching=QUICK, seed=0)
    assert nothing["n"].tolist() == [0] * 4
    assert nothing[["effect", "p_zero", "p_control"]].isna().all(axis=None)


def test_p_values_of_patches_that_move_nothing_are_uniform_and_keep_the_family_wise_error() -> None:
    p, smallest = [], []
    config = PatchingConfig(draws=2, permutations=199)
    for seed in range(40):
        share = np.random.default_rng(seed).normal(0, 0.1, (6, 1, 2, 12, 3))
        table = effects_of_source(grid_of(share, [1.0]), [(0, 400), (401, 999)], patching=config, seed=0)
        assert (table["p_control_adjusted"] > 0.05).all()
        p += table.loc[table["window"] == "0-400", "p_zero"].tolist()
        smallest += table[table["window"] != "all"].groupby("direction")["p_zero_max"].min().tolist()
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(smallest) <= 0.1) < 0.18  # 0.1 expected, 80 families


@pytest.mark.parametrize("images", [7, 16])
def test_the_smallest_share_is_found_about_four_times_in_five(images: int) -> None:
    """One of twenty tests has an effect, of the size that its own study says, in sixty studies."""
    rng, found = np.random.default_rng(images), []
    for _ in range(60):
        null = rng.normal(0, 0.1, (images, 20))
        least = np.median(sign_flip_max_smallest(null, permutations=499, seed=0, alpha=0.05))
        null[:, 0] += least
        found.append(sign_flip_max_p(null, permutations=499, seed=0)[0] <= 0.05)
    assert 0.6 <= np.mean(found) <= 0.97
    assert np.isinf(sign_flip_max_smallest(null[:5], permutations=499, seed=0, alpha=0.05)).all()


def test_a_straight_dose_response_has_its_slope_and_no_departure_a_bent_one_has() -> None:
    doses, full = np.array([0.25, 0.5, 1.0]), np.random.default_rng(0).normal(0.4, 0.05, (8, 1))
    share = np.empty((3, 3, 2, 8, 1))
    share[0] = doses[:, None, None, None] * full
    share[1] = (doses**2)[:, None, None, None] * full
    share[2] = np.array([0.5, 0.3, 1.0])[:, None, None, None] * full
    table = dose_response(grid_of(share, doses.tolist()), patching=QUICK, seed=0).set_index(["target", "direction"])
    straight, bent = table.loc[("h00", "noising")], table.loc[("h01", "denoising")]
    assert straight["slope"] == pytest.approx(full.mean())
    assert straight[["departure", "departure_low", "departure_high"]].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    below = np.mean([0.25**2 - 0.25, 0.5**2 - 0.5])
    assert bent["departure"] == pytest.approx(below * full.mean())
    assert bent["departure_high"] < 0
    assert bent["slope"] == pytest.approx((doses @ doses**2) / (doses @ doses) * full.mean())
    assert bent["p_linear_max"] < 0.05
    assert table["monotone"].tolist() == [True] * 4 + [False] * 2


def test_a_data_set_is_patched_and_its_tables_written(
    tmp_path: Path, latents: dict[str, list[Path]], model_json: Path
) -> None:
    config = PatchingConfig(
        draws=50, permutations=99, samples=3, dose_targets=3, heads=["*.cross"], groups=["heads", "layers"]
    )
    stores = {}
    for source in ("sample", "domain"):
        stores[source] = tmp_path / f"{source}.zarr.zip"
        patch_data_set(
            latents["real"],
            model_json,
            stores[source],
            source=source,
            contrast="synthetic",
            patching=config,
            timesteps=TIMESTEPS,
            runtime=RUNTIME,
        )
    grid = open_store(stores["domain"]).to_dataset()
    assert grid["effect"].dims == ("target", "dose", "direction", "sample", "timestep")
    assert grid.sizes["sample"] == 3
    assert int(np.isfinite(grid["effect"].sel(dose=0.5)).all(("direction", "sample", "timestep")).sum()) == 3
    assert np.isfinite(grid["effect"].sel(dose=1.0)).all()
    effects, doses = tmp_path / "effects.csv", tmp_path / "doses.csv"
    patching_effects({"real": stores}, None, effects, doses, patching=config, windows="thirds", seed=0)
    table, responses = pd.read_csv(effects), pd.read_csv(doses)
    assert list(table.columns) == list(PATCHING.columns)
    assert list(responses.columns) == list(DOSES.columns)
    assert set(table["source"]) == {"domain", "sample"}
    assert set(table["window"]) == {"all", "0-332", "667-999"}
    # Nothing stands out among random weights: every head is compared with its like.
    assert not (table["p_control_adjusted"] < 0.05).any()
    # The condition enters by cross-attention alone, here of three layers: together they bring what one pass lacks.
    layer = table[(table["group"] == "layers") & (table["source"] == "domain") & (table["dose"] == 1)]
    assert (
        layer.loc[layer["kind"] == "self", "effect"].abs().max() < layer.loc[layer["kind"] == "cross", "effect"].max()
    )


def test_doses_of_zero_and_identical_samples_move_exactly_nothing(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    clean = Passes(100, (0, 1, 2), x_t, None, Condition(torch.tensor([0, 1, 0]), torch.full((3, 1), 0.3)))
    config = QUICK.model_copy(update={"doses": [0.0, 1.0], "dose_targets": None})
    targets = patching_targets("heads", sites, ["down1.*"])
    other = clean.rows(torch.tensor([1, 2, 0]))
    grid = patch_pairs(denoiser, sites, [(clean, other)], targets, config, RUNTIME)
    assert (grid["shift"].sel(dose=0.0) == 0).all()
    assert (grid["shift"].sel(dose=1.0) > 0).any()
    twins = patch_pairs(denoiser, sites, [(clean, clean.rows(torch.arange(3)))], targets, config, RUNTIME)
    assert (twins["shift"] == 0).all()
    assert (twins["difference"] == 0).all()


def test_samples_are_paired_with_images_that_are_not_studied(tmp_path: Path, denoiser: Denoiser) -> None:
    files = open_latent_files([write_latents(tmp_path / "a.zarr.zip", 0, [100], range(5))])
    clean, other = pair(files, denoiser, 100, 8, source="sample", contrast="synthetic")
    assert (clean.samples, other.samples) == ((0, 1), (2, 3))
    clean, other = pair(files, denoiser, 100, 8, source="domain", contrast="synthetic")
    assert clean.samples == other.samples == (0, 1, 2, 3, 4)
    assert other.condition.domain.tolist() == [1] * 5
    assert torch.equal(clean.x_t, other.x_t)


def test_flipping_an_attribute_takes_it_away_where_it_is_and_gives_it_where_it_is_not(denoiser: Denoiser) -> None:
    values = torch.tensor([[0.9], [0.5], [0.2], [torch.nan]])
    passes = Passes(
        100, (0, 1, 2, 3), torch.zeros(4, 1, 8, 8), None, Condition(torch.zeros(4, dtype=torch.long), values)
    )
    flipped = flipped_attribute(passes, denoiser, "smile").condition
    assert flipped.values[:, 0].tolist() == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="conditioned on no attribute 'smiles'; nearest: smile"):
        flipped_attribute(passes, denoiser, "smiles")


def test_what_a_denoiser_cannot_be_told_is_refused_by_name(
    tmp_path: Path, denoiser: Denoiser, planted, sites: list[AttentionSite]
) -> None:
    files = open_latent_files([write_latents(tmp_path / "a.zarr.zip", 0, [100], range(1))])
    with pytest.raises(ConfigError, match="sample needs at least 2 images, found 1"):
        pair(files, denoiser, 100, 8, source="sample", contrast="synthetic")
    with pytest.raises(ConfigError, match="no domain 'drawn'; nearest"):
        pair(files, denoiser, 100, 8, source="domain", contrast="drawn")
    with pytest.raises(ConfigError, match="'domain' needs a denoiser that is told it, but this one is not conditioned"):
        pair(files, planted[0], 100, 8, source="domain", contrast="synthetic")
    with pytest.raises(ConfigError, match=r"no head matches 'down1.0.self.h99'.*nearest: down1.0.self"):
        patching_targets("heads", sites, ["down1.0.self.h99"])
