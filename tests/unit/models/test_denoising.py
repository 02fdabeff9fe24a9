"""Whether a denoiser denoises is measured against the best that needs no network, and a wrong schedule is seen."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.config.models import Architecture, DenoiserConfig, Schedule
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.models.denoiser import Denoiser
from diffmech.models.heldout import Moments, chosen_images, fit_of, heldout_loss, moments, seen_and_unseen
from diffmech.models.importing import import_denoiser
from diffmech.report.heads.denoising import troubles
from diffmech.statistics.units import over_units
from diffmech.training.record import is_held_out, training_record

IDS = np.arange(24)
TIMESTEPS = (10, 25, 40)
# As small as a U-Net of the workflow gets.
SMALL = Architecture(channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, token_width=8, timesteps=50)
SETTINGS = {"draws": 400, "confidence": 0.95, "seed": 0}
# The best denoiser of images that are one of two known ones: what a network trained on them comes to.
BEST = """
import torch
from torch import nn

class Best(nn.Module):
    def __init__(self, stretch=1.0, kind="epsilon"):
        super().__init__()
        self.stretch, self.kind = stretch, kind
        self.register_buffer("images", torch.zeros(2, 64))
        self.register_buffer("shares", torch.full((50,), 0.5))

    def forward(self, x_t, timestep):
        share = self.shares[(timestep * self.stretch).long()][:, None]
        x = x_t.flatten(1)
        distance = ((x[:, None] - share.sqrt()[..., None] * self.images) ** 2).sum(-1)
        x_0 = (-distance / (2 * (1 - share))).softmax(1) @ self.images
        noise = (x - share.sqrt() * x_0) / (1 - share).sqrt()
        v = share.sqrt() * noise - (1 - share).sqrt() * x_0
        return {"epsilon": noise, "sample": x_0, "v_prediction": v}[self.kind].reshape(x_t.shape)
