"""Writing in a thread changes when things are written, not what: bounded, in order, and its errors are not lost."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tiny_captures import RUNTIME

from diffmech.attention.archive import write_region
from diffmech.attention.capture import capture_attention
from diffmech.attention.writing import writing
from diffmech.config.study import CaptureConfig
from diffmech.errors import StoreError

MakeLatents = Callable[..., Path]


class Slow:
    """An array that takes its time, or fails, or waits to be let go on."""

    def __init__(self, *, gate: threading.Event | None = None, error: Exception | None = None) -> None:
        self.gate, self.error = gate, error
        self.written: list[tuple[object, float]] = []
        self.thread: threading.Thread | None = None

    def __setitem__(self, region: object, values: np.ndarray) -> None:
        self.thread = threading.current_thread()
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.written.append((region, float(values[0])))


def block(value: float, kilobytes: int = 1) -> np.ndarray:
    return np.full(1024 * kilobytes // 8, value)


def test_everything_is_written_in_order_by_another_thread() -> None:
    array = Slow()
    with writing() as write:
        for index in range(100):
            write(array, (index,), block(index))
    assert array.written == [((index,), index) for index in range(100)]
    assert array.thread is not threading.current_thread()
    assert not array.thread.is_alive()


def test_whoever_computes_faster_than_the_disk_writes_waits() -> None:
    gate, entered = threading.Event(), []
    array = Slow(gate=gate)

    def compute() -> None:
        with writing(4 * 1024) as write:
            for index in range(8):
                write(array, (index,), block(index))
                entered.append(index)

    thread = threading.Thread(target=compute)
    thread.start()
    deadline = time.monotonic() + 10
    while len(entered) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert entered == [0, 1, 2, 3]  # one being written, three waiting
    gate.set()
    thread.join(10)
    assert [value for _, value in array.written] == list(range(8))


def test_what_is_larger_than_the_queue_passes_alone() -> None:
    array = Slow()
    with writing(1024) as write:
        for index in range(5):
            write(array, (index,), block(index, kilobytes=16))
    assert len(array.written) == 5


def test_an_error_of_the_writer_stops_the_next_write() -> None:
    array = Slow(error=OSError(errno.ENOSPC, "No space left on device"))
    accepted = 0
    with pytest.raises(OSError, match="No space left"), writing(2 * 1024) as write:
        for index in range(1000):
            write(array, (index,), block(index))
            accepted += 1
    assert accepted <= 3
    assert not array.thread.is_alive()


def test_an_error_in_the_last_write_is_raised_at_the_end() -> None:
    array = Slow(error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"), writing() as write:
        write(array, (0,), block(0))


def test_an_error_of_the_computation_drops_what_waits() -> None:
    gate = threading.Event()
    array = Slow(gate=gate)
    with pytest.raises(ValueError, match="not finite"), writing() as write:
        for index in range(50):
            write(array, (index,), block(index))
        while array.thread is None:  # the thread has begun with the first
            time.sleep(0.001)
        threading.Timer(0.05, gate.set).start()
        raise ValueError("not finite")
    assert len(array.written) <= 1
    assert not array.thread.is_alive()


def test_a_store_is_the_same_bytes_with_and_without_the_thread(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, config = latents(), CaptureConfig(keep_maps=3, keep_factors=6)
    one, other = tmp_path / "thread" / path.name, tmp_path / "none" / path.name
    capture_attention(path, model_json, one, capture=config, runtime=RUNTIME)

    @contextmanager
    def at_once() -> Iterator[Callable[..., None]]:
        yield lambda array, region, values: write_region(array, region, values)

    monkeypatch.setattr("diffmech.attention.capture.writing", at_once)
    capture_attention(path, model_json, other, capture=config, runtime=RUNTIME)
    assert one.read_bytes() == other.read_bytes()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = zarr.Array.__setitem__

    def full(array: zarr.Array, *args: Any) -> None:
        if threading.current_thread().name == "attention-writer":  # not yet when the store is laid out
            raise OSError(errno.ENOSPC, "No space left on device")
        write(array, *args)

    monkeypatch.setattr("zarr.Array.__setitem__", full)
    monkeypatch.setattr("diffmech.attention.compression.encoded_bytes", lambda values, codec: values.nbytes)
    output = tmp_path / "out" / "a.zarr.zip"
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: cannot be written \(No space left on device\)") as error:
        capture_attention(latents(), model_json, output, capture=CaptureConfig(), runtime=RUNTIME)
    assert "\n" not in str(error.value)
    assert list(output.parent.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "attention-writer"]
