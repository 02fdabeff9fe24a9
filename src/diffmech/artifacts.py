"""How results are written and read: whole or not at all, byte-stable where a table decides something.

A store is a Zarr v3 hierarchy, zipped without compression of its own, and moved into place by one rename. Writing all
of it through a ZipStore would leave duplicate metadata entries; a directory could be seen half-written.
"""

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffmech.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Item = TypeVar("Item")
ABANDONED = 24 * 3600  # seconds after which what another machine began counts as left behind

PACKAGES = ("diffmech", "torch", "diffusers", "numpy", "scipy", "pandas", "scikit-learn", "xarray", "zarr")

# A fixed time stamp makes equal contents equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` on success and is removed on failure.

    StoreError where it cannot be written, and where what is needed meanwhile cannot be read.
    """
    destination = Path(path)
    destination.parent.mkdir(parents=True, exist_ok=True)
    for leftover in destination.parent.glob(f".{glob.escape(destination.name)}.*"):
        if _left_behind(leftover, destination.name):
            shutil.rmtree(leftover, ignore_errors=True)
    folder: Path | None = None
    try:
        prefix = f".{destination.name}.{_this_machine()}-{os.getpid()}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=destination.parent))
        temporary, whole = folder / destination.name, folder / "whole"
        whole.touch()
        yield temporary
        if not whole.exists():  # a part of what was written is gone
            raise FileNotFoundError(errno.ENOENT, "its folder was removed meanwhile", str(folder))
        os.replace(temporary, destination)
    except OSError as error:
        place = destination.absolute()
        about = place if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        hidden = str(place.with_name(f".{place.name}."))
        if about not in (place, place.parent) and not str(about).startswith(hidden):
            raise StoreError(
                f"{error.filename}: cannot be used ({error.strerror}) while {destination} is made; look whether it is "
                "there and may be read"
            ) from error
        raise StoreError(
            f"{destination}: cannot be written ({error.strerror or error}); free disk space, or check your rights"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _this_machine() -> str:
    """Return what tells machines apart, also containers of one host, which count their processes by themselves."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # where there is no /proc
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _left_behind(folder: Path, name: str) -> bool:
    """Return whether a folder of `atomic_path` for `name` is of a process that is no longer at it.

    It is where that process is dead on this machine, or of another one and wrote nothing for a day: a job of a cluster
    goes on for a while after the run that submitted it was killed, beside the one that takes its place. So is what a
    group of jobs made ahead (`diffmech.workflow.together`) after a day; what is named otherwise is somebody else's.
    """
    parts = folder.name.removeprefix(f".{name}.").split(".")
    writer = re.fullmatch(r"([0-9a-f]{12})-(\d{1,9})", parts[0]) if len(parts) == 2 else None
    ahead = len(parts) == 1 and re.fullmatch("[0-9a-f]{32}", parts[0])
    if writer is None and not ahead:
        return False
    try:
        if writer is None or writer[1] != _this_machine():
            return time.time() - max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) > ABANDONED
        os.kill(int(writer[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process; or it ends just now
        return False
    return False


def zip_directory(directory: Path, archive: Path) -> None:
    """Append `directory` to `archive`, uncompressed, in sorted order, with fixed time stamps; what it has, it keeps."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    if not files and archive.is_file():  # not opened for nothing: its whole index would be read back
        return
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as target:
        present = set(target.namelist())
        for file in files:
            name = file.relative_to(directory).as_posix()
            if name not in present:
                with file.open("rb") as source, target.open(archive_entry(name), "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def archive_entry(name: str) -> zipfile.ZipInfo:
    """Return the head of an entry of an archive, with a fixed time stamp: equal contents give equal bytes."""
    return zipfile.ZipInfo(name, date_time=_EPOCH)


def archive_of(directory: Path) -> Path:
    """Return the archive that a directory of `building_store` becomes."""
    return directory.with_suffix(".zip")


@contextmanager
def building_store(path: Path | str) -> Iterator[Path]:
    """Yield an empty directory to build a Zarr hierarchy in; it becomes the store `path` on success."""
    with atomic_path(path) as archive:
        directory = archive.with_suffix(".building")
        directory.mkdir()
        yield directory
        zip_directory(directory, archive)


def write_store(path: Path | str, tree: "xr.Dataset | xr.DataTree", *, encoding: dict[str, Any] | None = None) -> None:
    """Write a dataset or a tree of datasets as one store. `encoding` is xarray's (per group for a tree)."""
    import xarray as xr

    whole = tree.map_over_datasets(portable) if isinstance(tree, xr.DataTree) else portable(tree)
    with building_store(path) as directory:
        whole.to_zarr(directory, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def portable(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return `dataset` with its text as variable-length strings: Zarr v3 specifies no fixed-length ones."""
    import numpy as np

    text = {name: v.astype(np.dtypes.StringDType()) for name, v in dataset.variables.items() if v.dtype.kind == "U"}
    return dataset.assign({n: v for n, v in text.items() if n not in dataset.coords}).assign_coords(
        {n: v for n, v in text.items() if n in dataset.coords}
    )


def open_store(path: Path | str, *, chunks: Any = None) -> "xr.DataTree":
    """Open a store lazily; StoreError if it is missing or not a whole store."""
    import xarray as xr

    from diffmech.archives import StoreArchive

    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path}: no such store; let the workflow make it, or check the path")
    try:
        store = StoreArchive(path)
        return xr.open_datatree(store, engine="zarr", consolidated=False, chunks=chunks)  # type: ignore[arg-type]
    except StoreError:
        raise
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise StoreError(
            f"{path}: holds no Zarr hierarchy that can be read ({error}); delete it and let the workflow make it anew"
        ) from error


def write_csv(path: Path | str, frame: "pd.DataFrame", *, digits: int = 6) -> None:
    """Write a table so that equal numbers give equal bytes: significant `digits`, Unix line ends, no index."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=f"%.{digits}g", lineterminator="\n")


def read_csv(path: Path | str, columns: Iterable[str], *, text: Iterable[str] = ()) -> "pd.DataFrame":
    """Read a table; StoreError names the file where it is missing or broken, or lacks one of `columns`.

    An empty cell is missing, and nothing else is: NA may be the name of a domain. What looks like numbers in the
    columns `text` is text all the same.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise StoreError(f"{path}: cannot be read as a table ({error}); let the workflow make it anew") from error
    if missing := [column for column in columns if column not in table]:
        raise StoreError(
            f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(map(str, table))}; delete it to have "
            "it made anew"
        )
    return table


def write_json(path: Path | str, content: Any) -> None:
    """Write JSON with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def folder_of(path: Path | str) -> Path:
    """Return the folder of a file, also where the file itself is a link into a cache (`snakemake --cache`)."""
    return Path(path).parent.resolve()


def read_json(path: Path | str) -> Any:
    """Read JSON; StoreError names the file where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}); let the workflow make it, or check the path"
        ) from error
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: is not valid JSON ({error}); delete it to have it made anew") from error


def provenance(**extra: Any) -> str:
    """Return, as JSON, the versions that produced an artifact together with `extra` (seeds, parameters, inputs)."""
    return json.dumps({"versions": versions(), **extra}, sort_keys=True)


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of what is in a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what results depend on most, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def progress(items: Iterable[Item], what: str, *, total: int | None = None, show: bool = True) -> Iterable[Item]:
    """Wrap an iterable in a bar with rate and time left; `show=False` iterates silently."""
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, disable=not show, mininterval=1.0, dynamic_ncols=True)
