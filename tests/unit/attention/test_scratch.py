"""Memory that is used again: who holds an array keeps it, and spare pages are few."""

import gc

import pytest
import torch

from diffmech.attention import scratch as module
from diffmech.attention.scratch import MOST_SPARE, SMALLEST, scratch, scratch_parts, spare_bytes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr(module, "_spare", {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 700, 1025])
def test_it_is_an_ordinary_tensor(rows: int, dtype: torch.dtype) -> None:
    tensor = scratch([rows, 512], dtype, CPU)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((rows, 512), dtype, True)
    tensor.fill_(3)
    assert (tensor == 3).all()


def test_pages_are_used_again_when_no_view_is_left() -> None:
    first = scratch([SMALLEST], torch.float32, CPU)
    address, view = first.data_ptr(), first[5:].numpy()[::2]
    del first
    second = scratch([SMALLEST], torch.float32, CPU)
    assert second.data_ptr() != address
    del view
    # A little shorter, and of another type: the same pages.
    third = scratch([2 * SMALLEST - 7], torch.float16, CPU)
    assert third.data_ptr() == address


def test_arrays_that_are_held_share_nothing() -> None:
    tensors = [scratch([SMALLEST], torch.uint8, CPU).fill_(value) for value in range(20)]
    assert all((tensor == value).all() for value, tensor in enumerate(tensors))


def test_spare_pages_are_given_back_before_many_more_are_asked_for() -> None:
    held = [scratch([MOST_SPARE // 4], torch.uint8, CPU) for _ in range(6)]
    del held
    assert spare_bytes() == MOST_SPARE // 4 * 6
    other = scratch([MOST_SPARE], torch.uint8, CPU)
    assert spare_bytes() == 0
    del other
    assert spare_bytes() == MOST_SPARE


def test_parts_of_a_block_are_apart_and_free_together() -> None:
    wanted = {
        "a": ([3, 5], torch.float16),
        "b": ([SMALLEST], torch.float32),
        "flags": ([7], torch.bool),
        "": ([0, 4], torch.float64),
    }
    parts = scratch_parts(wanted, CPU)
    assert {name: (list(part.shape), part.dtype) for name, part in parts.items()} == wanted
    for value, part in enumerate(parts.values()):
        part.fill_(value % 2)
    assert [part.double().mean().item() for part in parts.values() if part.numel()] == [0, 1, 0]
    address, last = parts["a"].data_ptr(), parts["flags"]
    del parts, part
    assert scratch_parts(wanted, CPU)["a"].data_ptr() != address
    del last
    assert scratch_parts(wanted, CPU)["a"].data_ptr() == address
