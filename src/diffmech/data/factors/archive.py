"""Arrays in .npz files, read row by row instead of whole. Ours.

What a .npz stores uncompressed is read where it lies. What it compresses has no rows that could be found: it comes as
blocks, in order, and is unpacked once to a temporary file where rows are asked for.
"""

import math
import tempfile
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from diffmech.errors import DAMAGED, DataError

BLOCK_BYTES = 16 << 20  # unpacked at once
UNREADABLE = (*DAMAGED, OSError, tokenize.TokenError)  # the last of numpy, where the head of an array is damaged
_LOCAL_HEADER, _NAME_AT = 30, 26  # of a member, by the specification of ZIP, and where it tells the lengths behind it


class NpzArray:
    """One array of an .npz: `shape`, `dtype`, its rows by number and its blocks in order.

    Raises DataError for a file that is missing, cut off or no .npz, and for an array that is not there, holds objects
    or is stored by columns.
    """

    def __init__(self, path: Path | str, name: str) -> None:
        self.path, self.name = Path(path).expanduser(), name
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file; put the published .npz there")
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if name not in members:
                    there = ", ".join(sorted(members)) or "nothing"
                    raise DataError(f"{self.path}: holds {there} but no array {name!r}; get the published version")
                self._member = members[name]
                with archive.open(self._member) as stream:
                    self.shape, by_columns, self.dtype = _read_header(stream)
                    self._header = stream.tell()
        except UNREADABLE as error:
            raise DataError(
                f"{self.path}: cannot be read as .npz ({error}); it is cut off or damaged, get it anew"
            ) from error
        if by_columns or self.dtype.hasobject or not self.shape:
            raise DataError(f"{self.path}: {name!r} is no plain array of rows ({self.dtype}, shape {self.shape})")
        expected = self._header + math.prod(self.shape) * self.dtype.itemsize
        if self._member.file_size != expected:
            raise DataError(
                f"{self.path}: {name!r} has {self._member.file_size} bytes where its shape {self.shape} needs "
                f"{expected}; the file is damaged, get it anew"
            )
        self._rows: np.ndarray | None = None

    @property
    def compressed(self) -> bool:
        """Whether rows cannot be read where they lie."""
        return self._member.compress_type != zipfile.ZIP_STORED

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows in order, in blocks of up to 16 MiB. Raises DataError where the file turns out damaged."""
        per_row = math.prod(self.shape[1:]) * self.dtype.itemsize
        left, rows = self.shape[0], max(1, BLOCK_BYTES // max(per_row, 1))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as stream:
                stream.read(self._header)
                while left:
                    count = min(rows, left)
                    block = np.frombuffer(stream.read(count * per_row), dtype=self.dtype)
                    yield block.reshape(count, *self.shape[1:])
                    left -= count
                stream.read(1)  # at the end the checksum is compared
        except UNREADABLE as error:
            raise DataError(
                f"{self.path}: {self.name!r} cannot be unpacked ({error}); the file is damaged, get it anew"
            ) from error

    def whole(self) -> np.ndarray:
        """Return all rows at once, of an array that is small."""
        return np.concatenate([*self.blocks(), np.empty((0, *self.shape[1:]), dtype=self.dtype)])

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of `numbers` `(row,)`, in that order."""
        if self._rows is None:
            self._rows = self._unpacked() if self.compressed else self._where_it_lies()
        return np.asarray(self._rows[numbers])

    def _where_it_lies(self) -> np.ndarray:
        with self.path.open("rb") as stream:
            stream.seek(self._member.header_offset + _NAME_AT)
            of_name, of_extra = np.frombuffer(stream.read(4), dtype="<u2").tolist()
        start = self._member.header_offset + _LOCAL_HEADER + of_name + of_extra + self._header
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=start, shape=self.shape)

    def _unpacked(self) -> np.ndarray:
        with tempfile.TemporaryFile() as file:  # the map keeps what is in it
            for block in self.blocks():
                file.write(block.tobytes())
            file.flush()
            return np.memmap(file, dtype=self.dtype, mode="r", shape=self.shape)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether stored by columns, and type of an .npy, and leave the stream behind its header."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def image_rows(array: NpzArray, channels: int) -> tuple[int, int, int]:
    """Return `(y, x, channel)` of an array of images. Raises DataError unless they are uint8 and square, and there are
    some."""
    shape = array.shape if channels == 3 else (*array.shape, 1)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != channels or array.dtype != np.uint8:
        sought = "(image, size, size)" if channels == 1 else f"(image, size, size, {channels})"
        raise DataError(
            f"{array.path}: {array.name!r} is {array.dtype} of shape {array.shape}, expected uint8 {sought}; "
            "get the archive as it was published"
        )
    if not shape[0]:
        raise DataError(
            f"{array.path}: {array.name!r} has no rows, so there is no image to draw; get the whole archive"
        )
    return shape[1], shape[2], shape[3]
