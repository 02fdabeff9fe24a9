"""Denoisers at full width with random weights, made where they are to run: those of Stable Diffusion 1.5, SDXL, 3 and
Flux, the latter two as a few blocks."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
from rows import LOUDNESS, Subject
from torch import Tensor, nn

from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import find_sites

TEXT = {"SD-1.5": 77, "SDXL": 77, "SD3 block": 333, "Flux blocks": 512}

SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,  # by an old mistake of diffusers the number of heads
    "cross_attention_dim": 768,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,  # the last block of SD3 does not go on with its text, the first does
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 56, 56),
}
# For a trial on a CPU: the same classes with a few channels.
SMALL: dict[str, dict[str, Any]] = {
    "SD-1.5": {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 32}
    | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2}
    | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
    "SDXL": {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 32}
    | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": (2, 4)}
    | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2)}
    | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 68},
    "SD3 block": {"num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": 32}
    | {"caption_projection_dim": 32, "pooled_projection_dim": 32},
    "Flux blocks": {"num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": 32}
    | {"pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "SD3 block": ("SD3Transformer2DModel", SD3),
    "Flux blocks": ("FluxTransformer2DModel", FLUX),
    "SD-1.5": ("UNet2DConditionModel", SD15),
    "SDXL": ("UNet2DConditionModel", SDXL),
}


@dataclass(frozen=True)
class Case:
    """One row of the table: a model, the side of its latents in pixels, and the images of a batch."""

    model: str
    side: int
    batch: int

    @property
    def tokens(self) -> int:
        """Image tokens of the largest site."""
        halved = self.model in ("SD3 block", "Flux blocks", "SDXL")
        return (self.side // 2 if halved else self.side) ** 2

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.model}, {self.side} x {self.side} latents, {self.tokens} tokens, batch {self.batch}"


def cases(*, small: bool) -> list[Case]:
    """Return all rows, those that take the least time first."""
    sides, batches = ((8,), (1,)) if small else ((64, 128), (1, 8))
    order = list(MODELS)
    every = [Case(model, side, batch) for model in order for side in sides for batch in batches]
    return sorted(every, key=lambda case: (case.side**2 * case.batch, order.index(case.model)))


@cache
def model(name: str, *, device: str, dtype: torch.dtype, small: bool) -> nn.Module:
    """Return a model with random weights that were drawn on `device`; the next call gets the same one."""
    kind, shape = MODELS[name]
    torch.manual_seed(0)
    with torch.device(device):
        found: nn.Module = getattr(diffusers, kind)(**shape | (SMALL[name] if small else {}))
    found = found.to(device, dtype).eval().requires_grad_(False)
    for site in find_sites(found):
        # Random projections make attention almost uniform.
        for projection in ("to_q", "add_q_proj"):
            layer = getattr(found.get_submodule(site.module_path), projection, None)
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(LOUDNESS)
    return found


def subject(case: Case, *, device: str, dtype: torch.dtype, small: bool) -> Subject:
    """Return the model of a row with inputs."""
    network = model(case.model, device=device, dtype=dtype, small=small)
    config, batch, text = network.config, case.batch, TEXT[case.model]
    torch.manual_seed(case.side + batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    side, patches = case.side, case.side // 2
    step = torch.full((batch,), 500, device=device)
    if case.model.startswith("SD3"):
        inputs = {"hidden_states": draw(batch, 16, side, side), "timestep": step}
        ranges = TokenRanges((0, patches**2), (patches**2, patches**2 + text))
    elif case.model.startswith("Flux"):
        places = torch.zeros(patches, patches, 3, device=device, dtype=dtype)
        places[..., 1] += torch.arange(patches, device=device, dtype=dtype)[:, None]
        places[..., 2] += torch.arange(patches, device=device, dtype=dtype)
        inputs = {"hidden_states": draw(batch, patches**2, 64), "timestep": step.to(dtype) / 1000}
        inputs |= {"img_ids": places.flatten(0, 1), "txt_ids": torch.zeros(text, 3, device=device, dtype=dtype)}
        ranges = TokenRanges((text, text + patches**2), (0, text))
    else:
        inputs = {"sample": draw(batch, 4, side, side), "timestep": step}
        inputs["encoder_hidden_states"] = draw(batch, text, config["cross_attention_dim"])
        if case.model == "SDXL":
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            numbers = torch.full((batch, 6), 1024.0, device=device, dtype=dtype)
            inputs["added_cond_kwargs"] = {"text_embeds": draw(batch, pooled), "time_ids": numbers}
        return Subject(network, inputs, batch)
    inputs["encoder_hidden_states"] = draw(batch, text, config["joint_attention_dim"])
    inputs["pooled_projections"] = draw(batch, config["pooled_projection_dim"])
    return Subject(network, inputs, batch, ranges)
