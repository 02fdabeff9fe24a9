"""A byte that changed in a store or in weights is named before its numbers are used, or changes none of them."""

import io
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from diffmech.archives import StoreArchive, check_entries
from diffmech.artifacts import open_store, write_store
from diffmech.config.models import DenoiserConfig
from diffmech.errors import ModelError, StoreError
from diffmech.models.importing import SHIPPED, import_denoiser
from diffmech.tensors import read_tensors, write_tensors
from diffmech.training.checkpoint import FILE, Progress, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
HEADS = xr.Dataset({"entropy": (("sample", "head"), np.arange(6.0).reshape(3, 2))}, coords={"head": ["h00", "h01"]})
TREE = xr.DataTree.from_dict({"/": xr.Dataset({"loss": ("sample", np.ones(3))}), "/down1.0.self": HEADS})
WEIGHTS = {"first.weight": torch.arange(6.0).reshape(2, 3), "second": torch.tensor([1, 2]), "empty": torch.zeros(0, 4)}


def flips(whole: bytes, count: int, within: range | None = None) -> list[bytes]:
    """Return copies of `whole` with one bit of a byte changed, at places drawn evenly."""
    source, places = random.Random(0), within or range(len(whole))
    step = max(1, len(places) // count)
    copies = []
    for start in range(0, len(places), step):
        place = places[min(start + source.randrange(step), len(places) - 1)]
        changed = bytearray(whole)
        changed[place] ^= 1 << source.randrange(8)
        copies.append(bytes(changed))
    return copies


def named(path: Path, copies: list[bytes], read: Callable[[], Any], same: Callable[[Any], bool]) -> int:
    """Return at how many of the copies `read` raised one line that names the file; at all others, all is as before."""
    told = []
    for copy in copies:
        path.write_bytes(copy)
        try:
            found = read()
        except StoreError as error:
            told.append(str(error))
        else:
            assert same(found)
    assert all(path.name in line and "\n" not in line for line in told)
    return len(told)


@pytest.mark.parametrize("part", ["content", "list"])
def test_any_changed_byte_of_a_store_is_named_or_changes_nothing(part, tmp_path):
    path = tmp_path / "a.zarr.zip"
    write_store(path, TREE)
    whole, before = path.read_bytes(), open_store(path).load()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    within = range(start) if part == "content" else range(start, len(whole))
    copies = flips(whole, 60, within)
    count = named(path, copies, lambda: open_store(path).load(), before.identical)
    assert count > len(copies) / 2  # the rest are times, and versions that nothing reads


def test_a_chunk_that_is_gone_from_the_list_is_not_taken_for_zeros(tmp_path):
    """Zarr stands for a chunk that was never written by its fill value, and the list at the end says which were."""
    path = tmp_path / "a.zarr.zip"
    write_store(path, TREE)
    whole = path.read_bytes()
    place = whole.rindex(b"down1.0.self/entropy/c/0/0") + len(b"down1.0.self/entropy/c/0/")
    path.write_bytes(whole[:place] + b"1" + whole[place + 1 :])
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is not a whole store \(the entry .* is not where or what its"):
        open_store(path)


@pytest.mark.parametrize("keep", [slice(1, None), slice(0, -1), slice(0, 0)])
def test_a_list_without_one_of_its_entries_is_refused(keep, tmp_path):
    path = tmp_path / "a.zarr.zip"
    write_store(path, TREE)
    with zipfile.ZipFile(path) as archive:
        kept = archive.infolist()[keep]
        archive.filelist[:] = kept
        with pytest.raises(zipfile.BadZipFile, match=r"is not where or what|missing from its list"):
            check_entries(archive)


def test_what_is_not_read_is_not_checked(tmp_path):
    """A changed chunk stops who reads it, and nobody else: no archive is read whole to be opened."""
    path = tmp_path / "a.zarr.zip"
    write_store(path, TREE)
    changed = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("down1.0.self/entropy/c/0/0")
        changed[entry.header_offset + 30 + len(entry.filename) + len(entry.extra) + 25] ^= 1
    path.write_bytes(changed)
    tree = open_store(path)
    np.testing.assert_array_equal(tree["loss"].values, np.ones(3))
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: its entry down1\.0\.self/entropy/c/0/0 is damaged"):
        tree["down1.0.self/entropy"].load()
    with pytest.raises(StoreError, match=r"is damaged .*; delete the store and have it made anew"):
        open_store(path, chunks={})["down1.0.self/entropy"].mean().compute()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, b"abcdef"),
        (RangeByteRequest(1, 3), b"bc"),
        (OffsetByteRequest(4), b"ef"),
        (SuffixByteRequest(2), b"ef"),
        (SuffixByteRequest(0), b""),
    ],
)
def test_parts_of_an_entry_are_those_asked_for(asked, expected, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("c", b"abcdef")
    store = StoreArchive(tmp_path / "a.zip")
    assert store._get("c", default_buffer_prototype(), asked).to_bytes() == expected
    assert store._get("d", default_buffer_prototype(), asked) is None


def test_any_changed_byte_of_weights_is_named_or_changes_nothing(tmp_path):
    path = tmp_path / "judge.safetensors"
    write_tensors(path, WEIGHTS, {"accuracy": [0.75], "settings": {"b": 1, "a": None}}, kind="judge")
    whole = path.read_bytes()
    _, about = read_tensors(path, kind="judge")

    def same(found):
        tensors, told = found
        equal = all(torch.equal(tensors[name], tensor) for name, tensor in WEIGHTS.items())
        return equal and {key: told[key] for key in about} == about and set(tensors) == set(WEIGHTS)

    copies = flips(whole, len(whole))
    assert named(path, copies, lambda: read_tensors(path, kind="judge"), same) > 0.9 * len(copies)


def test_a_changed_name_of_the_checksums_is_named_as_well(tmp_path):
    path = tmp_path / "judge.safetensors"
    write_tensors(path, WEIGHTS, {"accuracy": [0.75]}, kind="judge")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"crc32", b"crc33"))
    assert path.read_bytes() != whole
    with pytest.raises(StoreError, match=r"changed since it was written \(CRC"):
        read_tensors(path, kind="judge")


