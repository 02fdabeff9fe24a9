"""Our denoiser: a U-Net (Ronneberger et al. 2015, Ho et al. 2020) with transformer layers, built from diffusers parts.

A level marked in `attention` has one transformer layer per block: with one residual layer per block that is one on the
way down and two on the way up. Each transformer layer has self-attention over pixels and cross-attention to the tokens.
"""

from collections.abc import Sequence
from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from diffmech.config.models import Architecture
from diffmech.errors import ModelError
from diffmech.models.tokens import AttributeTokens
from diffmech.training.seeds import seeded


def build_unet(architecture: Architecture, sample_shape: tuple[int, int, int]) -> UNet2DConditionModel:
    """Return the U-Net for images of `sample_shape` `(channel, y, x)`, with weights from torch's global generator.

    Raises ModelError when the image cannot be halved once per level.
    """
    down = ["CrossAttnDownBlock2D" if attended else "DownBlock2D" for attended in architecture.attention]
    up = ["CrossAttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(architecture.attention)]
    unet = UNet2DConditionModel(
        **_size(architecture, sample_shape),
        down_block_types=tuple(down),
        mid_block_type="UNetMidBlock2DCrossAttn" if architecture.middle_attention else "UNetMidBlock2D",
        up_block_types=tuple(up),
        norm_num_groups=architecture.norm_groups,
        cross_attention_dim=architecture.token_width,
        # diffusers reads this as the number of heads, whatever its name says; count_heads below makes sure.
        attention_head_dim=architecture.heads,
    )
    expected = 2 * architecture.heads * transformer_layers(architecture)
    if count_heads(unet) != expected:
        raise ModelError(
            f"the U-Net was built with {count_heads(unet)} attention heads where {expected} were asked for; "
            "this version of diffusers reads attention_head_dim in another way: install one between 0.34 and 0.42"
        )
    return unet


def build_class_unet(architecture: Architecture, sample_shape: tuple[int, int, int], classes: int) -> UNet2DModel:
    """Return the network that is told one of `classes` classes, or none by the number behind them, as `build_unet`.

    A level marked in `attention` has self-attention behind each residual layer.
    """
    down = ["AttnDownBlock2D" if attended else "DownBlock2D" for attended in architecture.attention]
    up = ["AttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(architecture.attention)]
    levels = zip(architecture.channels, architecture.attention, strict=True)
    attended = next((c for c, a in levels if a), architecture.channels[-1])
    return UNet2DModel(
        **_size(architecture, sample_shape),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        add_attention=architecture.middle_attention,
        norm_num_groups=architecture.norm_groups,
        attention_head_dim=attended // architecture.heads,  # the width of a head, as its name says
        num_class_embeds=classes + 1,
    )


def _size(architecture: Architecture, sample_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return what all of these networks are told of the images and of their own size."""
    channels, height, width = sample_shape
    factor = 2 ** (len(architecture.channels) - 1)
    if height % factor or width % factor:
        raise ModelError(
            f"images of {height} x {width} pixels cannot be halved {len(architecture.channels) - 1} times, once per "
            f"level of architecture.channels {architecture.channels}; give images.size a multiple of {factor}"
        )
    return {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": tuple(architecture.channels),
        "layers_per_block": architecture.layers_per_block,
    }


def transformer_layers(architecture: Architecture) -> int:
    """Return the number of transformer layers; each has one self- and one cross-attention."""
    per_level = 2 * architecture.layers_per_block + 1  # the way up has one residual layer more
    return per_level * sum(architecture.attention) + int(architecture.middle_attention)


def count_heads(model: nn.Module) -> int:
    """Return the number of attention heads of a diffusers model."""
    return sum(module.heads for module in model.modules() if hasattr(module, "to_q") and isinstance(module.heads, int))


def build_scheduler(architecture: Architecture) -> DDPMScheduler:
    """Return the noise schedule: DDPM (Ho et al. 2020), epsilon prediction, samples clipped to [-1, 1]."""
    return DDPMScheduler(
        num_train_timesteps=architecture.timesteps,
        beta_schedule=architecture.beta_schedule,
        prediction_type="epsilon",
        clip_sample=True,
    )


def build_model(
    architecture: Architecture,
    sample_shape: tuple[int, int, int],
    attributes: Sequence[str],
    domains: Sequence[str],
    seed: int,
) -> tuple[UNet2DConditionModel | UNet2DModel, AttributeTokens | None]:
    """Return the U-Net and its tokens with random weights that depend on `seed` alone; told classes it has none."""
    with seeded(seed):
        if architecture.conditioning == "classes":
            return build_class_unet(architecture, sample_shape, len(attributes)), None
        unet = build_unet(architecture, sample_shape)
        tokens = AttributeTokens(list(attributes), list(domains), architecture.token_width)
    return unet, tokens
