"""The network has the heads that the configuration asks for."""

import pytest
import torch

from diffmech.config.models import Architecture
from diffmech.errors import ModelError
from diffmech.models.architecture import build_model, build_scheduler, build_unet, count_heads, transformer_layers


def test_default_network_has_three_transformer_layers_of_eight_heads() -> None:
    unet = build_unet(Architecture(), (1, 32, 32))
    attentions = {name: m for name, m in unet.named_modules() if hasattr(m, "to_q")}
    assert len({name.rpartition(".")[0] for name in attentions}) == 3
    assert [m.heads for m in attentions.values()] == [8] * 6
    assert sum(m.is_cross_attention for m in attentions.values()) == 3


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"attention": [True, True]}, 6),
        ({"attention": [False, True], "middle_attention": True}, 4),
        ({"attention": [False, True], "layers_per_block": 2}, 5),
    ],
)
def test_number_of_heads_follows_the_configuration(settings: dict, layers: int) -> None:
    architecture = Architecture(**{"channels": [8, 16], "heads": 2, "norm_groups": 4, "token_width": 8} | settings)
    assert transformer_layers(architecture) == layers
    assert count_heads(build_unet(architecture, (3, 8, 8))) == 2 * 2 * layers


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"images of 30 x 30 pixels cannot be halved 2 times, .*; give .* a multiple of 4"
    ):
        build_unet(Architecture(), (1, 30, 30))


def test_weights_belong_to_the_seed_and_leave_the_global_generator_alone() -> None:
    architecture = Architecture(channels=[8, 16], attention=[False, True], heads=2, norm_groups=4, token_width=8)

    def weights(seed: int) -> torch.Tensor:
        unet, tokens = build_model(architecture, (1, 8, 8), ["hat"], ["real"], seed)
        return torch.cat([p.detach().flatten() for m in (unet, tokens) for p in m.parameters()])

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = weights(0)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_noise_schedule_goes_from_image_to_noise() -> None:
    abar = build_scheduler(Architecture()).alphas_cumprod
    assert len(abar) == 1000
    assert abar[0] > 0.999
    assert abar[-1] < 1e-4
    assert (abar[1:] < abar[:-1]).all()
