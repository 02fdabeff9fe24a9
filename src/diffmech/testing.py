"""Tiny random models of every family of denoisers, with inputs, for tests of this package and of its plug-ins. Ours.

Each model is built from diffusers' own class, with the shape of a published one and a thousandth of its size, so that
whatever holds for the class is tried: which attention there is, how its tokens are ordered, how its heads are split.

    model = tiny_model("flux")
    output = evaluate(model, example_inputs(model, batch=2))

`assert_same_up_to_rounding` compares what two ways of one computation give, with a tolerance that holds on any machine.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from diffmech.attention.sites import find_sites
from diffmech.randomness import generator
from diffmech.training.seeds import seeded

Inputs = dict[str, Any]

# Text tokens of every example; one at the end is padding where a model takes a mask.
TEXT_TOKENS = 7

# Rows and columns of Flux's packed latents, and frames, rows and columns of Wan's latents, in patches.
FLUX_GRID = (6, 4)
WAN_GRID = (2, 4, 3)

# What two orders of the same sums may differ by after a whole network, in roundings of the largest value. Vector width,
# threads, oneDNN and batch size choose the order. A sum of n products differs by some sqrt(n) roundings: twenty layers
# of up to a hundred products add up to 200. A wrong head, sample or timestep changes values by ten thousand and more.
ROUNDINGS_OF_A_NETWORK = 256

# The same after several passes in a row: a sampler, a gradient, a training.
ROUNDINGS_OF_MANY_PASSES = 1024

# Random projections make attention almost uniform; louder queries make its statistics worth comparing.
LOUDNESS = 4.0

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
}
CONDITIONED_UNET = UNET | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TRANSFORMER: dict[str, Any] = {"num_attention_heads": 2, "in_channels": 4, "num_layers": 2, "sample_size": 16}
SD3 = TRANSFORMER | {
    "patch_size": 2,
    "attention_head_dim": 16,
    "out_channels": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}

# By name, what builds a model.
FAMILIES: dict[str, Callable[[], Any]] = {
    "unet": lambda: diffusers.UNet2DModel(
        **UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ),
    # SD 1.x: attention_head_dim is, by an old mistake, the number of heads.
    "sd1": lambda: diffusers.UNet2DConditionModel(**CONDITIONED_UNET, attention_head_dim=4, cross_attention_dim=24),
    "sd2": lambda: diffusers.UNet2DConditionModel(
        **CONDITIONED_UNET, attention_head_dim=(2, 4), cross_attention_dim=24, use_linear_projection=True
    ),
    "sdxl": lambda: diffusers.UNet2DConditionModel(
        **UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    ),
    "dit": lambda: diffusers.DiTTransformer2DModel(
        **TRANSFORMER, patch_size=2, attention_head_dim=16, out_channels=4, num_embeds_ada_norm=100
    ),
    "pixart": lambda: diffusers.PixArtTransformer2DModel(
        **TRANSFORMER,
        patch_size=2,
        attention_head_dim=16,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=24,
        use_additional_conditions=False,
    ),
    "sd3": lambda: diffusers.SD3Transformer2DModel(**SD3),
    "sd35": lambda: diffusers.SD3Transformer2DModel(**SD3, dual_attention_layers=(0,), qk_norm="rms_norm"),
    "flux": lambda: diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ),
    "sana": lambda: diffusers.SanaTransformer2DModel(
        **TRANSFORMER,
        attention_head_dim=16,
        out_channels=4,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=24,
    ),
    "wan": lambda: diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=24,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ),
    "cogvideox": lambda: diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=24,
        num_layers=2,
        sample_width=8,
        sample_height=6,
        sample_frames=5,
        max_text_seq_length=TEXT_TOKENS,
    ),
}


def tiny_model(family: str, seed: int = 0) -> nn.Module:
    """Return a model of one of `FAMILIES` in evaluation mode, with random weights that depend on `seed` alone."""
    with seeded(seed):
        model: nn.Module = FAMILIES[family]().eval()
    with torch.no_grad():
        for site in find_sites(model):
            module = model.get_submodule(site.module_path)
            for projection in ("to_q", "add_q_proj"):
                if isinstance(getattr(module, projection, None), nn.Linear):
                    getattr(module, projection).weight.mul_(LOUDNESS)
    return model


def example_inputs(model: nn.Module, batch: int = 2, seed: int = 0) -> Inputs:
    """Return arguments for one forward of a model of one of the classes of `FAMILIES`, of `batch` samples.

    They follow the model's own configuration and depend on `seed` alone.
    """
    return _INPUTS[type(model).__name__](_config(model), batch, _Draw(seed, batch))


def evaluate(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the output of one forward, without gradients: `evaluate(model, example_inputs(model))`."""
    with torch.no_grad():
        output: Tensor = model(**inputs, return_dict=False)[0]
    return output


