"""A hundred malformed images and a hundred malformed stores, drawn: one line each, or what is in them."""

import io
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from diffmech.artifacts import open_store, write_store
from diffmech.attention.passes import open_latents
from diffmech.attention.store import open_attention
from diffmech.data.preparation import read_image
from diffmech.data.store import open_dataset
from diffmech.errors import DataError, StoreError

FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "npy")


def garbled(whole: bytes, source: random.Random, count: int) -> Iterator[bytes]:
    """Yield copies that are cut, filled with noise, changed in places, doubled, or begin as something else."""
    for number in range(count):
        place, kind = source.randrange(len(whole)), number % 5
        if kind == 0:
            yield whole[:place]
        elif kind == 1:
            yield whole[:place] + source.randbytes(min(64, len(whole) - place)) + whole[place + 64 :]
        elif kind == 2:
            changed = bytearray(whole)
            for _ in range(source.randrange(1, 20)):
                changed[source.randrange(len(changed))] = source.randrange(256)
            yield bytes(changed)
        elif kind == 3:
            yield whole[: max(1, place // 8)] * 3
        else:
            yield source.choice([b"", b"\0", b"<html>", b"{}", b"PK\x03\x04", b"\x80\x04.", b"\x93NUMPY"]) + whole[8:]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_malformed_image_is_one_line_or_an_image(suffix, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    if suffix == "npy":
        np.save(content, pixels)
    else:
        Image.fromarray(pixels).save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    told, whole = [], content.getvalue()
    # numpy reads the head of an array with Python's own parser, which a broken one can leave in disorder (3.11)
    head = 128 if suffix == "npy" else 0
    for copy in (whole[:head] + rest for rest in garbled(whole[head:], random.Random(suffix), 15)):
        (tmp_path / f"image.{suffix}").write_bytes(copy)
        try:
            found = read_image(tmp_path / f"image.{suffix}")
        except DataError as error:
            told.append(str(error))
        else:
            assert found.ndim == 3
            assert np.isfinite(found).all()
    assert len(told) >= 3
    assert not any("\n" in line for line in told)


@pytest.mark.parametrize("read", [open_store, open_dataset, open_latents, open_attention])
def test_a_malformed_store_is_one_line(read: Callable[[Any], Any], tmp_path):
    data = xr.Dataset({"loss": ("sample", np.arange(40.0)), "x_t": ("sample", np.ones(40))}, {"sample": np.arange(40)})
    write_store(tmp_path / "whole.zarr.zip", data)
    path = tmp_path / "a.zarr.zip"
    for copy in garbled((tmp_path / "whole.zarr.zip").read_bytes(), random.Random(read.__name__), 25):
        path.write_bytes(copy)
        try:
            found = read(path)
            if isinstance(found, xr.DataTree):
                found = found.load()
        except StoreError as error:
            message = str(error)
        else:
            assert read is open_store
            assert found.to_dataset().identical(open_store(tmp_path / "whole.zarr.zip").load().to_dataset())
            continue
        assert "\n" not in message
        assert "a.zarr.zip" in message


@pytest.mark.parametrize("name", ["../../out", "/out", "zarr.json/../../out", "a\\b"])
def test_a_member_of_a_store_whose_path_leads_out_of_it_is_refused(name, tmp_path):
    """Though stores are read where they are, and nothing of them is ever unpacked."""
    write_store(tmp_path / "a.zarr.zip", xr.Dataset({"loss": ("sample", np.ones(3))}))
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is not a whole store \(the entry .* has a path out of it\)"):
        open_store(tmp_path / "a.zarr.zip")
