"""Training on healthy slices: killed anywhere to the same bits, its epoch chosen without labels of lesions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_slices import discs

from diffmech.anomaly import training as module
from diffmech.anomaly.atlas import healthy_atlas
from diffmech.anomaly.corruption import coarse_noise
from diffmech.anomaly.slices import Slices
from diffmech.anomaly.training import RECORD, WEIGHTS, AnomalyRun, healthy, read_anomaly_vae, train_anomaly_vae
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.anomaly import AnomalyModelConfig
from diffmech.errors import DataError, ModelError, StoreError
from diffmech.training.checkpoint import FILE

RUNTIME = RuntimeConfig(device="cpu", progress=False, checkpoint_seconds=1e-9)


def settings(steps=6, *, network=None, **training) -> AnomalyModelConfig:
    small = {"channels": [8, 8], "heads": 2, "latents": 2, "dropout": 0.2, **(network or {})}
    return AnomalyModelConfig.model_validate(
        {"network": small, "training": {"steps": steps, "batch_size": 4, "candidates": 3, "coarseness": 4, **training}}
    )


def train(folder: Path, config=None, training=None, validation=None) -> Path:
    train_anomaly_vae(
        training or discs(3),
        validation or discs(2, first=3, seed=1),
        config or settings(),
        folder / "model",
        folder / "checkpoint",
        runtime=RUNTIME,
        dataset={"kind": "discs"},
    )
    return folder / "model"


@pytest.mark.parametrize("dies_at", [2, 5])
def test_killed_while_it_trains_it_ends_in_the_same_bits(dies_at, tmp_path, monkeypatch):
    """The best weights so far are part of the checkpoint: one candidate lies before the kill, others after it."""
    whole = train(tmp_path / "whole")
    losses = AnomalyRun.losses

    def dying(self, step):
        if step == dies_at:
            raise KeyboardInterrupt
        return losses(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AnomalyRun, "losses", dying)
        train(tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint" / FILE).is_file()
    resumed = train(tmp_path / "killed")
    assert (whole / WEIGHTS).read_bytes() == (resumed / WEIGHTS).read_bytes()
    records = [json.loads((folder / RECORD).read_text())["validation"] for folder in (whole, resumed)]
    assert records[0] == records[1]
    assert not (tmp_path / "killed" / "checkpoint").exists()


def test_members_of_an_ensemble_differ_and_a_member_is_the_same_each_time(tmp_path):
    first, second = (train(tmp_path / str(number), settings().member(number)) for number in (0, 1))
    again = train(tmp_path / "again", settings().member(0))
    assert (first / WEIGHTS).read_bytes() == (again / WEIGHTS).read_bytes() != (second / WEIGHTS).read_bytes()


def test_a_network_that_is_left_as_it_begins_is_told_the_atlas_and_nothing_else(tmp_path):
    config = settings().untrained(2)
    assert (config.training.steps, config.training.seed) == (0, settings().member(10_002).training.seed)
    folder = train(tmp_path, config)
    record = json.loads((folder / RECORD).read_text())
    assert [(each["step"], each["chosen"]) for each in record["validation"]] == [(0, True)]
    assert np.isfinite(record["validation"][0]["nats"])
    assert record["history"] == []
    begun = AnomalyRun(healthy(discs(3), "training"), healthy(discs(2, first=3, seed=1), "validation"), config)
    left = read_anomaly_vae(folder, device="cpu").state_dict()
    assert all(torch.equal(left[name], weight) for name, weight in begun.vae.state_dict().items())


def scrambled(slices: Slices) -> Slices:
    """The same slices with other contents where there are lesions, and their masks moved."""
    ill = slices.abnormal
    images, lesion = slices.images.copy(), slices.lesion.copy()
    images[ill] = np.random.default_rng(3).random(images[ill].shape, dtype=np.float32)
    lesion[ill] = np.roll(lesion[ill], 1, axis=1) | lesion[ill]
    return replace(slices, images=images, lesion=lesion, kind=np.where(ill, "iso", ""))


def test_slices_with_lesions_have_no_say_in_training_nor_in_the_choice_of_its_epoch(tmp_path):
    plain = train(tmp_path / "plain")
    other = train(tmp_path / "other", training=scrambled(discs(3)), validation=scrambled(discs(2, first=3, seed=1)))
    assert (plain / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


def test_the_weights_kept_are_those_that_healthy_validation_slices_are_likeliest_under(tmp_path, monkeypatch):
    values = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(AnomalyRun, "validation_nats", lambda self: next(values))
    run = AnomalyRun(healthy(discs(3), ""), healthy(discs(2), ""), settings())
    kept = {}
    for step in range(6):
        run.step(1e-3)
        run.progress.step += 1
        kept[step + 1] = [weight.clone() for weight in run.averaged]
    run.take_best_weights()
    assert run.candidates == [2, 4, 6]
    assert all(torch.equal(own, best) for own, best in zip(run.weights, kept[4], strict=True))
    assert [row["chosen"] for row in run.validation_history()] == [False, True, False]


def test_judging_the_weights_leaves_the_training_as_it_was():
    run = AnomalyRun(healthy(discs(3), ""), healthy(discs(2), ""), settings())
    before = [weight.clone() for weight in run.weights]
    first = run.validation_nats()
    assert run.validation_nats() == first
    assert run.vae.training
    assert all(torch.equal(own, other) for own, other in zip(run.weights, before, strict=True))


def test_the_likelihood_judged_is_that_of_scipy_over_brain_pixels():
    from scipy.stats import norm

    normal = healthy(discs(2), "")
    run = AnomalyRun(normal, normal, settings())
    run.vae.eval()
    with torch.no_grad():
        mean, spread = run.vae(torch.from_numpy(normal.images), torch.from_numpy(normal.position).float())
    density = norm.logpdf(normal.images, mean.numpy(), np.exp(spread.numpy() / 2)) + 0.5 * np.log(2 * np.pi)
    assert run.validation_nats() == pytest.approx(-density[normal.brain[:, None]].mean(), rel=1e-5)


def test_beta_warms_up_and_the_loss_is_the_sum_of_its_parts():
    run = AnomalyRun(healthy(discs(3), ""), healthy(discs(2), ""), settings(10, beta=2.0, warm_up=0.5))
    for step, beta in ((0, 0.0), (1, 0.4), (5, 2.0), (9, 2.0)):
        found = {name: value.item() for name, value in run.losses(step).items()}
        assert found["divergence"] > 0
        assert found["loss"] == pytest.approx(found["nats"] + beta * found["divergence"], rel=1e-5)


def test_training_explains_healthy_slices_better_than_a_constant_does(tmp_path):
    config = settings(80, learning_rate=2e-2, network={"dropout": 0.0, "atlas": False}, corruption=0.1)
    run = AnomalyRun(healthy(discs(6), ""), healthy(discs(2, first=8, seed=2), ""), config)
    untrained = run.validation_nats()
    run.finish(tmp_path, "key", RUNTIME)
    run.take_best_weights()
    noise = 0.02  # of the discs: no model explains them better than by their own density
    assert np.log(noise) + 0.5 - 0.1 < run.validation_nats() < untrained - 1


def test_the_atlas_of_a_model_is_that_of_its_healthy_training_slices_and_is_kept_with_it(tmp_path):
    model = read_anomaly_vae(train(tmp_path), device="cpu")
    mean, variance = healthy_atlas(healthy(discs(3), ""), np.array([0.25, np.nan]))
    assert np.allclose(model.atlas[0, [8, -1]].numpy(), mean, atol=1e-6)
    assert np.allclose(model.atlas[1, [8, -1]].exp().numpy(), variance, rtol=1e-4)


def test_a_mirrored_slice_is_compared_with_a_mirrored_atlas(monkeypatch):
    """Where every slice is its atlas, nothing is left to say, mirrored or not."""
    run = AnomalyRun(healthy(discs(3), ""), healthy(discs(2), ""), settings(corruption=0.0, network={"skips": False}))
    slope = torch.linspace(0.2, 0.8, 16).expand(1, 16, 16).contiguous()
    run.images[:] = slope
    run.vae.atlas[0] = slope
    given = []
    encode = run.vae.encode
    monkeypatch.setattr(
        run.vae, "encode", lambda images, guide: given.append(images - guide[0]) or encode(images, guide)
    )
    seen = [run.losses(step) and given[-1].abs().max().item() for step in range(4)]
    assert max(seen) == 0


def test_coarse_noise_has_the_deviation_and_the_size_that_were_asked_for():
    source = torch.Generator().manual_seed(0)
    noise = coarse_noise((400, 1, 32, 32), 0.2, 8, source).numpy()[:, 0]
    assert noise.shape == (400, 32, 32)
    # over all places of a cell the mean variance of linear interpolation is (2/3)^2 of that at its centre
    assert noise.std() == pytest.approx(0.2 * 2 / 3, rel=0.03)
    near, far = ((noise[:, :, :-lag] * noise[:, :, lag:]).mean() / noise.var() for lag in (1, 16))
    assert near > 0.9
    assert abs(far) < 0.05


def test_intact_slices_are_given_where_nothing_is_to_be_taken_away(monkeypatch):
    monkeypatch.setattr(module, "coarse_noise", lambda *_: pytest.fail("noise was drawn"))
    config = settings(network={"skips": False}, corruption=0.0)
    AnomalyRun(healthy(discs(2), ""), healthy(discs(2), ""), config).losses(0)


def test_what_is_read_is_what_was_trained_and_what_is_not_whole_is_named(tmp_path):
    folder = train(tmp_path)
    model = read_anomaly_vae(folder, device="cpu")
    assert not any(each.training for each in model.modules())
    record = json.loads((folder / RECORD).read_text())
    assert record["slices"] == {"training": 9, "validation": 6}
    assert len(record["validation"]) == 3
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:50])
    with pytest.raises(StoreError, match=r"holds no anomaly \("):
        read_anomaly_vae(folder)
    (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a weight that is another, in a whole file
    with pytest.raises(StoreError, match=r"changed since it was written \(CRC-32\)"):
        read_anomaly_vae(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / RECORD).write_text("{}")
    with pytest.raises(StoreError, match="no model of healthy brains can be read there"):
        read_anomaly_vae(folder)


def test_a_patient_in_two_splits_and_patients_without_a_healthy_slice_are_refused(tmp_path):
    with pytest.raises(DataError, match="patient p02 trains the model and also chooses its weights"):
        train(tmp_path, training=discs(3), validation=discs(2, first=2))
    with pytest.raises(DataError, match="slices of the training patients hold a lesion"):
        train(tmp_path, training=discs(2, ill=1.0), validation=discs(2, first=3))


def test_a_loss_that_is_no_number_stops_the_training_and_names_its_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "pixel_nats", lambda images, *_: images * torch.nan)
    with pytest.raises(ModelError, match=r"lower anomaly.training.learning_rate"):
        train(tmp_path)


def test_skips_need_corrupted_slices():
    with pytest.raises(ValueError, match="lets the decoder copy intact slices"):
        settings(corruption=0.0)


def test_ablations_and_autoencoders_change_what_they_say_and_nothing_else():
    whole = settings()
    assert whole.ablated("attention").network == whole.network.model_copy(update={"attention": False})
    blind = whole.ablated("uncertainty").network
    assert (blind.variance, blind.dropout, blind.attention) == (False, 0.0, True)
    plain, denoising = whole.plain_autoencoder(), whole.denoising_autoencoder()
    assert (plain.network.skips, plain.training.corruption, plain.network.gaussian) == (False, 0.0, False)
    assert (denoising.network.skips, denoising.training.corruption) == (True, 0.2)
    assert plain.network.channels == denoising.network.channels == whole.network.channels
