"""Checking a packed study: `python -m diffmech.verify FILE`, or this file alone, wherever there is Python. Ours.

A package is an RO-Crate 1.1 in a zip archive with a list of the SHA-256 of everything in it. Whatever is not as that
list says is named in one line each, and the exit code is 1: a file that changed, is missing or was added, a name that
would lead out of a folder, a member that would unpack to much more than it is. Nothing is unpacked to disk, and nothing
but Python's own library is used. A list that was made anew beside other files is not found out: compare its SHA-256,
which is printed, with the one that whoever packed the study tells.
"""

import argparse
import hashlib
import json
import lzma
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest-sha256.txt"
METADATA = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
RATIO, ALWAYS = 200, 1 << 20  # a member may unpack to so many times its size; smaller ones to anything
MOST_TEXT = 256 << 20  # bytes of the list, and of the metadata
# What zipfile raises of an archive that changed or was cut. The library has its own list: this file stands alone.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    lzma.LZMAError,
    RuntimeError,
)
# The head of a member: signature, version, flags, method, time, date, CRC-32, two sizes, lengths of name and extra.
HEAD = struct.Struct("<4s5H3L2H")
END_SIZE = 22  # bytes of the end of the list
DESCRIPTORS = (12, 16, 20, 24)  # bytes behind a member whose size was not known when its head was written
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def problems(path: Path | str) -> Iterator[str]:
    """Yield in one line each what is wrong with the package at `path`; nothing where all is as its list says."""
    try:
        with zipfile.ZipFile(path) as archive:
            unsafe = list(_unsafe(archive))
            yield from unsafe or _contents(archive)
    except OSError as error:
        yield f"cannot be read ({error.strerror or error})"
    except DAMAGED as error:
        yield f"is no whole zip archive ({' '.join(str(error).split())})"


