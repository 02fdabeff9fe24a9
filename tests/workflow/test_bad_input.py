"""Bad input gets one clear line, and leaves the results as they were."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("bad-input")]


def photographs(folder, count: int = 6):
    """Save valid images of mixed size and mode."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, mode in zip(range(count), ["RGB", "L", "RGBA", "P", "RGB", "L"], strict=False):
        pixels = random.integers(0, 255, (20 + 7 * index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"image{index}.png")
    return folder


def folder_study(path) -> dict:
    return {
        "study": {"domains": {"real": "photos", "synthetic": "synthetic_faces"}},
        "datasets": {"photos": {"kind": "image_folder", "path": str(path)}},
        "capture": {"samples": 8, "shard_size": 8},
        "untrained": {"samples": 4},
        "ablation": {"samples": 4, "shard_size": 4, "reference_samples": 2},
        "discovery": {"samples": 4},
    }


def complaint(done: subprocess.CompletedProcess) -> str:
    """Return the one line in which the run says what is wrong."""
    lines = (done.stdout + done.stderr).splitlines()
    found = {line.strip() for line in lines if line.startswith(("diffmech:", "config:"))}
    assert len(found) == 1, "\n".join(lines[-60:])
    assert "Traceback" not in done.stdout + done.stderr
    return found.pop()


def refused(project, edit: dict, *targets: str) -> str:
    before = project.files() if (project.folder / "results").exists() else {}
    done = project.snakemake("--cores", "2", *targets, edit=edit)
    assert done.returncode != 0
    after = project.files()
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after if "/." in path and ".checkpoints" not in path]
    return complaint(done)


PHOTOS = "results/datasets/photos.zarr.zip"


def test_a_typo_in_a_key(project):
    assert refused(project, {"capture": {"timestep": [10]}}) == (
        "config: capture.timestep: unknown key; did you mean 'timesteps'?"
    )


def test_a_timestep_outside_the_schedule(project):
    assert "capture.timesteps[1]: 1200 is not below the scheduler's 100 steps" in refused(
        project, {"capture": {"timesteps": [10, 1200]}, "ablation": {"timesteps": None}}
    )


def test_an_unknown_kind_of_data_set(project):
    answer = refused(project, {"datasets": {"synthetic_faces": {"kind": "synthetic_face"}}})
    assert "did you mean 'synthetic_faces'?" in answer


def test_an_empty_folder(project, tmp_path):
    (tmp_path / "empty").mkdir()
    answer = refused(project, folder_study(tmp_path / "empty"), PHOTOS)
    assert str(tmp_path / "empty") in answer


def test_a_truncated_jpeg(project, tmp_path):
    folder = photographs(tmp_path / "photos")
    Image.effect_noise((64, 64), 80).save(folder / "broken.jpg")
    whole = (folder / "broken.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    assert "broken.jpg" in refused(project, folder_study(folder), PHOTOS)


def test_nan_in_an_array_of_pixels(project, tmp_path):
    folder = photographs(tmp_path / "photos")
    pixels = np.full((16, 16), 0.5)
    pixels[3, 4] = np.nan
    np.save(folder / "hole.npy", pixels)
    answer = refused(project, folder_study(folder), PHOTOS)
    assert "hole.npy" in answer
    assert "NaN" in answer


def test_images_of_mixed_size_and_mode_are_prepared(project, tmp_path):
    from diffmech.data.store import open_dataset

    project.run(PHOTOS, edit=folder_study(photographs(tmp_path / "photos")))
    images = open_dataset(project.folder / PHOTOS)
    assert images.images(range(6)).shape == (6, 1, 16, 16)


def test_a_hub_id_without_network(project, monkeypatch):
    # Port 9 of this machine answers nothing: the test never leaves it.
    monkeypatch.setitem(os.environ, "HF_ENDPOINT", "http://127.0.0.1:9")
    edit = {"models": {"tiny": {"source": "diffusers", "location": "nobody/nothing"}}}
    done = subprocess_with_environment(project, edit)
    assert done.returncode != 0
    assert "nobody/nothing" in complaint(done)


def subprocess_with_environment(project, edit):
    import yaml

    overlay = project.folder / "edit.yaml"
    overlay.write_text(yaml.safe_dump(edit))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "results/models/tiny/model.json"]
    command += ["--configfile", "resources/studies/tiny.yaml", str(overlay)]
    return subprocess.run(command, cwd=project.folder, env=os.environ, capture_output=True, text=True, timeout=300)


@pytest.fixture
def small_disk(project):
    """A file system of 600 kB for the results, where the system lets us make one."""
    place = project.folder / "results"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs: " + mounted.stderr.decode().strip())
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_nothing_half_written(project, small_disk):
    many = {"datasets": {"synthetic_faces": {"count": 4000}}}
    answer = refused(project, many, "results/datasets/synthetic_faces.zarr.zip")
    assert "disk" in answer
    assert not [path for path in small_disk.rglob("*") if path.is_file() and "logs" not in path.parts]
