"""The user's own files are watched: an edit reads the data set again, and what is equal after all repeats nothing."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("watched")]

IMAGES = 24
FACES = {"kind": "image_folder", "path": "faces", "labels": "faces.csv", "group": "person", "count": IMAGES}
STUDY = {"study": {"domains": {"real": "faces"}}, "datasets": {"faces": FACES}}
READ = "prepare_dataset faces"
GROUPED = "image_groups datasets faces"
TARGETS = ("entropy",)
BELOW = {"train_denoiser tiny", "attention_entropy tiny", "entropy_divergence tiny"}


def draw(path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(30, 220, (20, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def labels(project, smiling=lambda index: index / IMAGES, person=lambda index: index // 2, extra: str = "") -> None:
    rows = [f"{index:02d}.png,p{person(index)},{smiling(index):.3f}\n" for index in range(IMAGES)]
    (project.folder / "faces.csv").write_text("file,person,smiling\n" + "".join(rows) + extra)


def write_faces(project) -> None:
    (project.folder / "faces").mkdir()
    for index in range(IMAGES):
        draw(project.folder / "faces" / f"{index:02d}.png", index)
    labels(project)


@pytest.fixture(scope="module")
def done(module_project):
    """The entropy tables of the tiny study on a folder of images with labels and groups."""
    write_faces(module_project)
    module_project.run(*TARGETS, edit=STUDY)
    return module_project


def changed(project) -> set[str]:
    return project.planned(STUDY, *TARGETS)


def test_edits_of_files_and_labels_are_seen(done):
    """A dry run cannot know that a data set is equal after all, so it tells all that may follow."""
    folder = done.folder / "faces"
    assert changed(done) == set()

    labels(done, smiling=lambda index: 1 - index / IMAGES)
    assert changed(done) >= {READ} | BELOW
    labels(done)  # back again, at another time
    # that its groups are read again is told by its time, as of any table of the user's
    assert READ not in changed(done)

    status = (folder / "07.png").stat()
    content = (folder / "07.png").read_bytes()
    draw(folder / "07.png", 99)
    assert changed(done) >= {READ} | BELOW
    (folder / "07.png").unlink()
    assert changed(done) >= {READ} | BELOW
    (folder / "07.png").write_bytes(content)
    os.utime(folder / "07.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert READ not in changed(done)

    (folder / "more").mkdir()
    draw(folder / "more" / "24.png", 24)
    assert changed(done) >= {READ} | BELOW
    shutil.rmtree(folder / "more")
    (folder / "notes.txt").write_text("no image")
    assert READ not in changed(done)
    (folder / "shot.heic").write_bytes(b"none")
    assert changed(done) >= {READ} | BELOW
    (folder / "shot.heic").unlink()


def test_files_are_looked_at_once_per_call_and_by_no_job(project):
    """Each job parses the workflow anew; a folder of 200,000 files would be walked by every one of them."""
    write_faces(project)
    code = project.folder / "src/diffmech/workflow/watched.py"
    looked = '    with open("looks.txt", "a") as file:\n        file.write("once\\n")\n'
    begin = "def _found(config: Any) -> Iterator[str]:\n"
    text = code.read_text()
    assert begin in text
    code.write_text(text.replace(begin, begin + looked))
    target = "results/datasets/comparison.json"
    assert project.run(target, edit=STUDY) >= {READ, "compare_domains"}
    assert (project.folder / "looks.txt").read_text() == "once\n"
    assert project.planned(STUDY, target) == set()
    assert (project.folder / "looks.txt").read_text() == "once\nonce\n"


def test_a_data_set_that_is_equal_after_all_repeats_nothing(done):
    done.run(*TARGETS, edit=STUDY)
    before = done.files()
    for file in sorted((done.folder / "faces").iterdir()):
        file.touch()
    labels(done, extra="ghost.png,p0,1\n")
    jobs = done.run(*TARGETS, edit=STUDY)
    assert jobs == {READ, GROUPED}
    anew = {path for path, state in done.files().items() if before.get(path) != state}
    assert anew == {f"results/datasets/faces.{kind}" for kind in ("zarr.zip", "sha256", "groups.csv")}
    assert changed(done) == set()


def test_a_data_set_that_changed_repeats_what_lies_below(done):
    draw(done.folder / "faces" / "07.png", 99)
    assert done.run(*TARGETS, edit=STUDY) >= {READ} | BELOW
    assert changed(done) == set()
