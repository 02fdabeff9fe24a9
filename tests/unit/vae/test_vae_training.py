"""Six families train through the shared loop: killed anywhere to the same bits, and stopped in one line by a NaN."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_vae import LOG_VARIANCE, linear_vae, mixing

from diffmech.errors import DataError, ModelError, StoreError
from diffmech.training.checkpoint import FILE
from diffmech.training.loop import Run
from diffmech.vae.families import ContinuousVae, GridVae, build_vae, continuous
from diffmech.vae.quality import aggregate_deviation, quality
from diffmech.vae.sampler import ArrayImages
from diffmech.vae.stores import RECORD
from diffmech.vae.training import WEIGHTS, VaeRun, read_vae, train_vae

FAMILIES = ("vae", "beta_vae", "factor_vae", "beta_tc_vae", "dip_vae_ii", "vq_vae")
CPU = torch.device("cpu")
DATASET = {"kind": "bars"}


class Dying(ArrayImages):
    """Images whose third batch kills the training."""

    draws = 0

    def sample(self, count, source):
        object.__setattr__(self, "draws", self.draws + 1)
        if self.draws == 4:
            raise KeyboardInterrupt
        return super().sample(count, source)


def train(images, config, folder: Path, runtime, **more) -> Path:
    train_vae(images, config, folder / "vae", folder / "checkpoint", runtime=runtime, dataset=DATASET, **more)
    return folder / "vae"


@pytest.mark.parametrize("kind", FAMILIES)
def test_killed_while_it_trains_every_family_ends_in_the_same_bits(kind, images, settings, runtime, tmp_path):
    config = settings(kind)
    whole = train(images, config, tmp_path / "whole", runtime)
    with pytest.raises(KeyboardInterrupt):
        train(Dying(images.images, images.factors), config, tmp_path / "killed", runtime)
    assert (tmp_path / "killed" / "checkpoint" / FILE).is_file()
    resumed = train(images, config, tmp_path / "killed", runtime)
    assert (whole / WEIGHTS).read_bytes() == (resumed / WEIGHTS).read_bytes()
    assert not (tmp_path / "killed" / "checkpoint").exists()


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_read_is_what_was_trained(kind, images, settings, runtime, tmp_path):
    folder = train(images, settings(kind), tmp_path, runtime)
    vae, record = read_vae(folder, device="cpu"), json.loads((folder / RECORD).read_text())
    assert len(record["history"]) == 5
    assert record["dataset"] == DATASET
    assert record["quality"]["images"] == 1000
    pixels = vae.pixels(vae.reconstruct(torch.from_numpy(images.images[:2])))
    assert pixels.shape == (2, 1, 8, 8)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    if kind == "vq_vae":
        assert record["quality"]["active_units"].startswith("undefined")
    else:
        assert 0 <= record["quality"]["active_units"] <= 3


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_parts_of_a_loss_add_up_and_reach_every_weight(kind, images, settings):
    vae = build_vae((1, 8, 8), settings(kind))
    pixels = torch.from_numpy(images.images[: 8 * vae.batches])
    torch.manual_seed(0)
    found = vae.losses(pixels, size=64)
    told = sum(value for name, value in found.items() if name not in ("loss", "codes_in_use"))
    assert found["loss"].item() == pytest.approx(told.item(), rel=1e-6)
    found["loss"].backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in vae.parameters())


def test_families_of_weight_one_or_none_are_the_plain_vae(images, settings):
    pixels = torch.from_numpy(images.images[:8])

    def loss(kind, **family):
        torch.manual_seed(0)
        return build_vae((1, 8, 8), settings(kind, **family)).losses(pixels, size=64)["loss"].item()

    plain = loss("vae")
    assert loss("beta_vae", beta=1) == plain
    assert loss("beta_tc_vae", beta=1) == plain
    assert loss("dip_vae_ii", diagonal=0, off_diagonal=0) == plain
    torch.manual_seed(0)
    parts = build_vae((1, 8, 8), settings("vae")).losses(pixels, size=64)
    assert loss("beta_vae", beta=3) == pytest.approx(plain + 2 * parts["divergence"].item(), rel=1e-6)


def test_neither_network_of_factor_vae_learns_from_the_loss_of_the_other(images, settings):
    """Without a weight on the total correlation, the encoder's gradient is the plain VAE's; with one, it is not."""

    def gradients(gamma):
        vae = build_vae((1, 8, 8), settings("factor_vae", gamma=gamma))
        torch.manual_seed(0)
        vae.losses(torch.from_numpy(images.images[:16]), size=64)["loss"].backward()
        first = torch.cat([p.grad.flatten() for p in vae.encoder.parameters()])
        return first, torch.cat([p.grad.flatten() for p in vae.discriminator.parameters()])

    plain = build_vae((1, 8, 8), settings("factor_vae"))
    torch.manual_seed(0)
    parts = plain.losses(torch.from_numpy(images.images[:16]), size=64)
    (parts["reconstruction"] + parts["divergence"]).backward()
    alone = torch.cat([p.grad.flatten() for p in plain.encoder.parameters()])
    without, discriminator = gradients(0.0)
    with_it, same = gradients(10.0)
    assert torch.allclose(without, alone, atol=1e-6)
    assert not torch.allclose(with_it, alone, atol=1e-4)
    assert torch.equal(discriminator, same)


@pytest.mark.parametrize("kind", ["vae", "vq_vae"])
def test_training_reconstructs_better_than_the_mean_image(kind, images, settings):
    few = ArrayImages(images.images[[0, 27, 45, 63]], images.factors[:4])
    wider = {"network": settings().network.model_copy(update={"channels": [8, 8], "hidden": 32})}
    run = VaeRun(few, settings(kind, steps=200).model_copy(update=wider), CPU)
    for _ in range(200):
        run.step(1e-2)
        run.progress.step += 1
    found = quality(run.vae.eval(), few.images)
    assert found.reconstruction < 0.5 * found.mean_image


def test_a_loss_that_is_no_number_stops_in_one_line_and_keeps_the_last_checkpoint(
    images, settings, runtime, tmp_path, monkeypatch
):
    config = settings("vae")
    step = Run.step

    def broken(run, rate):
        if run.progress.step == 3:
            with torch.no_grad():
                run.vae.encoder.posterior.bias.fill_(math.nan)
        return step(run, rate)

    monkeypatch.setattr(Run, "step", broken)
    with pytest.raises(ModelError, match=r"the loss is nan at step 4; lower vae\.training\.learning_rate") as caught:
        train(images, config, tmp_path, runtime)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "vae").exists()
    kept = torch.load(tmp_path / "checkpoint" / FILE, weights_only=True)
    assert kept["progress"]["step"] == 3
    assert all(bool(weight.isfinite().all()) for weight in kept["state"]["weights"])
    monkeypatch.setattr(Run, "step", step)
    resumed = train(images, config, tmp_path, runtime)
    assert (resumed / WEIGHTS).read_bytes() == (train(images, config, tmp_path / "new", runtime) / WEIGHTS).read_bytes()


def test_quality_is_what_it_says_it_is(images, settings):
    vae = build_vae((1, 8, 8), settings("vae")).eval()
    with torch.no_grad():
        vae.encoder.posterior.weight[1].fill_(0)  # the mean of the second latent is the same for every image
        found = quality(vae, images.images)
        mean, log_variance = vae.encode(torch.from_numpy(images.images))
    chances = images.images.mean(0)
    nats = -(images.images * np.log(chances) + (1 - images.images) * np.log(1 - chances)).sum((1, 2, 3)).mean()
    assert found.mean_image == pytest.approx(nats, rel=1e-5)
    assert found.variances == pytest.approx(np.var(mean.numpy(), axis=0), abs=1e-6)
    assert found.active == [variance > 0.01 for variance in found.variances]
    assert not found.active[1]
    spread = np.sqrt(np.var(mean.numpy(), axis=0) + np.exp(log_variance.numpy()).mean(0))
    assert aggregate_deviation(mean, log_variance).numpy() == pytest.approx(spread, rel=1e-5)


def test_the_bound_is_at_draws_of_the_posterior():
    """Where a linear decoder is right at the mean, draws cost half the posterior's variance times the squared lengths
    of its columns more, in units of the variance of a pixel."""
    vae = linear_vae()
    with torch.no_grad():
        vae.encoder.posterior.weight.zero_()  # the same posterior for every image
        image = vae.reconstruct(torch.zeros(1, 1, 8, 8))
        mean = vae.encode(image)[0].double()
    found = quality(vae, image.expand(4000, -1, -1, -1).numpy())
    variance = math.exp(LOG_VARIANCE)
    divergence = float((mean.square() + variance - 1 - LOG_VARIANCE).sum() / 2)
    dearer = variance * float(mixing().square().sum()) / (2 * vae.config.network.sigma**2)
    error = math.sqrt(2 / 4000) * dearer  # at most, that of a single chi-square
    assert found.bound - found.reconstruction - divergence == pytest.approx(dearer, abs=4 * error)


def test_the_bound_of_a_vq_vae_pays_for_every_place_of_its_grid(images, settings):
    vae = build_vae((1, 8, 8), settings("vq_vae", codes=4)).eval()
    found = quality(vae, images.images)
    assert found.bound - found.reconstruction == pytest.approx(2 * 2 * math.log(4))
    assert found.active is None
    assert 1 <= found.codes_in_use <= 4


def test_gaussian_pixels_are_drawn_as_decoded(images, settings):
    vae = build_vae((1, 8, 8), settings("vae", likelihood="gaussian")).eval()
    decoded = vae.reconstruct(torch.from_numpy(images.images[:2]))
    assert vae.pixels(decoded) is decoded
    assert quality(vae, images.images).mean_image > 0


def test_measures_of_single_latents_are_refused_for_a_grid_of_codes(settings):
    vae = build_vae((1, 8, 8), settings("vq_vae"))
    assert isinstance(vae, GridVae)
    with pytest.raises(ModelError, match="DCI is undefined for a VQ-VAE: its latent is a grid of numbers of codes"):
        continuous(vae, "DCI")
    assert isinstance(continuous(build_vae((1, 8, 8), settings("vae")), "DCI"), ContinuousVae)


def test_images_that_cannot_be_halved_so_often_are_refused(settings):
    with pytest.raises(ModelError, match="images of 8 x 10 do not halve 2 times; give images whose sides"):
        build_vae((1, 8, 10), settings("vae"))


def test_images_that_are_none_are_refused(images, settings, runtime, tmp_path):
    with pytest.raises(DataError, match=r"pixels range from -1 to 1; a VAE expects them in \[0, 1\]"):
        ArrayImages(2 * images.images - 1, images.factors)
    with pytest.raises(DataError, match="do not belong together; give"):
        ArrayImages(images.images, images.factors[:-1])
    for none in (images.images[:0], np.zeros((0, 1, 8, 8)), images.images[:, :0]):
        with pytest.raises(DataError, match=r"have no pixels, so none can be drawn; give an image or more"):
            ArrayImages(none, images.factors[: len(none)])

    class Short(ArrayImages):
        def sample(self, count, source):
            drawn, factors = super().sample(count, source)
            return drawn[:, :, :-1], factors

    with pytest.raises(DataError, match=r"the data set drew images of shape \(8, 1, 7, 8\); expected \(8, 1, 8, 8\)"):
        train(Short(images.images, images.factors), settings("vae"), tmp_path, runtime)


def test_a_vae_that_is_not_whole_is_named(images, settings, runtime, tmp_path):
    folder = train(images, settings("vae"), tmp_path, runtime)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(StoreError, match=r"holds no vae \(.*\); delete it and let the workflow make it anew"):
        read_vae(folder)
    (folder / RECORD).write_text("{}")
    with pytest.raises(StoreError, match=r"holds no whole VAE .* delete it and let the workflow train it anew"):
        read_vae(folder)
