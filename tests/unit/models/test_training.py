"""Training ends in the same weights however often it was interrupted, and never starts from a wrong checkpoint."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffmech.artifacts import read_json
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import DenoiserConfig, Training
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.errors import ConfigError, DataError, ModelError
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.load import load_denoiser
from diffmech.models.train import DenoiserRun, train_denoiser
from diffmech.models.training_set import TrainingSet
from diffmech.testing import assert_same_up_to_rounding
from diffmech.training.checkpoint import FILE
from diffmech.training.images import attribute_values
from diffmech.training.record import is_held_out
from diffmech.training.schedule import averaging_decay, learning_rate


def changed(config: DenoiserConfig, **training: object) -> DenoiserConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def same_weights(first: Path, second: Path) -> bool:
    """Whether two denoisers are equal bit by bit."""
    weights = [[p for module in parts(pointer) for p in module.parameters()] for pointer in (first, second)]
    return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def parts(pointer: Path) -> list[torch.nn.Module]:
    denoiser = load_denoiser(pointer, device="cpu")
    assert denoiser.tokens is not None
    return [denoiser.module, denoiser.tokens]


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Return a function that makes training die at a step, or live again at None."""
    whole = DenoiserRun.losses

    def set_step(step: int | None) -> None:
        def dying(self: DenoiserRun, at: int) -> dict[str, torch.Tensor]:
            if at == step:
                raise KeyboardInterrupt
            return whole(self, at)

        monkeypatch.setattr(DenoiserRun, "losses", dying)

    return set_step


def interrupt(train: Callable[..., Path], killed_at: Callable, config: DenoiserConfig, folder: Path, step: int) -> None:
    killed_at(step)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder, checkpoint_seconds=1e-9)
    killed_at(None)


def test_interrupted_training_ends_in_the_same_weights(
    train: Callable[..., Path], killed_at: Callable, trained: Path, tiny_config: DenoiserConfig, tmp_path: Path
) -> None:
    interrupt(train, killed_at, tiny_config, tmp_path, 6)
    assert not (tmp_path / "model").exists()
    interrupt(train, killed_at, tiny_config, tmp_path, 9)
    resumed = train(tiny_config, tmp_path)
    assert same_weights(resumed, trained)
    columns = ["step", "loss", "learning_rate"]
    histories = [pd.read_csv(pointer.parent / "history.csv")[columns] for pointer in (resumed, trained)]
    pd.testing.assert_frame_equal(*histories)
    assert histories[0]["step"].tolist() == list(range(1, 13))
    assert not (tmp_path / "checkpoints").exists()


def test_checkpoint_of_other_parameters_is_not_read(
    train: Callable[..., Path],
    killed_at: Callable,
    trained: Path,
    tiny_config: DenoiserConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt(train, killed_at, changed(tiny_config, learning_rate=1e-2), tmp_path, 6)
    with caplog.at_level(logging.WARNING):
        assert same_weights(train(tiny_config, tmp_path), trained)
    assert "other parameters" in caplog.text


def test_half_written_checkpoint_is_not_read(
    train: Callable[..., Path],
    killed_at: Callable,
    trained: Path,
    tiny_config: DenoiserConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt(train, killed_at, tiny_config, tmp_path, 6)
    checkpoint = tmp_path / "checkpoints" / FILE
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    leftover = tmp_path / "checkpoints" / f".{FILE}.x"
    leftover.mkdir()
    with caplog.at_level(logging.WARNING):
        assert same_weights(train(tiny_config, tmp_path), trained)
    assert "not a whole checkpoint" in caplog.text


def test_training_leaves_a_diffusers_directory_and_where_it_came_from(trained: Path) -> None:
    folder = trained.parent
    names = {path.name for path in folder.iterdir()}
    assert names == {"unet", "tokens", "classes.json", "scheduler", "history.csv", "provenance.json", "model.json"}
    record = read_json(folder / "provenance.json")
    assert record["steps"] == 12
    assert record["datasets"]["synthetic"]["config"]["kind"] == "synthetic_faces"
    pointer = read_json(trained)
    assert pointer["location"] == "."
    assert pointer["kind"] == "unet_condition_tokens"
    assert pointer["domains"] == ["real", "synthetic"]
    assert pointer["sample_shape"] == [1, 8, 8]
    assert pointer["parameters"] == sum(p.numel() for m in parts(trained) for p in m.parameters())


def test_what_is_saved_are_the_averaged_weights(
    stores: dict[str, Path], tiny_config: DenoiserConfig, trained: Path
) -> None:
    run = DenoiserRun(tiny_config, TrainingSet(stores, tiny_config.training), torch.device("cpu"))
    average = [weight.detach().clone().double() for weight in run.weights]
    for step in range(12):
        run.step(learning_rate(step, tiny_config.training))
        run.progress.step += 1
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * w.detach().double() for a, w in zip(average, run.weights, strict=True)]
    saved = [p for m in parts(trained) for p in m.parameters()]
    for expected, found in zip(average, saved, strict=True):
        assert_same_up_to_rounding(found, expected)


def test_six_steps_are_those_of_the_published_parts_bit_by_bit(
    train: Callable[..., Path], stores: dict[str, Path], tiny_config: DenoiserConfig, tmp_path: Path
) -> None:
    config = changed(tiny_config, steps=6)
    training, drawn = config.training, TrainingSet(stores, config.training)
    unet, tokens = build_model(config.architecture, (1, 8, 8), drawn.attributes, drawn.domains, training.seed)
    unet.train()
    for weight in unet.parameters():  # the layout decides how sums are rounded
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    scheduler = build_scheduler(config.architecture)
    weights = [*unet.parameters(), *tokens.parameters()]
    averaged = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, fused=True)
    for step in range(6):
        batch = drawn.draw(step, 50)
        images, noise = (x.to(memory_format=torch.channels_last) for x in (batch.images, batch.noise))
        noised = scheduler.add_noise(images, noise, batch.timesteps)
        told = tokens(batch.condition.domain, batch.condition.values)
        predicted = unet(noised, batch.timesteps, told).sample
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        optimiser.param_groups[0]["lr"] = learning_rate(step, training)
        optimiser.step()
        with torch.no_grad():
            for average, weight in zip(averaged, weights, strict=True):
                average.lerp_(weight, 1 - averaging_decay(step, training))
    saved = [p for m in parts(train(config, tmp_path)) for p in m.parameters()]
    for expected, found in zip(averaged, saved, strict=True):
        assert torch.equal(found, expected)