def test_weights_come_back_as_they_were_in_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_tensors(tmp_path / name, WEIGHTS, {"numbers": {1: "one", 10: "ten", 9: "nine"}}, kind="mask")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found, about = read_tensors(tmp_path / "a", kind="mask")
    assert about == {"numbers": {"1": "one", "10": "ten", "9": "nine"}}
    for name, tensor in WEIGHTS.items():
        assert torch.equal(found[name], tensor)


def test_only_the_tensors_that_are_asked_for_are_checked(tmp_path):
    path = tmp_path / "gradients.safetensors"
    write_tensors(path, WEIGHTS, {}, kind="gradients")
    changed = bytearray(path.read_bytes())
    changed[changed.rindex(torch.arange(6.0).numpy().tobytes())] ^= 1
    path.write_bytes(changed)
    found, _ = read_tensors(path, kind="gradients", wanted=lambda name: name == "second")
    assert torch.equal(found["second"], WEIGHTS["second"])
    with pytest.raises(StoreError, match=r"gradients\.safetensors: first\.weight changed since it was written \(CRC"):
        read_tensors(path, kind="gradients")


def test_weights_without_checksums_are_read_as_they_are(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors", {"judge": '{"accuracy": [1.0]}'})
    found, about = read_tensors(tmp_path / "old.safetensors", kind="judge")
    assert torch.equal(found["a"], torch.ones(2))
    assert about == {"accuracy": [1.0]}


def test_a_training_never_goes_on_from_a_changed_checkpoint(tmp_path):
    module = torch.nn.Linear(3, 3)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    save_checkpoint(tmp_path, "key", Progress(step=3), {"all": before}, optimiser)
    whole = (tmp_path / FILE).read_bytes()
    anew = 0
    for copy in flips(whole, 150):
        (tmp_path / FILE).write_bytes(copy)
        state = [torch.zeros_like(parameter) for parameter in before]
        progress, told = load_checkpoint(tmp_path, "key", {"all": state}, optimiser, torch.device("cpu"))
        if progress is None:
            assert "is not a whole checkpoint" in told
            anew += 1
        else:
            assert progress.step == 3
            assert all(map(torch.equal, state, before))
    assert anew > 30
    (tmp_path / FILE).write_bytes(whole)
    assert load_checkpoint(tmp_path, "key", {"all": before}, optimiser, torch.device("cpu"))[0] is not None


def test_bundled_weights_are_compared_with_the_list_that_is_shipped_with_them(tmp_path):
    bundled = tmp_path / "resources" / "models" / "faces"
    shutil.copytree(ROOT / "resources" / "models" / "faces", bundled)
    listed = {line.split("  ")[1] for line in (bundled / SHIPPED).read_text().splitlines()}
    assert listed == {file.relative_to(bundled).as_posix() for file in bundled.rglob("*.safetensors")}
    config = DenoiserConfig(source="bundled", location="faces")
    import_denoiser(config, tmp_path / "model.json", root=tmp_path)
    weights = bundled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(flips(weights.read_bytes(), 1)[0])
    with pytest.raises(ModelError, match=r"model\.safetensors: is not the file that was shipped .* by git checkout"):
        import_denoiser(config, tmp_path / "other.json", root=tmp_path)


def test_an_archive_that_zipfile_reads_and_no_store_is_made_of_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", "{}" * 100)
    (tmp_path / "a.zarr.zip").write_bytes(content.getvalue())
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is not a whole store"):
        open_store(tmp_path / "a.zarr.zip")


def test_an_archive_without_a_hierarchy_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        archive.writestr("notes.txt", "no store")
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: holds no Zarr hierarchy that can be read"):
        open_store(tmp_path / "a.zarr.zip")
