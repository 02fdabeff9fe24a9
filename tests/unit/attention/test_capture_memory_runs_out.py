"""A capture whose memory runs out goes on in smaller batches, with the results of small batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_captures import RUNTIME, Capture

from diffmech.attention.capture import capture_attention
from diffmech.attention.store import open_attention
from diffmech.config.study import CaptureConfig
from diffmech.models.denoiser import Denoiser
from diffmech.testing import assert_same_up_to_rounding

MakeLatents = Callable[..., Path]


def test_a_capture_that_runs_out_of_memory_gives_the_same_store(
    latents: MakeLatents, capture: Capture, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = latents(), tmp_path / "a.zarr.zip"
    whole = open_attention(capture(path, batch_size=5))
    predict = Denoiser.predict_noise

    def scarce(self: Denoiser, x_t: torch.Tensor, *arguments: object) -> torch.Tensor:
        prediction = predict(self, x_t, *arguments)
        if len(x_t) > 2:  # after the pass: its maps are on their way into the store already
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return prediction

    monkeypatch.setattr(Denoiser, "predict_noise", scarce)
    runtime = RUNTIME.model_copy(update={"batch_size": 5})
    capture_attention(path, model_json, output, capture=CaptureConfig(keep_maps=3), runtime=runtime)
    again = open_attention(output)
    for name, site in whole.children.items():
        for variable, values in site.data_vars.items():
            precision = {"dtype": "float16", "roundings": 2} if values.dtype == np.float16 else {}
            scale = max(1, float(np.abs(values).max()))  # position information is the difference of two entropies
            assert_same_up_to_rounding(again[name][variable], values, scale=scale, **precision)
