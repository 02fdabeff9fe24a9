"""A store under construction: whole chunks go straight into its archive, and what is read is what was written."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from diffmech.artifacts import building_store, open_store
from diffmech.attention.archive import SMALL, archiving, covers_chunks, write_region

LARGE = 2 * SMALL  # bytes of a chunk that does not wait in memory


def build(path: Path, *regions: tuple[slice, np.ndarray], shape: tuple[int, ...], chunks: tuple[int, ...]) -> list[str]:
    """Write `regions` of the array `x` of a store and return the names in the directory just before the end."""
    with building_store(path) as directory:
        with archiving(directory) as store:
            group = zarr.create_group(store, attributes={"about": "x"})
            array = group.create_array(
                "x", shape=shape, chunks=chunks, dtype="f4", compressors=None, dimension_names=["a", "b"]
            )
            for region, values in regions:
                write_region(array, (region,), values)
        return sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())


def read(path: Path) -> np.ndarray:
    return open_store(path)["x"].values


def test_whole_chunks_never_touch_the_directory(tmp_path: Path) -> None:
    width = LARGE // 4
    values = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    left = build(tmp_path / "a.zarr.zip", (slice(0, 3), values), shape=(3, width), chunks=(1, width))
    assert left == []
    np.testing.assert_array_equal(read(tmp_path / "a.zarr.zip"), values)


def test_chunks_written_in_parts_wait_in_the_directory_until_they_are_whole(tmp_path: Path) -> None:
    width = LARGE // 8
    values = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    parts = [(slice(a, b), values[a:b]) for a, b in ((0, 2), (2, 3), (3, 4), (4, 5))]
    left = build(tmp_path / "a.zarr.zip", *parts, shape=(5, width), chunks=(2, width))
    assert left == ["x/c/1/0"]  # the last one is short, and whole
    np.testing.assert_array_equal(read(tmp_path / "a.zarr.zip"), values)


def test_small_parts_wait_in_memory(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    parts = [(slice(k, k + 1), values[k : k + 1]) for k in range(6)]
    assert build(tmp_path / "a.zarr.zip", *parts, shape=(6, 2), chunks=(4, 2)) == []
    np.testing.assert_array_equal(read(tmp_path / "a.zarr.zip"), values)


def test_a_part_that_becomes_small_again_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    with building_store(path) as directory, archiving(directory) as store:
        group = zarr.create_group(store)
        array = group.create_array("x", shape=(2, LARGE), chunks=(2, LARGE), dtype="u1", dimension_names=["a", "b"])
        noise = np.random.default_rng(0).integers(0, 256, LARGE, np.uint8)
        for values in (noise, np.ones_like(noise)):  # the second compresses to nearly nothing
            write_region(array, (slice(0, 1),), values[None])
    names = zipfile.ZipFile(path).namelist()
    assert len(names) == len(set(names))
    np.testing.assert_array_equal(read(path), [np.ones(LARGE), np.zeros(LARGE)])


def test_a_pass_that_is_repeated_in_smaller_batches_leaves_each_chunk_once(tmp_path: Path) -> None:
    width, path = LARGE // 8, tmp_path / "a.zarr.zip"
    values = np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)
    whole, again = [(slice(0, 2), values[:2])], [(slice(k, k + 1), values[k : k + 1]) for k in range(4)]
    build(path, *whole, *again, shape=(4, width), chunks=(2, width))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    np.testing.assert_array_equal(read(path), values)


def test_the_same_writes_make_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    stores = [tmp_path / name / "a.zarr.zip" for name in "ab"]
    for path in stores:
        build(path, (slice(0, 2), values[:2]), (slice(2, 4), values[2:]), shape=(4, 3), chunks=(2, 3))
    assert stores[0].read_bytes() == stores[1].read_bytes()


@pytest.mark.parametrize(
    ("region", "whole"),
    [
        ((slice(0, 4),), True),
        ((slice(2, 4), slice(2, 4)), True),
        ((slice(4, 5), slice(0, 4)), True),  # the last chunk is short
        ((slice(0, 3),), False),
        ((slice(1, 4),), False),
        ((slice(0, 5), slice(1, 4)), False),
        ((slice(2, 4), 0), False),
        ((slice(0, 4, 2),), False),
        ((slice(2, 2),), False),
        ((1, 0), False),
    ],
)
def test_a_region_is_whole_where_every_chunk_it_touches_lies_in_it(
    region: tuple[slice | int, ...], whole: bool
) -> None:
    assert covers_chunks(region, shape=(5, 4), chunks=(2, 2)) is whole
