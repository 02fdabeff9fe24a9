"""What the user's own data is like now: a cheap digest of the files behind a data set, which its rule tracks. Ours.

The digest is made of name, size and time of change of every file that may be an image or a mask, and of the table of
labels, whose groups count for nothing, since no image depends on them. A digest that differs runs the data set again;
what lies below runs again where the content of its store differs too. Each folder is walked once per call of snakemake:
the digests are left to the jobs in an environment variable, which a run by itself forgets first.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from diffmech.config.images import AnyDataset, CelebA, HuggingFace, ImageFolder, Prompts
from diffmech.data.listing import may_be_image, scan
from diffmech.errors import DataError

ENVIRONMENT = "DIFFMECH_WATCHED"
_OF_THE_LIBRARY = ("cache-", "tmp")  # files that `datasets` writes beside a data set of its own


def watched(name: str, config: AnyDataset) -> str:
    """Return the digest of what the data set `name` is read from, '' where that is no file of the user's.

    A folder or file that is not there, or cannot be read, is a state like others: the job will say so.
    """
    if not isinstance(config, ImageFolder | CelebA | HuggingFace | Prompts):
        return ""
    return _once(f"{name} {json.dumps(config.model_dump(mode='json'), sort_keys=True)}", lambda: _found(config))


def watched_folder(path: str) -> str:
    """Return the digest of all files below a folder, whatever they hold."""
    folder = Path(path).expanduser()
    return _once(f"folder {folder}", lambda: _files(folder, only_images=False))


def forget_watched() -> None:
    """Forget the digests of an earlier call, so that files are looked at anew."""
    os.environ.pop(ENVIRONMENT, None)


def _once(key: str, find: Callable[[], Iterable[str]]) -> str:
    """Return the digest of what is found, which this call of snakemake looks for once."""
    known: dict[str, str] = json.loads(os.environ.get(ENVIRONMENT, "{}"))
    if key not in known:
        found = list(find())
        known[key] = _digest(found) if found else ""
        os.environ[ENVIRONMENT] = json.dumps(known)
    return known[key]


def _found(config: Any) -> Iterator[str]:
    if isinstance(config, ImageFolder):
        folder, masks = Path(config.path).expanduser(), Path(config.masks).expanduser() if config.masks else None
        yield from _files(folder, without=masks)
        if masks is not None:
            yield from _files(masks)
        if config.labels:
            yield _said_by(Path(config.labels).expanduser(), config.group)
    elif isinstance(config, CelebA):
        root = Path(config.path).expanduser()
        yield from _files(root)
        yield from map(_stated, sorted(root.glob("list_attr_celeba.*")))
    elif isinstance(config, HuggingFace) and Path(config.name).expanduser().is_dir():
        yield from _files(Path(config.name).expanduser(), only_images=False)
    elif isinstance(config, Prompts) and config.file:
        yield _content(Path(config.file).expanduser())


def _files(folder: Path, *, without: Path | None = None, only_images: bool = True) -> Iterator[str]:
    """Yield name, size and time of the files below `folder`, in the order of their names."""
    try:
        found = list(scan(folder, without=without))
    except OSError as error:
        yield f"{folder}: {type(error).__name__}"
        return
    for name, entry in sorted(found, key=lambda pair: pair[0]):
        if may_be_image(entry.name) if only_images else not entry.name.startswith(_OF_THE_LIBRARY):
            try:
                status = entry.stat()
            except OSError as error:
                yield f"{name}: {type(error).__name__}"
            else:
                yield f"{name} {status.st_size} {status.st_mtime_ns}"


def _said_by(table: Path, group: str | None) -> str:
    """Return a digest of what a table of labels says but for the column `group`, of its bytes where there is none."""
    if group is None:  # reading 200,000 rows takes a second
        return _content(table)
    from diffmech.data.labels import read_table

    try:
        read = read_table(table)
    except DataError:
        return _content(table)
    kept = [place for place, name in enumerate(read.columns) if name != group]
    rows = ("\x1f".join([file, *(cells[place].strip() for place in kept)]) for file, (_, cells) in read.rows.items())
    return _digest(["\x1f".join(read.columns[place] for place in kept), read.separator, *sorted(rows)])


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"{path}: {type(error).__name__}"


def _stated(path: Path) -> str:
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
