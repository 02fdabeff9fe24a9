"""Effects and mediation on a linear VAE whose mixing is known, and patches that leave nothing behind."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffmech.errors import ModelError
from diffmech.vae.effects import bounded_specificity, clamp, effects, modularity, shift, specificity, swap
from diffmech.vae.families import build_vae
from diffmech.vae.mediation import mediation
from diffmech.vae.networks import layer_names
from diffmech.vae.patching import activations, at_layer, patched

MIXING = torch.tensor([[3.0, 4, 0, 0], [0, 0, 2, 0], [1, 1, 1, 1]]).double()  # (latent, pixel)


def linear(latents: Tensor) -> Tensor:
    return (latents @ MIXING + 0.5).reshape(-1, 1, 2, 2)


def drawn(count: int = 50, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)).double()


NORMS = np.array([5.0, 2.0, 2.0])


def test_effects_of_a_linear_decoder_are_the_lengths_of_its_columns() -> None:
    latents, donors = drawn(), drawn(seed=1)
    shifted = effects(linear, latents, shift(-0.7), batch_size=7)
    assert shifted.strength == pytest.approx(np.tile(0.7 * NORMS, (50, 1)))
    assert shifted.per_pixel == pytest.approx(shifted.strength / 2)
    assert shifted.change == pytest.approx(0.7 * MIXING.numpy())
    clamped = effects(linear, latents, clamp(0.3))
    assert clamped.strength == pytest.approx(NORMS * np.abs(latents.numpy() - 0.3))
    swapped = effects(linear, latents, swap(donors))
    assert swapped.strength == pytest.approx(NORMS * (latents - donors).abs().numpy())


def test_calibrated_effects_do_not_depend_on_the_unit_of_a_latent() -> None:
    unit = torch.tensor([0.1, 5.0, 2.0]).double()
    deviation = torch.tensor([1.0, 0.5, 2.0]).double()
    plain = effects(linear, drawn(), shift(deviation)).strength
    other = effects(lambda z: linear(z * unit), drawn() / unit, shift(deviation / unit)).strength
    assert other == pytest.approx(plain)
    assert plain[0] == pytest.approx(NORMS * deviation.numpy())
    raw = effects(lambda z: linear(z * unit), drawn() / unit, shift(1.0)).strength
    assert raw[0] == pytest.approx(NORMS * unit.numpy())


def test_specificity_of_a_linear_decoder_is_that_of_its_columns() -> None:
    change = effects(linear, drawn(), shift(1.0)).change
    entropy = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    assert bounded_specificity(change) == pytest.approx([1 - entropy / math.log(4), 1, 0])
    assert specificity(change, eps=0.01) == pytest.approx([1 / (entropy + 0.01), 100, 1 / (math.log(4) + 0.01)])
    dead = np.zeros((1, 4))
    assert np.isnan(bounded_specificity(dead)).all()
    assert np.isnan(specificity(dead)).all()
    assert bounded_specificity(np.array([[2.0], [0.0]])).tolist()[0] == 1


def test_specificity_by_the_published_formula_grows_without_end_and_the_bounded_one_does_not() -> None:
    change = np.array([[1.0, 0.0]])
    assert specificity(change, eps=1e-3)[0] == pytest.approx(1e3)
    assert specificity(change, eps=1e-6)[0] == pytest.approx(1e6)
    # all outputs alike: the published one says how many there are
    assert specificity(np.ones((1, 4)))[0] == pytest.approx(1 / math.log(4))
    assert specificity(np.ones((1, 400)))[0] == pytest.approx(1 / math.log(400))
    assert bounded_specificity(np.ones((2, 400))) == pytest.approx([0, 0])


def test_units_that_change_together_are_one_module() -> None:
    changes = np.random.default_rng(0).standard_normal((4000, 2))
    together = np.column_stack([changes[:, 0], -3 * changes[:, 0]])
    assert modularity(together) == (pytest.approx(0), 2)
    apart, units = modularity(np.column_stack([changes, np.ones(4000)]))  # the third never changes differently
    assert units == 2
    assert apart == pytest.approx(1, abs=0.05)
    known = modularity(np.column_stack([changes[:, 0], changes[:, 0], changes[:, 1]]))[0]
    assert known == pytest.approx(1 - 1 / 3, abs=0.03)
    assert math.isnan(modularity(np.ones((10, 3)))[0])


def test_donors_of_another_number_are_refused() -> None:
    with pytest.raises(ModelError, match="values for 50 samples; give as many"):
        effects(linear, drawn(), swap(drawn(49)))


def two_units(coefficients: tuple[float, float, float, float]) -> nn.Sequential:
    """y = a x + b M + c x M + d with the mediator M = 2 x, and a second unit that carries x itself."""
    a, b, c, d = coefficients

    class Mediator(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([2 * x, x], dim=1)

    class Outcome(nn.Module):
        def forward(self, units: Tensor) -> Tensor:
            m, x = units[:, :1], units[:, 1:]
            return a * x + b * m + c * x * m + d

    return nn.Sequential(OrderedDict(mediator=Mediator(), outcome=Outcome()))


def value(output: Tensor) -> Tensor:
    return output[:, 0]


def test_mediation_is_its_closed_form() -> None:
    """Of x from x0 to x1: TE = a dx + b dm + c (x1 m1 - x0 m0), NDE = a dx + c m0 dx, NIE = b dm + c x0 dm."""
    a, b, c, d = 0.5, -1.5, 0.25, 3.0
    network = two_units((a, b, c, d))
    x0, x1 = drawn(20)[:, :1], drawn(20, seed=2)[:, :1]
    found = mediation(network, "mediator", [0], x0, x1, value)
    before, after = x0[:, 0].numpy(), x1[:, 0].numpy()
    dx, dm = after - before, 2 * (after - before)
    assert found.total == pytest.approx(a * dx + b * dm + c * (after * 2 * after - before * 2 * before))
    assert found.direct == pytest.approx(a * dx + c * 2 * before * dx)
    assert found.indirect == pytest.approx(b * dm + c * before * dm)
    assert found.interaction == pytest.approx(c * dx * dm)
    assert found.residual == pytest.approx(np.zeros(20), abs=1e-12)


def test_without_a_mediator_nothing_is_indirect_and_through_all_units_nothing_is_direct() -> None:
    network = two_units((0.5, -1.5, 0.25, 3.0))
    x0, x1 = drawn(8)[:, :1], drawn(8, seed=2)[:, :1]
    none = mediation(network, "mediator", [], x0, x1, value)
    assert (none.indirect == 0).all()
    assert (none.interaction == 0).all()
    assert (none.direct == none.total).all()
    every = mediation(network, "mediator", None, x0, x1, value)
    assert (every.direct == 0).all()
    assert (every.indirect == every.total).all()
    additive = mediation(two_units((0.5, -1.5, 0.0, 3.0)), "mediator", [0], x0, x1, value)
    assert additive.interaction == pytest.approx(np.zeros(8), abs=1e-12)


def test_inputs_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ModelError, match="are no pairs; give one of each for every sample"):
        mediation(two_units((1, 1, 1, 1)), "mediator", [0], drawn(3), drawn(4), value)


@pytest.fixture
def vae(settings):
    vae = build_vae((1, 8, 8), settings("vae")).eval()
    for parameter in vae.parameters():  # as trained ones are laid out
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return vae


def sides(vae, images):
    return {
        "encoder": (vae.encoder, torch.from_numpy(images.images[:6])),
        "decoder": (vae.decoder, drawn(6).float()),
    }


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_patching_with_an_input_s_own_activations_changes_nothing_bit_for_bit(side, vae, images) -> None:
    network, inputs = sides(vae, images)[side]
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with torch.no_grad():
        clean = network(inputs)
    for layer in layer_names(network):
        own = activations(network, layer, inputs)
        for units in (None, [], [0], [own.shape[1] - 1, 0]):
            assert torch.equal(patched(network, layer, inputs, own, units), clean), (layer, units)
    with torch.no_grad():
        assert torch.equal(network(inputs), clean)
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_patching_a_whole_layer_gives_the_output_of_the_other_input(side, vae, images) -> None:
    network, inputs = sides(vae, images)[side]
    others = inputs.roll(1, 0)
    with torch.no_grad():
        expected = network(others)
    for layer in layer_names(network):
        found = patched(network, layer, inputs, activations(network, layer, others))
        assert torch.equal(found, expected), layer
    last = layer_names(network)[-1]
    some = patched(network, last, inputs, activations(network, last, others), [0])
    assert torch.equal(some[:, 0], expected[:, 0])


def test_the_mediated_effects_of_a_network_add_up(vae, images) -> None:
    control, treated = torch.from_numpy(images.images[:8]), torch.from_numpy(images.images[8:16])
    found = mediation(vae.encoder, "conv1", [0, 2], control, treated, lambda encoded: encoded[:, 1])
    assert np.abs(found.residual).max() < 1e-6
    assert np.abs(found.direct).max() > 1e-4
    assert np.abs(found.indirect).max() > 1e-4


def test_a_hook_is_gone_however_its_context_ends(vae, images) -> None:
    network, inputs = sides(vae, images)["encoder"]
    with torch.no_grad():
        clean = network(inputs)
    with pytest.raises(RuntimeError, match="on the way"), at_layer(network, "conv2", torch.zeros_like):
        assert not torch.equal(network(inputs), clean)
        raise RuntimeError("on the way")
    with torch.no_grad():
        assert torch.equal(network(inputs), clean)
    assert all(not module._forward_hooks for module in network.modules())


def test_patches_that_do_not_fit_are_refused_and_leave_nothing(vae, images) -> None:
    network, inputs = sides(vae, images)["encoder"]
    own = activations(network, "conv1", inputs)
    with pytest.raises(ModelError, match="there is no layer 'conv9'; give one of conv1, conv2, hidden, posterior"):
        activations(network, "conv9", inputs)
    with pytest.raises(ModelError, match=r"do not fit layer 'conv1', which gives .* take those of as many inputs"):
        patched(network, "conv1", inputs, own[:3])
    with pytest.raises(ModelError, match="layer 'conv1' has no unit 4, only 0 to 3; give some of these"):
        patched(network, "conv1", inputs, own, [0, 4])
    assert all(not module._forward_hooks for module in network.modules())
