"""What lies in a folder of images: the images, what looks like one and is not read, and what else there is. Ours.

Folders are walked by `scan`, once, without decoding or opening a thing; hidden files and folders are left out, links
followed but never in a circle. Only a file with a name that tells nothing is opened, for its first bytes.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmech.data.formats import COMPANIONS, HEAD, SUFFIXES, image_by_content, readable, suffix_of, unread
from diffmech.errors import DataError

logger = logging.getLogger(__name__)
KINDS_NAMED = 8
NO_SUFFIX = "without suffix"


@dataclass(frozen=True)
class Listing:
    """Paths relative to a folder, with slashes and sorted: `images`, and `unread` images with the reason of each.
    `others` counts, by suffix, the files that are no images."""

    images: tuple[str, ...]
    unread: dict[str, str]
    others: dict[str, int]


def list_images(folder: Path, *, without: Path | None = None) -> Listing:
    """Return what lies below `folder`, except below `without`.

    Raises DataError if the folder does not exist, is no folder, holds a folder that cannot be opened, or no image.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {found}; set `path` to the folder that holds the images")
    images, bad, others = [], {}, Counter[str]()
    known = readable()
    try:
        for name, entry in sorted(scan(folder, without=without), key=lambda pair: pair[0]):
            suffix = suffix_of(entry.name)
            if suffix in known:
                images.append(name)
            elif reason := unread(suffix) or _misnamed(entry, suffix):
                bad[name] = reason
            else:
                others[suffix or NO_SUFFIX] += 1
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be opened ({error.strerror}); check your rights"
        ) from error
    if not images:
        raise DataError(
            f"{folder}: holds no images that are read, but {_counted(bad, others)}; looked, also in subfolders, for "
            f"{', '.join(SUFFIXES)}"
        )
    return Listing(tuple(images), bad, dict(others))


def note_what_is_left(folder: Path, listing: Listing) -> None:
    """Log how many files of unusual kinds in `folder` are no images: where some were meant to be, it is seen."""
    usual = (*COMPANIONS, NO_SUFFIX)
    unusual = {suffix: count for suffix, count in listing.others.items() if suffix not in usual}
    if unusual:
        logger.warning(
            "%s: %d images; passed over, as no images by name and content: %s",
            *(folder, len(listing.images), _counted({}, unusual)),
        )


def scan(folder: Path | str, *, without: Path | None = None) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield every file below `folder` with its path relative to it. Raises OSError where a folder cannot be read."""
    excluded = _identity(os.stat(without)) if without is not None and without.is_dir() else None
    yield from _scan(str(folder), "", set() if excluded is None else {excluded})


def may_be_image(name: str) -> bool:
    """Return whether a file of that name is looked at when images are listed."""
    return suffix_of(name) not in COMPANIONS


def _scan(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    here = _identity(os.stat(folder))
    if here in seen:
        return
    seen.add(here)
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inner.append(entry)
            else:
                yield prefix + entry.name, entry
    # in the order of their names, so that it does not depend on the file system which of two links is followed
    for entry in sorted(inner, key=lambda entry: entry.name):
        yield from _scan(entry.path, f"{prefix}{entry.name}/", seen)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _misnamed(entry: "os.DirEntry[str]", suffix: str) -> str | None:
    """Return why a file is not read whose name tells nothing while its content is an image's."""
    if suffix in COMPANIONS or not entry.is_file():
        return None
    with open(entry.path, "rb") as stream:
        kind = image_by_content(stream.read(HEAD))
    told = f"ends in {suffix}" if suffix else "has no suffix"
    return kind and f"is {kind} by its content, but its name {told}; give it the suffix of its kind"


def _counted(bad: dict[str, str], others: dict[str, int]) -> str:
    kinds = Counter(suffix_of(name) or NO_SUFFIX for name in bad) + Counter(others)
    named: Sequence[tuple[str, int]] = kinds.most_common(KINDS_NAMED)
    said = ", ".join(f"{count} {suffix}" for suffix, count in named)
    rest = sum(kinds.values()) - sum(count for _, count in named)
    return (f"{said} and {rest} others" if rest else said) or "nothing else"
