"""Where memory runs out, the batch is halved, one line says so, and the results are those of small batches."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RUNTIME, Capture

from diffmech.attention.batches import Batches
from diffmech.attention.capture import capture_attention
from diffmech.attention.store import open_attention
from diffmech.config.study import CaptureConfig
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser

MakeLatents = Callable[..., Path]


def fits(most: int, error: Exception) -> Callable[[slice], list[int]]:
    def work(rows: slice) -> list[int]:
        if rows.stop - rows.start > most:
            raise error
        return list(range(rows.start, rows.stop))

    return work


@pytest.mark.parametrize("most", [1, 3, 5, 8, 64])
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "numpy"],
)
def test_every_row_is_done_once_and_in_order(most: int, error: Exception) -> None:
    batches = Batches(20)
    done = batches.run(slice(7, 27), fits(most, error))
    assert [row for rows in done for row in rows] == list(range(7, 27))
    assert batches.size <= max(most, 1)
    assert 2 * batches.size > min(most, 19)


def test_the_batch_stays_small_and_is_told_once_per_halving(caplog: pytest.LogCaptureFixture) -> None:
    batches = Batches(16)
    with caplog.at_level(logging.WARNING):
        for start in (0, 16, 32):
            batches.run(slice(start, start + 16), fits(5, torch.cuda.OutOfMemoryError("out of memory")))
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 16 images per pass; going on with 8",
        "out of memory with 8 images per pass; going on with 4",
    ]


def test_one_image_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(ModelError, match="does not suffice for one image") as error:
        Batches(4).run(slice(0, 4), fits(0, torch.cuda.OutOfMemoryError("out of memory")))
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_full_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Batches(4).run(slice(0, 4), fits(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))


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
            close = 2e-3 if values.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(again[name][variable], values, atol=close, rtol=close)