def assert_same_up_to_rounding(
    found: ArrayLike,
    expected: ArrayLike,
    *,
    roundings: float = ROUNDINGS_OF_A_NETWORK,
    scale: float | None = None,
    dtype: str = "float32",
) -> None:
    """Raise AssertionError where `found` differs from `expected` by more than `roundings` roundings.

    One rounding is the machine epsilon of `dtype`, in which the less exact of the two was computed or is stored, times
    `scale`: the largest finite magnitude among the expected values, as a sum's error follows the size of its terms and
    not of its result. For differences of larger values (effects on a loss, of two entropies) `scale` is the size of
    those. What is not finite must stand in the same places, and shapes must be equal.
    """
    ours, theirs = (_float64(values) for values in (found, expected))
    assert ours.shape == theirs.shape, f"shapes differ: {ours.shape} and {theirs.shape}"
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.where(finite, 0, ours), np.where(finite, 0, theirs))
    if scale is None:
        scale = float(np.abs(theirs[finite]).max(initial=0))
    unit = float(torch.finfo(getattr(torch, dtype)).eps) * scale
    difference = np.where(finite, np.abs(ours - np.where(finite, theirs, 0)), 0)
    most = difference.max(initial=0)
    place = np.argwhere(~(difference < most))[:1].tolist()
    assert most <= roundings * unit, (  # not "fail if more": NaN fails
        f"differs by {most:.3g} at {place}: {most / unit if unit else np.inf:.3g} roundings of {scale:.3g}, "
        f"not {roundings:g}"
    )


def example_grid(model: nn.Module) -> tuple[int, ...] | None:
    """Return the grid of image tokens in a transformer's `example_inputs`: (rows, columns), frames first for a video.

    None for a U-Net, whose sites are squares of several sizes.
    """
    kind, config = type(model).__name__, _config(model)
    if kind.startswith("UNet"):
        return None
    if kind in ("FluxTransformer2DModel", "WanTransformer3DModel"):
        return FLUX_GRID if kind == "FluxTransformer2DModel" else WAN_GRID
    if kind == "CogVideoXTransformer3DModel":
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        return frames, config.sample_height // config.patch_size, config.sample_width // config.patch_size
    rows = config.sample_size // config.patch_size
    return (rows, rows + 2) if kind == "SD3Transformer2DModel" else (rows, rows)


def _float64(values: ArrayLike) -> Any:
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def _config(model: nn.Module) -> Any:
    return model.config


class _Draw:
    """Random tensors of one batch; `draw(7, 24)` is (batch, 7, 24)."""

    def __init__(self, seed: int, batch: int) -> None:
        self.generator, self.batch = generator(seed, "example inputs"), batch

    def __call__(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.generator.standard_normal((self.batch, *shape)).astype("float32"))

    def timestep(self) -> Tensor:
        return torch.from_numpy(self.generator.integers(1, 1000, self.batch))


def _unet(config: Any, batch: int, draw: _Draw) -> Inputs:
    return {"sample": draw(config.in_channels, config.sample_size, config.sample_size), "timestep": draw.timestep()}


def _conditioned_unet(config: Any, batch: int, draw: _Draw) -> Inputs:
    inputs = _unet(config, batch, draw) | {"encoder_hidden_states": draw(TEXT_TOKENS, config.cross_attention_dim)}
    if config.addition_embed_type == "text_time":
        text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": draw(text), "time_ids": draw(6).abs() * 100}
    return inputs


def _latents(config: Any, draw: _Draw) -> Inputs:
    latents = draw(config.in_channels, config.sample_size, config.sample_size)
    return {"hidden_states": latents, "timestep": draw.timestep()}


def _dit(config: Any, batch: int, draw: _Draw) -> Inputs:
    return _latents(config, draw) | {"class_labels": torch.arange(batch) % config.num_embeds_ada_norm}


def _captioned(config: Any, batch: int, draw: _Draw) -> Inputs:
    mask = torch.ones(batch, TEXT_TOKENS)
    mask[0, -1] = 0
    text = {"encoder_hidden_states": draw(TEXT_TOKENS, config.caption_channels), "encoder_attention_mask": mask}
    return _latents(config, draw) | text


def _pixart(config: Any, batch: int, draw: _Draw) -> Inputs:
    return _captioned(config, batch, draw) | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _sd3(config: Any, batch: int, draw: _Draw) -> Inputs:
    wide = config.sample_size + 2 * config.patch_size
    return {
        "hidden_states": draw(config.in_channels, config.sample_size, wide),
        "encoder_hidden_states": draw(TEXT_TOKENS, config.joint_attention_dim),
        "pooled_projections": draw(config.pooled_projection_dim),
        "timestep": draw.timestep(),
    }


def _flux(config: Any, batch: int, draw: _Draw) -> Inputs:
    rows, columns = FLUX_GRID
    places = torch.zeros(rows, columns, 3)
    places[..., 1], places[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return {
        "hidden_states": draw(rows * columns, config.in_channels),
        "encoder_hidden_states": draw(TEXT_TOKENS, config.joint_attention_dim),
        "pooled_projections": draw(config.pooled_projection_dim),
        "timestep": draw.timestep() / 1000,
        "guidance": torch.full((batch,), 3.5),
        "img_ids": places.flatten(0, 1),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
    }


def _wan(config: Any, batch: int, draw: _Draw) -> Inputs:
    shape = (patches * size for patches, size in zip(WAN_GRID, config.patch_size, strict=True))
    return {
        "hidden_states": draw(config.in_channels, *shape),
        "encoder_hidden_states": draw(TEXT_TOKENS, config.text_dim),
        "timestep": draw.timestep(),
    }


def _cogvideox(config: Any, batch: int, draw: _Draw) -> Inputs:
    frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    return {
        "hidden_states": draw(frames, config.in_channels, config.sample_height, config.sample_width),
        "encoder_hidden_states": draw(TEXT_TOKENS, config.text_embed_dim),
        "timestep": draw.timestep(),
    }


_INPUTS: dict[str, Callable[[Any, int, _Draw], Inputs]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _conditioned_unet,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "SanaTransformer2DModel": _captioned,
    "WanTransformer3DModel": _wan,
    "CogVideoXTransformer3DModel": _cogvideox,
}