"""
COSINE = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2")


class Images:
    """A stand-in for a data set: 24 images, each one of two, with a little grain."""

    attributes: tuple[str, ...] = ()

    def __init__(self, grain: float = 0.0) -> None:
        two = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8))
        self.pixels = two[IDS % 2] + grain * np.random.default_rng(1).standard_normal((24, 1, 8, 8))
        self.two = torch.from_numpy(two.reshape(2, 64)).float()

    def images(self, ids: np.ndarray) -> np.ndarray:
        return self.pixels[ids].astype(np.float32)


def best(images: Images, scheduler: DDPMScheduler = COSINE, **arguments: object) -> Denoiser:
    """Return the best denoiser of these images, whose own schedule is the cosine one, used with `scheduler`."""
    namespace: dict = {}
    exec(BEST, namespace)
    module = namespace["Best"](**arguments)
    module.images, module.shares = images.two, COSINE.alphas_cumprod
    module.anchor = nn.Parameter(torch.zeros(1))
    return Denoiser(module, scheduler, (1, 8, 8), forward=lambda x, t, condition: module(x, t))


def fits(denoiser: Denoiser, images: Images) -> pd.DataFrame:
    """Return the table that the page reads, of one domain."""
    rows = [fit_of(moments(denoiser, images, "any", IDS, t, 0, 16), **SETTINGS) for t in TIMESTEPS]
    return pd.DataFrame(rows).assign(timestep=TIMESTEPS, domain="any")


def called_out(table: pd.DataFrame) -> str:
    """Return what stands on the first screen about this table, empty where all is well."""
    return " ".join(troubles(SimpleNamespace(denoising=table, model={"source": "custom", "weights": "own.pt"})))


def test_the_best_denoiser_is_surely_better_than_any_multiple_of_the_image_and_of_the_right_size() -> None:
    table = fits(best(Images()), Images())
    assert (table["skill_low"] > 0.5).all()
    assert table["slope"].between(0.95, 1.05).all()
    assert (table["n"] == 24).all()
    assert called_out(table) == ""


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_networks_that_predict_v_or_the_image_are_judged_by_the_noise_that_follows(kind: str) -> None:
    scheduler = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2", prediction_type=kind)
    found, expected = fits(best(Images(), scheduler, kind=kind), Images()), fits(best(Images()), Images())
    columns = list(expected.columns.drop("domain"))
    np.testing.assert_allclose(found[columns], expected[columns], atol=1e-3)
    mistaken = fits(best(Images(), kind=kind), Images())  # taken for a prediction of the noise
    assert "This denoiser does not denoise" in called_out(mistaken)


@pytest.mark.parametrize("wrong", ["linear", "scaled_linear"])
def test_a_schedule_that_is_not_its_own_is_called_out_by_skill_or_size(wrong: str) -> None:
    images = Images()
    assert called_out(fits(best(images), images)) == ""
    assert "A wrong schedule" in called_out(fits(best(images, DDPMScheduler(50, 0.002, 0.4, wrong)), images))


def test_timesteps_counted_in_another_way_are_called_out_too() -> None:
    images = Images()
    assert "A wrong schedule" in called_out(fits(best(images, stretch=0.5), images))


def test_a_constant_multiple_of_the_image_has_no_skill_and_zero_less() -> None:
    images = Images(grain=0.3)
    measured = moments(best(images), images, "any", IDS, 25, 0, 16)
    c = measured.image_noise.mean() / measured.image_image.mean()

    class Multiple(nn.Module):
        def __init__(self, c: float) -> None:
            super().__init__()
            self.c = nn.Parameter(torch.tensor(float(c)), requires_grad=False)

        def forward(self, x_t: torch.Tensor) -> torch.Tensor:
            return self.c * x_t

    def fit(factor: float) -> dict[str, float]:
        module = Multiple(factor)
        same = Denoiser(module, COSINE, (1, 8, 8), forward=lambda x, t, condition: module(x))
        return fit_of(moments(same, images, "any", IDS, 25, 0, 16), **SETTINGS)

    linear, zero = fit(c), fit(0.0)
    assert linear["skill"] == pytest.approx(0, abs=1e-6)
    assert linear["loss"] == pytest.approx(linear["linear"], rel=1e-6)
    assert linear["slope"] == pytest.approx(1, abs=1e-5)
    assert zero["loss"] == pytest.approx(zero["zero"], rel=1e-6)
    assert zero["zero"] == pytest.approx(1, abs=0.1)
    assert zero["skill"] < 0


def test_moments_do_not_depend_on_the_batches() -> None:
    images = Images(grain=0.3)
    for first, second in zip(
        vars(moments(best(images), images, "any", IDS, 25, 0, 24)).values(),
        vars(moments(best(images), images, "any", IDS, 25, 0, 5)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_random_weights_do_not_denoise(
    stores: dict[str, Path], images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    model = tmp_path / "model.json"
    import_denoiser(
        DenoiserConfig(source="untrained", architecture=SMALL),
        model,
        root=tmp_path,
        images=images_config,
        datasets=stores,
    )
    heldout_loss(model, stores, tmp_path / "h.csv", tmp_path / "d.csv", timesteps=[10, 30], samples=8, runtime=quiet)
    table = pd.read_csv(tmp_path / "d.csv")
    assert (table["skill_high"] < 0).all()
    assert len(pd.read_csv(tmp_path / "h.csv")) == 0  # nobody trained it on anything


def test_seen_and_unseen_are_told_apart_only_of_images_that_are_on_record(
    trained: Path, stores: dict[str, Path], images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    record = training_record(trained.parent)
    assert record is not None
    for path in stores.values():
        images = open_dataset(path)
        seen = record.seen(images)
        assert seen is not None
        np.testing.assert_array_equal(seen, ~is_held_out(images.ids, 5))
    pixels = tmp_path / "pictures"
    pixels.mkdir()
    for index in range(6):
        np.save(pixels / f"{index}.npy", np.tile(np.arange(8, dtype=np.uint8) * (20 + index), (8, 1)))
    other = tmp_path / "other.zarr.zip"
    prepare_dataset(ImageFolder(kind="image_folder", path=str(pixels)), images_config, other, name="x", runtime=quiet)
    assert record.seen(open_dataset(other)) is None
    sets = {"real": other, "synthetic": stores["synthetic"]}
    heldout_loss(trained, sets, tmp_path / "h.csv", tmp_path / "d.csv", timesteps=[10], samples=8, runtime=quiet)
    assert set(pd.read_csv(tmp_path / "h.csv")["domain"]) == {"synthetic"}
    assert set(pd.read_csv(tmp_path / "d.csv")["domain"]) == {"real", "synthetic"}


def test_of_a_network_from_elsewhere_no_image_is_called_unseen(
    stores: dict[str, Path], images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    # a weight to be random, and the class as a user writes it
    text = BEST.replace(
        '        self.register_buffer("images"',
        '        self.net = nn.Linear(1, 1)\n        self.register_buffer("images"',
    )
    (tmp_path / "best.py").write_text(text)
    own = DenoiserConfig(
        source="custom",
        implementation="best.py:Best",
        arguments={},
        schedule=Schedule(timesteps=50, beta_schedule="squaredcos_cap_v2"),
    )
    model = tmp_path / "results/models/best/model.json"
    import_denoiser(own, model, root=tmp_path, images=images_config)
    heldout_loss(model, stores, tmp_path / "h.csv", tmp_path / "d.csv", timesteps=[10], samples=8, runtime=quiet)
    assert pd.read_csv(tmp_path / "h.csv").empty
    assert pd.read_csv(tmp_path / "d.csv")["n"].tolist() == [8, 8]


def test_a_condition_of_null_is_what_is_judged_where_the_study_gives_none(
    trained: Path, stores: dict[str, Path], quiet: RuntimeConfig
) -> None:
    from diffmech.models.load import load_denoiser

    denoiser, images = load_denoiser(trained, device="cpu"), open_dataset(stores["synthetic"])
    ids = images.ids[:4]
    full, null = (
        moments(denoiser, images, "synthetic", ids, 20, 0, 4, condition=given).loss for given in ("full", "null")
    )
    assert not np.allclose(full, null, rtol=1e-6)
    told_nothing = replace(denoiser, domains=())
    assert np.allclose(null, moments(told_nothing, images, "synthetic", ids, 20, 0, 4, condition="null").loss)


def test_both_splits_share_the_images_that_there_are() -> None:
    few = chosen_images(np.arange(100), ~is_held_out(np.arange(100), 5), 64)
    assert {name: len(part) for name, part in few.items()} == {"train": 44, "heldout": 20}
    many = chosen_images(np.arange(2000), ~is_held_out(np.arange(2000), 5), 64)
    assert {name: len(part) for name, part in many.items()} == {"train": 32, "heldout": 32}
    assert (many["heldout"] % 5 == 4).all()
    assert (many["train"] % 5 != 4).all()
    assert list(chosen_images(np.arange(9), None, 64)) == ["unknown"]
    assert {name: len(part) for name, part in chosen_images(np.arange(3), np.ones(3, bool), 64).items()} == {"train": 3}


def test_the_ratio_over_all_timesteps_is_the_mean_of_theirs_and_its_interval_holds_the_truth() -> None:
    # 200 studies of 32 + 32 images whose losses are 1.2 times as large where unseen, with a spread of 40 %; a coverage
    # of 90 % instead of 95 % would be below 0.92 with a chance of 0.82
    source, held = np.random.default_rng(0), 0
    split = np.repeat(["train", "heldout"], 32)
    for _ in range(200):
        spread = np.exp(0.4 * source.standard_normal(64) - 0.08)
        losses = {t: scale * spread * np.where(split == "heldout", 1.2, 1.0) for t, scale in ((10, 0.5), (40, 0.01))}
        rows = pd.DataFrame(seen_and_unseen(losses, split, draws=200, confidence=0.95, seed=0))
        ratios = rows[rows["split"] == "heldout"].set_index("timestep")
        assert ratios.loc["all", "relative"] == pytest.approx(ratios.loc[[10, 40], "relative"].mean())
        held += ratios.loc["all", "relative_low"] <= 1.2 <= ratios.loc["all", "relative_high"]
    assert 0.92 <= held / 200 <= 0.985
    assert math.isnan(rows[rows["split"] == "train"]["relative"].iloc[0])


def simulated(n: int, seed: int) -> Moments:
    """Return moments of `n` images of 64 pixels whose contrast differs, and of predictions of the noise with errors."""
    source = np.random.default_rng(seed)
    contrast = np.exp(0.25 * source.standard_normal((n, 1)))
    x_0, eps = contrast * source.standard_normal((n, 64)), source.standard_normal((n, 64))
    x, guess = 0.6 * x_0 + 0.8 * eps, 0.7 * eps + 0.3 * contrast * source.standard_normal((n, 64))
    pairs = ((guess - eps, guess - eps), (x, x), (x, eps), (eps, eps), (guess, guess), (guess, eps))
    return Moments(*[(first * second).mean(1) for first, second in pairs])


def test_intervals_of_skill_and_best_factor_hold_the_truth_as_often_as_they_say() -> None:
    # 300 studies of 64 images whose contrast varies by a quarter: a coverage of 89 % instead of 95 would be below 0.915
    # with a chance of 0.92. Where contrast varies by half, 90 to 93 % hold it.
    truth = fit_of(simulated(200_000, 1), draws=10, confidence=0.95, seed=0)
    held = {"skill": 0, "slope": 0}
    for study in range(300):
        found = fit_of(simulated(64, 100 + study), draws=300, confidence=0.95, seed=0)
        for name in held:
            held[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    for name, count in held.items():
        assert 0.915 <= count / 300 <= 0.985, (name, count / 300)


def test_losses_of_persons_are_resampled_where_images_are_known_to_be_of_one() -> None:
    rng, person = np.random.default_rng(0), np.array([0, 0, 1, 2, 2, 2, 3, 1])
    values = rng.gamma(2.0, size=(6, 8))
    of_persons = fit_of(Moments(*(over_units(each, person) for each in values)), **SETTINGS)
    assert fit_of(Moments(*values).over(person), **SETTINGS) == of_persons
    assert of_persons["n"] == 4
    split = np.array(["train", "train", "heldout", "train", "heldout", "train", "heldout", "heldout"])
    rows = seen_and_unseen({10: values[0]}, split, person, **SETTINGS)
    sizes = {(row["split"], row["timestep"]): (row["n"], row["loss"]) for row in rows}
    seen, unseen = (over_units(values[0][split == name], person[split == name]) for name in ("train", "heldout"))
    assert sizes["train", 10] == (2, pytest.approx(seen.mean()))
    assert sizes["heldout", 10] == (3, pytest.approx(unseen.mean()))
