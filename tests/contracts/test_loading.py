"""Weights are loaded in the precision asked for, by a keyword that this diffusers has and does not call deprecated."""

import warnings
from pathlib import Path

import diffusers
import pytest
import torch

from diffmech.models.load import as_dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_come_in_the_precision_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    block = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    kinds = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}
    diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **block, **kinds).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        loaded = diffusers.UNet2DModel.from_pretrained(
            tmp_path, local_files_only=True, low_cpu_mem_usage=False, **as_dtype(dtype)
        )
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
