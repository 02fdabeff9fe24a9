"""Where memory runs out, the batch is halved, and one line says so."""

import logging
from collections.abc import Callable

import pytest
import torch

from diffmech.batches import Batches, in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.errors import ModelError


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


@in_smaller_batches
def at_once(most: int, tried: list[int], *, runtime: RuntimeConfig) -> int:
    tried.append(runtime.batch_size)
    fits(most, torch.OutOfMemoryError("CUDA out of memory."))(slice(0, runtime.batch_size))
    return runtime.batch_size


def test_work_is_repeated_with_half_the_batch_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []
    with caplog.at_level(logging.WARNING):
        assert at_once(5, tried, runtime=RuntimeConfig(batch_size=20)) == 5
    assert tried == [20, 10, 5]
    assert caplog.records[0].getMessage() == "out of memory with 20 images per pass; going on with 10"
    with pytest.raises(ModelError, match="does not suffice for one image"):
        at_once(0, tried, runtime=RuntimeConfig(batch_size=3))
    assert tried[3:] == [3, 1]


def test_a_defect_of_repeatable_work_is_met_once() -> None:
    calls: list[int] = []

    @in_smaller_batches
    def broken(*, runtime: RuntimeConfig) -> None:
        calls.append(runtime.batch_size)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        broken(runtime=RuntimeConfig())
    assert len(calls) == 1


def test_a_missing_runtime_is_told_as_python_does() -> None:
    with pytest.raises(TypeError, match="runtime"):
        at_once(1, [])  # type: ignore[call-arg]
