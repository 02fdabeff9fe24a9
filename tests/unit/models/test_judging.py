"""Held-out loss, the judge of generated images, and the precision of training."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import RecognitionConfig, SamplingConfig
from diffmech.data.store import open_dataset
from diffmech.errors import ConfigError, ModelError, StoreError
from diffmech.judging.judge import _why_absent, make_judge, read_judge, train_judge, trained_images
from diffmech.judging.recognition import check_recognition, wilson_interval
from diffmech.models.denoiser import Condition
from diffmech.models.heldout import denoising_losses, heldout_loss
from diffmech.models.load import load_denoiser
from diffmech.randomness import noise
from diffmech.training.precision import mixed_precision


def test_wilson_interval_solves_its_equation() -> None:
    # Wilson 1927: the ends are the shares p at which the observed share lies z standard errors away
    low, high = wilson_interval(58, 64, 0.95)
    for end in (low, high):
        z = abs(58 / 64 - end) / np.sqrt(end * (1 - end) / 64)
        assert z == pytest.approx(1.959964, abs=1e-5)
    assert wilson_interval(64, 64, 0.95)[1] == pytest.approx(1)
    assert 0.9 < wilson_interval(64, 64, 0.95)[0] < 1
    assert wilson_interval(0, 64, 0.95)[0] == pytest.approx(0, abs=1e-12)


def test_judge_learns_to_see_hats(quiet: RuntimeConfig) -> None:
    judge = train_judge(
        ("hat",),
        SyntheticFaces(kind="synthetic_faces"),
        ImagesConfig(size=12),
        RecognitionConfig(faces=400, epochs=8),
        quiet,
    )
    assert judge.accuracy[0] > 0.9


def test_recognition_states_the_judges_accuracy_and_an_interval(
    trained: Path, images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    recognition = RecognitionConfig(attributes=["hat", "wings"], samples=6, faces=60, epochs=1)
    judge = tmp_path / "judge.safetensors"
    make_judge(trained, judge, recognition=recognition, images=images_config, runtime=quiet)
    check_recognition(
        trained,
        judge,
        tmp_path / "recognition.csv",
        recognition=recognition,
        sampling=SamplingConfig(steps=2),
        runtime=quiet,
    )
    table = pd.read_csv(tmp_path / "recognition.csv")
    assert table.columns.tolist() == ["attribute", "heldout_accuracy", "recognised_share", "low", "high", "n"]
    assert table["attribute"].tolist() == ["hat", "no hat"]
    assert (table["low"] <= table["recognised_share"]).all()
    assert (table["recognised_share"] <= table["high"]).all()
    assert table["n"].tolist() == [6, 6]
    assert table["heldout_accuracy"].between(0, 1).all()


def test_judge_sees_faces_drawn_like_those_of_training(trained: Path) -> None:
    assert trained_images(trained) == SyntheticFaces(kind="synthetic_faces", count=30)


def test_unknown_attributes_are_refused(
    trained: Path, images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    judge, recognition = tmp_path / "judge.safetensors", RecognitionConfig(attributes=["wings"])
    make_judge(trained, judge, recognition=recognition, images=images_config, runtime=quiet)
    with pytest.raises(ModelError, match=r"recognition\.attributes names wings, of which .* knows none; name some of"):
        check_recognition(
            trained,
            judge,
            tmp_path / "recognition.csv",
            recognition=recognition,
            sampling=SamplingConfig(),
            runtime=quiet,
        )


def test_too_few_faces_are_refused(
    trained: Path, images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    recognition = RecognitionConfig(attributes=["hat"], faces=9)
    with pytest.raises(ConfigError, match=r"^recognition\.faces: 9 is too few to train on; give some thousand"):
        make_judge(trained, tmp_path / "j.safetensors", recognition=recognition, images=images_config, runtime=quiet)


@pytest.mark.parametrize("metadata", [None, {}, {"judge": "hat"}])
def test_a_file_that_is_no_judge_is_named(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    file = tmp_path / "judge.safetensors"
    if metadata is None:
        file.write_bytes(b"hat")
    else:
        save_file({"weight": torch.zeros(1)}, file, metadata)
    with pytest.raises(StoreError, match=r"judge\.safetensors: holds no judge \(.*\); delete it and let the workflow"):
        read_judge(file)


def test_what_gives_a_judge_is_possible_for_the_denoiser_and_names_no_other_images() -> None:
    told_nothing = _why_absent(["hat"], [], [])
    assert told_nothing == (
        "the denoiser is told no attributes of an image; a CLIP model can judge some (resampling.clip and"
        " resampling.text_attributes)"
    )
    for said in (_why_absent(["one"], ["one", "two"], ["one"]), _why_absent(["hat"], ["one", "two"], [])):
        assert "a CLIP model can judge some" in said
        assert not re.search(r"face|drawn|glasses|\[|name some of", said)


def test_a_judge_that_was_written_judges_as_before(
    trained: Path, images_config: ImagesConfig, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    recognition = RecognitionConfig(attributes=["hat"], faces=60, epochs=1)
    faces = trained_images(trained)
    assert faces is not None
    fresh = train_judge(("hat",), faces, images_config, recognition, quiet)
    make_judge(trained, tmp_path / "judge.safetensors", recognition=recognition, images=images_config, runtime=quiet)
    kept = read_judge(tmp_path / "judge.safetensors", device="cpu")
    samples = torch.randn(5, 1, 8, 8)
    assert (kept.attributes, kept.accuracy.tolist()) == (fresh.attributes, fresh.accuracy.tolist())
    for ours, theirs in zip(kept.sees(samples), fresh.sees(samples), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # weights that come with a judge of the same settings need no training; other settings do
    bundled = trained.parent / "judge.safetensors"
    bundled.write_bytes((tmp_path / "judge.safetensors").read_bytes())
    try:
        make_judge(trained, tmp_path / "same", recognition=recognition, images=images_config, runtime=quiet)
        assert (tmp_path / "same").read_bytes() == bundled.read_bytes()
        other = recognition.model_copy(update={"seed": 3})
        make_judge(trained, tmp_path / "other", recognition=other, images=images_config, runtime=quiet)
        assert (tmp_path / "other").read_bytes() != bundled.read_bytes()
    finally:
        bundled.unlink()


def test_both_tables_have_every_domain_and_timestep(
    trained: Path, stores: dict[str, Path], quiet: RuntimeConfig, tmp_path: Path
) -> None:
    settings = {"seed": 0, "draws": 200, "runtime": quiet}
    heldout, denoising = tmp_path / "heldout.csv", tmp_path / "denoising.csv"
    heldout_loss(trained, stores, heldout, denoising, timesteps=[5, 40], samples=12, **settings)
    table = pd.read_csv(heldout)
    assert table[["domain", "split", "timestep"]].to_numpy().tolist() == [
        [domain, split, t]
        for domain in ("real", "synthetic")
        for split in ("train", "heldout")
        for t in ("5", "40", "all")
    ]
    assert table["n"].tolist() == [9] * 3 + [2] * 3 + [6] * 6
    assert (table["low"] <= table["loss"]).all()
    assert (table["loss"] <= table["high"]).all()
    assert table["relative"].notna().tolist() == ([False] * 3 + [True] * 3) * 2
    skill = pd.read_csv(denoising)
    assert skill[["domain", "timestep", "n"]].to_numpy().tolist() == [
        ["real", 5, 11],
        ["real", 40, 11],
        ["synthetic", 5, 12],
        ["synthetic", 40, 12],
    ]
    assert (skill["linear"] <= skill["zero"]).all()
    with pytest.raises(ConfigError, match=r"timesteps\[0\]: 50 is not below the scheduler's 50 steps"):
        heldout_loss(trained, stores, heldout, denoising, timesteps=[50], samples=7, **settings)


def test_denoising_loss_is_the_mean_squared_error_of_the_noise(trained: Path, stores: dict[str, Path]) -> None:
    denoiser, images = load_denoiser(trained, device="cpu"), open_dataset(stores["real"])
    losses = denoising_losses(denoiser, images, "real", np.array([1, 3, 4]), 30, seed=2, batch_size=2)
    added = torch.from_numpy(noise(2, 3, 30, (1, 8, 8)))[None]
    x_t = denoiser.scheduler.add_noise(torch.from_numpy(images.images([3])), added, torch.tensor([30]))
    condition = Condition(torch.tensor([0]), torch.full((1, len(denoiser.attributes)), torch.nan))
    expected = F.mse_loss(denoiser.predict_noise(x_t, 30, condition), added)
    assert losses[1] == pytest.approx(float(expected), rel=1e-4)


def test_mixed_precision_keeps_slow_kernels_in_float32_and_ends_with_its_context() -> None:
    cpu, x = torch.device("cpu"), torch.randn(2, 8, 4, 4)
    weight = torch.randn(8, 8, 1, 1)
    with mixed_precision(cpu, "bfloat16"):
        product = F.conv2d(x, weight)
        assert product.dtype == torch.bfloat16
        assert F.scaled_dot_product_attention(product, product, value=product).dtype == torch.float32
        assert F.group_norm(product, 2).dtype == torch.float32
    assert F.conv2d(x, weight).dtype == torch.float32
    with mixed_precision(cpu, "float32"):
        assert torch.equal(F.conv2d(x, weight), F.conv2d(x, weight))
        assert F.conv2d(x, weight).dtype == torch.float32