def test_averaging_forgets_the_start_early_and_reaches_its_decay() -> None:
    training = Training(ema_decay=0.99)
    assert averaging_decay(0, training) == pytest.approx(0.1)
    assert averaging_decay(10_000, training) == 0.99


def test_learning_rate_rises_once_and_falls_to_nothing() -> None:
    training = Training(steps=100, learning_rate=1e-3)
    rates = np.array([learning_rate(step, training) for step in range(101)])
    assert rates[0] == pytest.approx(1e-3 / 25)
    assert rates.argmax() == 10
    assert rates.max() == pytest.approx(1e-3)
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_loss_falls(train: Callable[..., Path], tiny_config: DenoiserConfig, tmp_path: Path) -> None:
    pointer = train(changed(tiny_config, steps=60, batch_size=16, learning_rate=5e-3), tmp_path)
    loss = pd.read_csv(pointer.parent / "history.csv")["loss"]
    assert loss.tail(10).mean() < 0.8 * loss.head(10).mean()


def test_divergence_is_one_clear_line(
    train: Callable[..., Path], tiny_config: DenoiserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DenoiserRun.losses
    monkeypatch.setattr(DenoiserRun, "losses", lambda self, step: {"loss": whole(self, step)["loss"] * torch.nan})
    with pytest.raises(ModelError, match=r"diverged: the loss is nan at step 1; lower training\.learning_rate"):
        train(tiny_config, tmp_path)
    assert not (tmp_path / "model" / "model.json").exists()


def test_images_of_another_shape_are_refused(
    stores: dict[str, Path], tiny_config: DenoiserConfig, tmp_path: Path, quiet: object
) -> None:
    with pytest.raises(DataError, match=r"\(1, 8, 8\), but `images` gives \(3, 8, 8\)"):
        train_denoiser(
            tiny_config, stores, tmp_path / "m", tmp_path / "c", images=ImagesConfig(size=8, channels=3), runtime=quiet
        )


def test_batch_depends_on_seed_and_step_alone(stores: dict[str, Path]) -> None:
    training = Training(batch_size=6)
    first, second = TrainingSet(stores, training), TrainingSet(stores, training, in_memory_bytes=0)
    second.draw(3, 50)
    a, b, later = first.draw(7, 50), second.draw(7, 50), first.draw(8, 50)
    for name in ("images", "noise", "timesteps"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.condition.domain, b.condition.domain)
    torch.testing.assert_close(a.condition.values, b.condition.values, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(a.noise, later.noise)
    other = TrainingSet(stores, training.model_copy(update={"seed": 1})).draw(7, 50)
    assert not torch.equal(a.noise, other.noise)


def test_timesteps_are_uniform(stores: dict[str, Path]) -> None:
    drawn = TrainingSet(stores, Training(batch_size=500))
    t = torch.cat([drawn.draw(step, 50).timesteps for step in range(20)])
    counts = torch.bincount(t, minlength=50)
    assert len(counts) == 50
    # expected 200 each; stratification keeps every count closer than independent draws would
    assert (counts - 200).abs().max() < 40


def test_conditions_are_dropped_at_the_shares_asked_for(stores: dict[str, Path]) -> None:
    training = Training(
        batch_size=4000, condition_dropout=0.2, attribute_dropout=0.3, domain_shares={"real": 1, "synthetic": 3}
    )
    condition = TrainingSet(stores, training).draw(0, 50).condition
    dropped = condition.domain == -1
    assert dropped.float().mean() == pytest.approx(0.2, abs=0.03)
    assert condition.values[dropped].isnan().all()
    synthetic = condition.values[condition.domain == 1]
    assert synthetic.isnan().float().mean() == pytest.approx(0.3, abs=0.03)
    assert (condition.domain == 1).float().mean() == pytest.approx(0.8 * 0.75, abs=0.03)
    assert condition.values[condition.domain == 0].isnan().all()


def test_attributes_stay_with_their_images(stores: dict[str, Path]) -> None:
    images = open_dataset(stores["synthetic"])
    training = Training(batch_size=64, condition_dropout=0, attribute_dropout=0, flip=[])
    batch = TrainingSet(stores, training).draw(0, 50)
    pixels, values = images.images(images.ids), images.attribute_values(images.ids)
    rows = (batch.condition.domain == 1).nonzero()[:, 0]
    assert len(rows) > 20
    for row in rows:
        index = int(np.abs(pixels - batch.images[row].numpy()).sum(axis=(1, 2, 3)).argmin())
        np.testing.assert_array_equal(batch.condition.values[row].numpy(), values[index])


def test_held_out_images_are_never_drawn(stores: dict[str, Path]) -> None:
    images = open_dataset(stores["synthetic"])
    held_out = images.images(images.ids[is_held_out(images.ids, 5)])
    batch = TrainingSet(stores, Training(batch_size=400, flip=[])).draw(0, 50)
    distance = np.abs(batch.images.numpy()[:, None] - held_out[None]).sum(axis=(2, 3, 4))
    assert distance.min() > 0
    assert is_held_out([0, 3, 4, 9, 10], 5).tolist() == [False, False, True, True, False]
    assert not is_held_out(range(10), 0).any()


def test_only_listed_domains_are_mirrored(stores: dict[str, Path]) -> None:
    training = Training(batch_size=300, flip=["real"], condition_dropout=0)
    batch = TrainingSet(stores, training).draw(0, 50)
    real = batch.images[batch.condition.domain == 0]
    # the gradients of this data set all rise to the right, so a mirrored one falls
    mirrored = real[:, 0, 4, 0] > real[:, 0, 4, -1]
    assert len(real) > 100
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.2)  # four standard errors of a half of 100
    images = open_dataset(stores["synthetic"])
    originals = images.images(images.ids)
    assert (originals != originals[..., ::-1]).any(axis=(1, 2, 3)).all()
    others = batch.images[batch.condition.domain == 1].numpy()
    assert len(others) > 100
    assert (others[:, None] == originals).all(axis=(2, 3, 4)).any(axis=1).all()


def test_domains_of_different_shapes_are_refused(stores: dict[str, Path], tmp_path: Path, quiet: object) -> None:
    large, config = tmp_path / "large.zarr.zip", SyntheticFaces(kind="synthetic_faces", count=2)
    prepare_dataset(config, ImagesConfig(size=10), large, name="large", runtime=quiet)
    with pytest.raises(
        DataError, match=r"domains have images of different shapes, .*; prepare both by the same `images`"
    ):
        TrainingSet({**stores, "synthetic": large}, Training())


def test_values_a_data_set_lacks_are_unknown(stores: dict[str, Path]) -> None:
    images = open_dataset(stores["synthetic"])
    values = attribute_values(images, [0, 1], ["wings", "hat"])
    assert np.isnan(values[:, 0]).all()
    np.testing.assert_array_equal(values[:, 1], images.attribute_values([0, 1])[:, images.attributes.index("hat")])


def test_domain_without_a_share_is_refused(stores: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="'synthetic' has no share"):
        TrainingSet(stores, Training(domain_shares={"real": 1}))


def test_holdout_that_leaves_nothing_is_refused(stores: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="leaves no image"):
        TrainingSet(stores, Training(holdout=1))
