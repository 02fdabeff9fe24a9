"""Writing beside computing: one thread writes what the passes give, in the order in which they give it. Ours.

Values wait in a queue of bounded size, so that memory stays bounded where a disk is slower than the model. One thread
in order makes the store the same bytes as if there were none.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from diffmech.attention.archive import Region, write_region

# Enough for a chunk of maps that is being written and one that waits; more were not faster (measured).
QUEUE_BYTES = 8 * 2**20


class _Writer(threading.Thread):
    """Takes (array, region, values) and writes them; the first exception ends it and is given to whoever comes next."""

    def __init__(self, most: int) -> None:
        super().__init__(name="attention-writer", daemon=True)
        self.most = most
        self.waiting: deque[tuple[Any, Region, np.ndarray]] = deque()
        self.held = 0  # bytes waiting or being written
        self.closed = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def put(self, array: Any, region: Region, values: np.ndarray) -> None:
        """Hand over `values` for `array[region]`; wait while the queue is full. They must not be changed afterwards."""
        with self.changed:
            # What alone is larger than the queue is taken when nothing else is held.
            self.changed.wait_for(lambda: self.error or not self.held or self.held + values.nbytes <= self.most)
            self._raise()
            self.waiting.append((array, region, values))
            self.held += values.nbytes
            self.changed.notify_all()

    def run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if not self.waiting:
                    return
                array, region, values = self.waiting.popleft()
            try:
                write_region(array, region, values)
            except BaseException as error:  # told to the thread that computes, which raises it
                with self.changed:
                    self.error = error
                    self.waiting.clear()
                    self.changed.notify_all()
                return
            with self.changed:
                self.held -= values.nbytes
                del values
                self.changed.notify_all()

    def close(self, *, drop: bool) -> None:
        """Wait until everything is written, or only what is being written now (`drop`), and end the thread."""
        with self.changed:
            if drop:
                self.waiting.clear()
            self.closed = True
            self.changed.notify_all()
        self.join()
        if not drop:
            self._raise()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


@contextmanager
def writing(most: int = QUEUE_BYTES) -> Iterator[Any]:
    """Yield `write(array, region, values)`, which hands values over to a thread and returns.

    At most `most` bytes wait at a time; whoever brings more waits. An exception of the thread is raised by the next
    `write` or at the end, where everything is written. An exception of the body drops what still waits.
    """
    writer = _Writer(most)
    writer.start()
    try:
        yield writer.put
    except BaseException:
        writer.close(drop=True)
        raise
    writer.close(drop=False)
