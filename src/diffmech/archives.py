"""Reading the archive of a store so that a byte that changed is named before its numbers are used. Ours.

Each chunk is read whole, and `zipfile` then compares its CRC-32 with the one beside it: what is read is checked, and
nothing else is. That says nothing of the list of the entries at the end, by which chunks are found: one whose name
changed there would be taken for a chunk that was never written, which stands for zeros. So opening a store compares
that list with the head that each entry also has of its own, and sees that the entries lie end to end.
"""

import os
import zipfile
from pathlib import Path

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ZipStore

from diffmech.errors import DAMAGED, StoreError
from diffmech.verify import HEAD, escapes

_UTF8 = 0x800  # the one flag that a store may have: a name beyond ASCII


class StoreArchive(ZipStore):
    """The archive of a store, open for reading. StoreError where an entry is not what was written."""

    def __init__(self, path: Path) -> None:
        """Open the archive at `path`. Raises StoreError where it is not whole."""
        super().__init__(path, mode="r")
        self._sync_open()

    def _sync_open(self) -> None:
        try:
            super()._sync_open()
            check_entries(self._zf)
        except (*DAMAGED, OSError) as error:
            if self._is_open:
                self._zf.close()
            raise StoreError(
                f"{self.path}: is not a whole store ({error}); delete it and let the workflow make it anew"
            ) from error

    def _get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            content = self._zf.read(key)  # whole, also where a part is asked for: the CRC-32 is that of all of it
        except KeyError:
            return None
        except (*DAMAGED, OSError) as error:
            raise StoreError(
                f"{self.path}: its entry {key} is damaged ({error}); delete the store and have it made anew"
            ) from error
        return prototype.buffer.from_bytes(content[_asked(byte_range)])


def _asked(byte_range: ByteRequest | None) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(-byte_range.suffix, None) if byte_range.suffix else slice(0, 0)
    return slice(None)


def check_entries(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile unless the entries of an uncompressed archive lie end to end, each as the list at the end says.

    A single byte that changed in that list or in the head of an entry is found. The content is not read.
    """
    assert archive.fp is not None
    file, end = archive.fp.fileno(), 0
    for entry in sorted(archive.infolist(), key=lambda each: each.header_offset):
        # A store is read where it is, never unpacked, and the rows of conditions have a colon in their names.
        if escapes(entry.filename.replace(":", "")):
            raise zipfile.BadZipFile(f"the entry {entry.filename!r} has a path out of it")
        name = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
        head = os.pread(file, HEAD.size + len(name), entry.header_offset)
        if len(head) < HEAD.size:
            raise zipfile.BadZipFile(f"the entry {entry.filename} lies beyond its end")
        _, _, flags, method, _, _, crc, _, _, name_length, extra = HEAD.unpack_from(head)
        if (
            entry.header_offset != end
            or head[HEAD.size :] != name
            or (flags, method, crc, name_length) != (entry.flag_bits, zipfile.ZIP_STORED, entry.CRC, len(name))
            or entry.flag_bits not in (0, _UTF8)
            or entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
        ):
            raise zipfile.BadZipFile(f"the entry {entry.filename} is not where or what its list says")
        end += HEAD.size + name_length + extra + entry.compress_size
    if end != archive.start_dir:
        raise zipfile.BadZipFile("entries are missing from its list")
