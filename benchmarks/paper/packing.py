"""What comes back from a run, in a few small files: tables, what the page shows of images and attention, weights.

A study of 2,000 images leaves gigabytes of stores, of which the page shows the first images alone. So tables, logs and
small stores are packed as they are, data sets and attention as excerpts of their first samples, and the weights in
half precision, cut into parts.
"""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import xarray as xr
from safetensors.torch import load_file, save_file

from diffmech.artifacts import open_store, write_store
from diffmech.attention.store import open_attention
from diffmech.config.root import Config

TABLES, EXCERPTS, WEIGHTS = "tables.tar.gz", "excerpts.tar.gz", "weights.tar.gz"
TABLE_SUFFIXES = (".csv", ".json", ".tsv", ".log", ".sha256", ".yaml", ".txt")
SMALL_STORES = ("results/models/*/gallery.zarr.zip", "results/resampling/*/examples.zarr.zip")
PART_BYTES = 15 * 2**20


def pack_tables(work: Path, out: Path) -> None:
    """Pack all tables, logs and times below `work`, as far as they are there."""
    found = [p for p in sorted(work.rglob("*")) if p.suffix in TABLE_SUFFIXES and p.is_file() and not _hidden(p, work)]
    _pack(out / TABLES, work, found)


def pack_excerpts(work: Path, out: Path, config: Config) -> None:
    """Pack the small stores that the page shows, and the first samples of the data sets and of their attention."""
    model, report = config.study.model, config.report
    with tempfile.TemporaryDirectory() as folder:
        excerpts = Path(folder)
        for pattern in SMALL_STORES:
            for store in work.glob(pattern):
                _copy(store, excerpts / store.relative_to(work))
        for dataset in config.study.domains.values():
            name = f"results/datasets/{dataset}.zarr.zip"
            if (work / name).is_file():
                images = open_store(work / name).to_dataset().isel(sample=slice(report.gallery))
                write_store(excerpts / name, _fresh(images))
            shards = sorted((work / f"results/attention/{model}/{dataset}").rglob("*.zarr.zip"))
            if shards:
                tree = open_attention(_first_shards(shards)).isel(sample=slice(report.examples))
                write_store(excerpts / f"results/attention/{model}/{dataset}/first.zarr.zip", _fresh_tree(tree))
        _pack(out / EXCERPTS, excerpts, sorted(excerpts.rglob("*.zarr.zip")))


def pack_weights(work: Path, out: Path, config: Config) -> None:
    """Pack the denoiser as float16, in parts of 15 MiB, where it is there."""
    source = work / "results/models" / config.study.model
    if not (source / "model.json").is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        copied, archive = Path(folder) / source.name, Path(folder) / WEIGHTS
        for path in sorted(source.rglob("*.json")):
            _copy(path, copied / path.relative_to(source))
        for path in sorted(source.rglob("*.safetensors")):
            half = {name: tensor.to(torch.float16) for name, tensor in load_file(path).items()}
            (copied / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            save_file(half, copied / path.relative_to(source), metadata={"format": "pt"})
        _pack(archive, Path(folder), [p for p in sorted(copied.rglob("*")) if p.is_file()])
        content = archive.read_bytes()
    for number, start in enumerate(range(0, len(content), PART_BYTES)):
        (out / f"{WEIGHTS}.{number}").write_bytes(content[start : start + PART_BYTES])


def unpack(packed: Path, work: Path) -> None:
    """Unpack tables and excerpts of `packed` into `work`, laid out as a study lays its results."""
    for name in (TABLES, EXCERPTS):
        if not (packed / name).is_file():
            raise SystemExit(f"{packed / name}: is missing; give the folder that a run of the benchmark wrote")
        with tarfile.open(packed / name) as archive:
            archive.extractall(work, filter="data")


def unpack_weights(packed: Path, directory: Path) -> None:
    """Join the parts of the weights and unpack them into `directory`, as a folder named after the model."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as whole:
        for part in sorted(packed.glob(f"{WEIGHTS}.*")):
            whole.write(part.read_bytes())
        whole.flush()
        with tarfile.open(whole.name) as archive:
            archive.extractall(directory, filter="data")


def _first_shards(stores: list[Path]) -> list[Path]:
    """Return of each block of timesteps the store of the first samples: names of shards sort as their samples."""
    blocks: dict[Path, Path] = {}
    for store in stores:
        blocks.setdefault(store.parent, store)
    return list(blocks.values())


def _fresh(dataset: xr.Dataset) -> xr.Dataset:
    """Return `dataset` in memory, without the chunks that the whole of it was written in."""
    return dataset.load().drop_encoding()


def _fresh_tree(tree: xr.DataTree) -> xr.DataTree:
    return xr.DataTree.from_dict({node.path: _fresh(node.to_dataset(inherit=False)) for node in tree.subtree})


def _pack(archive: Path, root: Path, files: Iterable[Path]) -> None:
    """Write `files` to `archive` under their names below `root`, whole or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}")
    with tarfile.open(temporary, "w:gz", compresslevel=1) as target:
        for path in files:
            # Read at once, since a log may grow meanwhile, and a file that a job makes anew may vanish.
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.relative_to(root).as_posix())
                entry.size, entry.mtime = len(content), path.stat().st_mtime
                target.addfile(entry, io.BytesIO(content))
    os.replace(temporary, archive)


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