def _unsafe(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield what forbids to look into any member."""
    if archive.comment:
        yield "has a comment, which no package has"
    entries = archive.infolist()
    for name, count in Counter(entry.filename for entry in entries).items():
        if count > 1:
            yield f"{name!r}: is there {count} times"
    end = 0
    gaps: tuple[int, ...] = (0,)
    for entry in sorted(entries, key=lambda each: each.header_offset):
        name = entry.filename
        if escapes(name) or name != entry.orig_filename:
            yield f"{entry.orig_filename!r}: is a path that leads out of a folder"
        elif stat.S_ISLNK(entry.external_attr >> 16) or name.endswith("/"):
            yield f"{name!r}: is no file but a link or a folder"
        elif entry.flag_bits & 0x1:
            yield f"{name!r}: is encrypted"
        elif entry.file_size > max(ALWAYS, RATIO * entry.compress_size):
            yield f"{name!r}: would unpack from {entry.compress_size} to {entry.file_size} bytes"
        elif entry.header_offset < end:
            yield f"{name!r}: lies over another member"
        elif entry.header_offset - end not in gaps:
            yield f"{name!r}: lies behind {entry.header_offset - end} bytes that belong to no member"
        end = entry.header_offset + _head_size(archive, entry) + entry.compress_size
        gaps = DESCRIPTORS if entry.flag_bits & 0x8 else (0,)
    if archive.start_dir - end not in gaps:
        yield f"has {archive.start_dir - end} bytes that belong to no member"
    if _last_bytes(archive)[:4] != b"PK\x05\x06":
        yield "has bytes after its end"


def _head_size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Return the length of the head that a member has beside its entry in the list."""
    assert archive.fp is not None
    archive.fp.seek(entry.header_offset)
    head = archive.fp.read(HEAD.size)
    if len(head) < HEAD.size:
        raise zipfile.BadZipFile(f"{entry.filename!r} lies beyond its end")
    name, extra = HEAD.unpack(head)[-2:]
    return HEAD.size + int(name) + int(extra)


def _last_bytes(archive: zipfile.ZipFile) -> bytes:
    """Return as many bytes as the end of a list takes, of an archive without a comment."""
    assert archive.fp is not None
    archive.fp.seek(-END_SIZE, 2)
    return archive.fp.read()


def escapes(name: str) -> bool:
    """Return whether a member's name is anything but a relative path downwards."""
    parts = name.rstrip("/").split("/")
    return (
        not name
        or any(part in ("", ".", "..") for part in parts)
        or any(sign in name for sign in "\\:\0\n\r")
        or name.startswith("~")
    )


def _contents(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield what is not as the list says."""
    names = [entry.filename for entry in archive.infolist()]
    if MANIFEST not in names:
        yield f"{MANIFEST}: is missing, so that nothing can be compared"
        return
    text, problem = _text(archive, MANIFEST)
    if problem:
        yield problem
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in listed:
            yield f"{MANIFEST}: line {number} is no new SHA-256 and name"
        else:
            listed[match[2]] = match[1]
    for name in sorted(set(listed) - set(names)):
        yield f"{name!r}: is missing"
    for name in sorted(set(names) - set(listed) - {MANIFEST}):
        yield f"{name!r}: was added, {MANIFEST} does not name it"
    intact = True
    for name in sorted(set(names) & set(listed)):
        found, problem = _digest(archive, name)
        if problem or found != listed[name]:
            intact = intact and name != METADATA
            yield problem or f"{name!r}: changed, its SHA-256 is {found[:16]}... and not {listed[name][:16]}..."
    if METADATA not in listed:
        yield f"{METADATA}: is not listed, so this is no RO-Crate"
    elif intact and METADATA in names:
        yield from _described(archive, listed)


def _described(archive: zipfile.ZipFile, listed: dict[str, str]) -> Iterator[str]:
    """Yield what the metadata lack that RO-Crate 1.1 requires, and what they say of files that is not so."""
    text, problem = _text(archive, METADATA)
    try:
        graph: list[dict[str, Any]] = json.loads(text)["@graph"]
        entities = {str(entity["@id"]): entity for entity in graph}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield problem or f"{METADATA}: is no JSON-LD with a @graph ({type(error).__name__})"
        return
    descriptor, root = entities.get(METADATA, {}), entities.get("./", {})
    if descriptor.get("conformsTo") != {"@id": SPECIFICATION} or descriptor.get("about") != {"@id": "./"}:
        yield f"{METADATA}: does not say that it describes ./ by {SPECIFICATION}"
    if lacking := [key for key in ("name", "description", "datePublished", "license", "hasPart") if not root.get(key)]:
        yield f"{METADATA}: its root lacks {', '.join(lacking)}"
    sizes = {entry.filename: str(entry.file_size) for entry in archive.infolist()}
    for name, entity in entities.items():
        if entity.get("@type") != "File":
            continue
        if name not in sizes:
            yield f"{METADATA}: describes {name!r}, which is not there"
        elif entity.get("contentSize") != sizes[name] or entity.get("sha256", listed.get(name)) != listed.get(name):
            yield f"{METADATA}: says another size or SHA-256 of {name!r}"


def _text(archive: zipfile.ZipFile, name: str) -> tuple[str, str]:
    """Return a member as text, and what is wrong with it."""
    if archive.getinfo(name).file_size > MOST_TEXT:
        return "", f"{name}: is larger than {MOST_TEXT} bytes"
    try:
        return archive.read(name).decode("utf-8"), ""
    except DAMAGED as error:
        return "", f"{name}: cannot be read ({' '.join(str(error).split())})"


def _digest(archive: zipfile.ZipFile, name: str) -> tuple[str, str]:
    """Return the SHA-256 of a member, read in pieces, and what is wrong with it."""
    digest = hashlib.sha256()
    try:
        with archive.open(name) as member:
            while piece := member.read(1 << 20):
                digest.update(piece)
    except DAMAGED as error:
        return "", f"{name!r}: changed, it cannot be read ({' '.join(str(error).split())})"
    return digest.hexdigest(), ""


def main(arguments: list[str] | None = None) -> int:
    """Check the package that is named; return 0 where all is as its list says, else 1."""
    parser = argparse.ArgumentParser(prog="python -m diffmech.verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="the package, as `snakemake pack` writes it")
    path = parser.parse_args(arguments).file
    found = 0
    for problem in problems(path):
        found += 1
        print(f"{path}: {problem}")
    if found:
        return 1
    with zipfile.ZipFile(path) as archive:
        content = archive.read(MANIFEST)
    count = len(content.splitlines())
    print(f"{path}: {count} files are as they were packed; SHA-256 of the list {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
