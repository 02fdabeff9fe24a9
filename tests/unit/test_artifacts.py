"""Results are written whole or not at all, and equal contents are equal bytes."""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffmech.artifacts import atomic_path, open_store, read_json, write_csv, write_json, write_store
from diffmech.errors import StoreError


def small_tree() -> xr.DataTree:
    heads = xr.Dataset({"entropy": (("sample", "head"), np.arange(6.0).reshape(3, 2))}, coords={"head": ["h00", "h01"]})
    return xr.DataTree.from_dict({"/": xr.Dataset({"loss": ("sample", np.ones(3))}), "/down1.0.self": heads})


def test_a_store_gives_back_what_was_written(tmp_path):
    write_store(tmp_path / "a.zarr.zip", small_tree())
    xr.testing.assert_equal(open_store(tmp_path / "a.zarr.zip").load(), small_tree())


def test_equal_contents_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_store(tmp_path / f"{name}.zarr.zip", small_tree())
        write_csv(tmp_path / f"{name}.csv", pd.DataFrame({"x": [0.1 + 0.2, 1e-9]}))
        write_json(tmp_path / f"{name}.json", {"b": 1, "a": 2})
    for suffix in ("zarr.zip", "csv", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_text_is_stored_as_zarr_specifies_it(tmp_path, recwarn):
    write_store(tmp_path / "a.zarr.zip", small_tree())
    assert not [warning for warning in recwarn if "Zarr V3 specification" in str(warning.message)]
    assert open_store(tmp_path / "a.zarr.zip")["down1.0.self"].entropy.sel(head="h01").values.tolist() == [1, 3, 5]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


WRITE = """
import sys
from diffmech.artifacts import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("first, ")
    print("writing", flush=True)
    sys.stdin.readline()
    with temporary.open("a") as file:
        file.write("whole")
"""


def test_two_processes_at_one_path_each_move_a_whole_file_into_place(tmp_path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with atomic_path(path) as temporary:
            temporary.write_text("second")
        assert path.read_text() == "second"
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait() == 0
    assert path.read_text() == "first, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_job_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        other.kill()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".a.txt.git").mkdir()  # somebody else's
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".a.txt.git", "a.txt"]


def test_what_was_written_in_part_after_its_folder_was_removed_does_not_take_the_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with (
        pytest.raises(StoreError, match=r"a\.txt: cannot be written \(its folder was removed meanwhile\)"),
        atomic_path(path) as temporary,
    ):
        shutil.rmtree(temporary.parent)
        temporary.parent.mkdir()
        temporary.write_text("second half")
    assert path.read_text() == "before"


@pytest.mark.parametrize("folder", ["inputs", "outputs"])
def test_an_input_that_is_missing_is_named_and_not_the_output(tmp_path, folder):
    missing = tmp_path / folder / "b.txt"
    with (
        pytest.raises(StoreError, match=r"puts/b\.txt: cannot be used \(No such file .*\) while .*a\.txt is"),
        atomic_path(tmp_path / "outputs" / "a.txt"),
    ):
        missing.read_text()


def test_containers_of_one_host_are_different_machines(tmp_path):
    """Each counts its processes by itself, so that the number of one may be nobody's in another."""
    path = tmp_path / "a.txt"
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no rights to number processes anew")
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with atomic_path(path) as temporary:
            temporary.write_text("second")
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait() == 0
    assert path.read_text() == "first, whole"


def test_a_longer_name_and_an_outer_write_of_the_same_file_are_left_alone(tmp_path):
    with atomic_path(tmp_path / "a.json") as longer, atomic_path(tmp_path / "a") as first:
        longer.write_text("longer")
        first.write_text("first")
        with atomic_path(tmp_path / "a") as second:
            second.write_text("second")
        assert (tmp_path / "a").read_text() == "second"
    assert [(tmp_path / name).read_text() for name in ("a", "a.json")] == ["first", "longer"]
    assert sorted(os.listdir(tmp_path)) == ["a", "a.json"]


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with (
        pytest.raises(StoreError, match=r"cannot be written \(File name too long\)"),
        atomic_path(tmp_path / ("a" * 250)),
    ):
        raise AssertionError


@pytest.mark.parametrize("writer", ["0123456789ab-123.xyz", "0123456789abcdef" * 2])
def test_what_another_machine_or_group_writes_stays_for_a_day(tmp_path, writer):
    folder = tmp_path / f".a.txt.{writer}"
    folder.mkdir()
    (folder / "a.txt").write_text("half")
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert folder.is_dir()
    for each in (folder / "a.txt", folder):
        os.utime(each, (0, 0))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert not folder.exists()


@pytest.mark.parametrize("content", ["[]", '{"zarr_format": 3, "node_type": "group", "attributes": []}', "[" * 100_000])
def test_a_whole_archive_of_something_else_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", content)
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: ") as caught:
        open_store(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_store_is_refused_in_one_line(tmp_path, share):
    path = tmp_path / "a.zarr.zip"
    write_store(path, small_tree())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError, match=r"a\.zarr\.zip: is not a whole store") as caught:
        open_store(path)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_json_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(StoreError, match=r"cut\.json: is not valid JSON"):
        read_json(tmp_path / "cut.json")
