"""What the engine is measured on: denoisers of four shapes with inputs, from random weights unless bundled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from diffmech.attention.ranges import TokenRanges

BUNDLED = Path(__file__).parents[2] / "resources/models/faces/unet"

# Random projections make attention almost uniform; louder queries make its entropy and its codecs worth measuring.
LOUDNESS = 4.0


@dataclass(frozen=True)
class Subject:
    """A model with arguments of one forward of `batch` samples; `ranges` tells image from text in joint attention."""

    model: Any  # one of diffusers' models, an nn.Module
    inputs: dict[str, Any]
    batch: int
    ranges: TokenRanges | None = None

    def forward(self) -> Tensor:
        """Return the output of one forward."""
        output: Tensor = self.model(**self.inputs, return_dict=False)[0]
        return output

    def forwards(self, count: int) -> None:
        """Run `count` forwards."""
        for _ in range(count):
            self.forward()


@dataclass(frozen=True)
class Row:
    """One row of the table: `build(side)` makes the subject for latents of `side` x `side` pixels."""

    name: str
    about: str
    build: Callable[[int], Subject]
    side: int
    quick_side: int
    tokens: int  # image tokens of the largest site
    quick_tokens: int


def small_unet(side: int) -> Subject:
    """The bundled denoiser: 3 self sites of 256 tokens and 3 cross sites of 12, 8 heads of 8 channels."""
    model = diffusers.UNet2DConditionModel.from_pretrained(BUNDLED, low_cpu_mem_usage=False)
    batch = 64 if side == 32 else 16
    shape = model.config["in_channels"], 32, 32
    inputs = {
        "sample": torch.randn(batch, *shape),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": torch.randn(batch, 12, model.config["cross_attention_dim"]),
    }
    return Subject(model, inputs, batch)


def sd15(side: int) -> Subject:
    """Stable Diffusion 1.5's upper two levels at half width: 4 heads of 40 and of 80 channels, 77 text tokens."""
    model = diffusers.UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(160, 320),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,  # by an old mistake of diffusers the number of heads
        cross_attention_dim=768,
    )
    inputs = {
        "sample": torch.randn(1, 4, side, side),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 77, 768),
    }
    return Subject(model, inputs, 1)


def sd3(side: int) -> Subject:
    """One block of Stable Diffusion 3 at full width: 24 heads of 64 channels, 333 text tokens."""
    model = diffusers.SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=96,
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, side, side),
        "encoder_hidden_states": torch.randn(1, 333, 4096),
        "pooled_projections": torch.randn(1, 2048),
        "timestep": torch.tensor([500]),
    }
    image = (side // 2) ** 2
    return Subject(model, inputs, 1, TokenRanges((0, image), (image, image + 333)))


def flux(side: int) -> Subject:
    """One double-stream block of Flux with 4 of its 24 heads, of 128 channels, and 512 text tokens."""
    model = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=0,
        attention_head_dim=128,
        num_attention_heads=4,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        axes_dims_rope=(16, 56, 56),
    )
    rows = side // 2
    places = torch.zeros(rows, rows, 3)
    places[..., 1], places[..., 2] = torch.arange(rows)[:, None], torch.arange(rows)
    inputs = {
        "hidden_states": torch.randn(1, rows**2, 64),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.5]),
        "img_ids": places.flatten(0, 1),
        "txt_ids": torch.zeros(512, 3),
    }
    return Subject(model, inputs, 1, TokenRanges((512, 512 + rows**2), (0, 512)))


ROWS = (
    Row("small UNet", "the bundled model, 32 x 32 pixels", small_unet, 32, 31, 256, 256),
    Row("SD-1.5-shaped UNet", "half width, 2 of 4 levels, 1 of 2 layers", sd15, 64, 32, 4096, 1024),
    Row("SD3-shaped block", "full width", sd3, 64, 32, 1024, 256),
    Row("Flux-shaped block", "4 of 24 heads", flux, 128, 64, 4096, 1024),
)


def make(row: Row, *, quick: bool, device: str) -> Subject:
    """Return the subject of a row, the same one in every process."""
    torch.manual_seed(0)
    subject = row.build(row.quick_side if quick else row.side)
    model = subject.model.eval().requires_grad_(False)
    if row.build is not small_unet:
        for module in model.modules():
            for projection in ("to_q", "add_q_proj"):
                if isinstance(getattr(module, projection, None), nn.Linear):
                    getattr(module, projection).weight.mul_(LOUDNESS)
    inputs = {name: value.to(device) for name, value in subject.inputs.items()}
    return Subject(model.to(device), inputs, subject.batch, subject.ranges)
