"""Edits are kept, applied, composed in any order, taken back bit for bit, and exported for plain diffusers."""

import itertools

import diffusers
import numpy as np
import pytest
import torch

from diffmech.concepts.groups import TOKENS, parameters, weights
from diffmech.concepts.masks import Mask, applied, compose, export, read_mask, write_mask
from diffmech.errors import ModelError, StoreError
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import drawn_condition

GROUPS = ["feed_forward", "convolution", "conditioning"]


def random_mask(denoiser, seed, factor=0.0, each=20):
    draw = np.random.default_rng(seed)
    indices = {
        weight.name: np.sort(draw.choice(weight.parameter.numel(), min(each, weight.parameter.numel()), replace=False))
        for weight in weights(denoiser, GROUPS)
    }
    return Mask.of(indices, factor, concept=str(seed))


def snapshot(denoiser):
    return {name: values.detach().clone() for name, values in parameters(denoiser).items()}


def test_an_edit_changes_just_its_weights_and_reverts_bit_for_bit(faces):
    before, mask = snapshot(faces), random_mask(faces, 0, 0.5)
    with applied(faces, mask):
        for name, values in snapshot(faces).items():
            expected = before[name].clone().reshape(-1)
            expected[mask.indices.get(name, [])] *= 0.5
            assert torch.equal(values.reshape(-1), expected)
    assert all(torch.equal(values, before[name]) for name, values in snapshot(faces).items())
    with pytest.raises(RuntimeError, match="in the middle"), applied(faces, mask):
        raise RuntimeError("in the middle")
    assert all(torch.equal(values, before[name]) for name, values in snapshot(faces).items())


def test_weights_that_lie_channels_last_are_edited_alike(faces):
    mask = random_mask(faces, 1)
    with applied(faces, mask):
        expected = snapshot(faces)
    with channels_last(faces.module), applied(faces, mask):
        assert all(torch.equal(values, expected[name]) for name, values in snapshot(faces).items())


def test_masks_compose_in_any_order(faces):
    masks = [random_mask(faces, 1, 0.3), random_mask(faces, 1, 0.7), random_mask(faces, 2, 0.9, each=4000)]
    found = []
    for order in itertools.permutations(masks):
        with applied(faces, compose(order)):
            found.append(snapshot(faces))
    assert compose(masks[:2]).count == masks[0].count
    assert all(torch.equal(one[name], found[0][name]) for one in found[1:] for name in one)
    with applied(faces, masks[0]), applied(faces, masks[2]):  # nested, for weights where there is one factor at most
        pass
    assert compose(masks).about == compose(masks[::-1]).about


def test_a_dose_goes_part_of_the_way(faces):
    mask = random_mask(faces, 3)
    name = next(iter(mask.indices))
    own = parameters(faces)[name].detach().reshape(-1)[mask.indices[name]].clone()
    for dose, left in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0)):
        with applied(faces, mask.scaled(dose)):
            assert torch.equal(parameters(faces)[name].reshape(-1)[mask.indices[name]], own * left)


def test_masks_are_kept_with_where_they_came_from(faces, tmp_path):
    mask = random_mask(faces, 4, 0.5)
    for name in ("first", "second"):
        write_mask(mask, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    again = read_mask(tmp_path / "first")
    assert (again.count, again.about) == (mask.count, {"concept": "4"})
    assert all(np.array_equal(again.indices[name], places) for name, places in mask.indices.items())
    assert all(np.array_equal(again.factors[name], factors) for name, factors in mask.factors.items())
    (tmp_path / "odd").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="odd: holds no mask"):
        read_mask(tmp_path / "odd")


def test_a_mask_of_another_model_is_refused(faces, linear):
    before = snapshot(linear)
    with (
        pytest.raises(ModelError, match=r"no weight 'conv_in.weight', which the mask changes; it is of another model"),
        applied(linear, random_mask(faces, 0)),
    ):
        pass
    with (
        pytest.raises(ModelError, match=r"ff\.weight has 16 weights, but the mask changes number 16"),
        applied(linear, Mask.of({"told.weight": np.array([1]), "ff.weight": np.array([16])})),
    ):
        pass
    assert all(torch.equal(values, before[name]) for name, values in snapshot(linear).items())


def test_a_factor_that_overflows_is_refused(linear):
    linear.module.half()
    before = snapshot(linear)
    with (
        pytest.raises(ModelError, match=r"ff\.weight: torch\.float16 cannot hold"),
        applied(linear, Mask.of({"ff.weight": np.array([0])}, 1e9)),
    ):
        pass
    assert all(torch.equal(values, before[name]) for name, values in snapshot(linear).items())


def test_plain_diffusers_loads_an_exported_edit(faces, faces_folder, tmp_path):
    mask = random_mask(faces, 5)
    export(faces, mask, faces_folder, tmp_path / "edited")
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "edited" / "unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "edited" / "scheduler")
    x_t, told = torch.randn(2, 1, 32, 32), drawn_condition(faces, 2, 0)
    with applied(faces, mask), torch.no_grad():
        tokens = faces.tokens(told.domain, told.values)
        expected = faces.predict_noise(x_t, 400, told)
        assert torch.equal(unet(x_t, 400, tokens).sample, expected)
    assert scheduler.config.num_train_timesteps == faces.timesteps
    assert read_mask(tmp_path / "edited" / "edit.safetensors").count == mask.count
    assert any(name.startswith(TOKENS) for name in mask.indices)
