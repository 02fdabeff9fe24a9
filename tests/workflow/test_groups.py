"""Which images belong together: another table reruns statistics, and nothing that runs the denoiser."""

import csv

import numpy as np
import pytest
from PIL import Image

from diffmech.data.store import open_dataset

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("groups")]

IMAGES, CAPTURED, STUDIED, REFERENCES = 24, 16, 8, 4  # the last three are those of the tiny study
PEOPLE = {"kind": "image_folder", "path": "people", "labels": "people.csv", "group": "person"}
GROUPED = {
    "study": {"domains": {"real": "people"}},
    "datasets": {"people": PEOPLE},
    "ablation": {"groups": ["heads"]},
}
COSTLY = ("prepare_dataset", "train_denoiser", "make_latents", "capture_", "reference_outputs", "ablate_heads")
TARGETS = ("entropy", "ablation")


@pytest.fixture
def people(project):
    """The tiny study on a folder of images and drawn ones, in which nothing has run."""
    rng = np.random.default_rng(0)
    (project.folder / "people").mkdir()
    for index in range(IMAGES):
        pixels = rng.integers(30, 220, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(project.folder / "people" / f"{index:02d}.png")
    return project


def write_table(project, persons: dict[str, str]) -> None:
    rows = [f"{file},{person},1\n" for file, person in persons.items()]
    (project.folder / "people.csv").write_text("file,person,smiling\n" + "".join(rows))


def read_table(project, path: str) -> list[dict[str, str]]:
    with (project.folder / "results" / path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_an_edit_of_the_groups_reruns_statistics_and_no_capture(people):
    # six persons have two images each, twelve have one
    persons = {f"{k:02d}.png": f"p{k // 2 if k < 12 else k}" for k in range(IMAGES)}
    write_table(people, persons)
    people.run(*TARGETS, edit=GROUPED)
    files = open_dataset(people.folder / "results/datasets/people.zarr.zip").files
    groups = read_table(people, "datasets/people.groups.csv")
    assert [row["group"] for row in groups] == [persons[file] for file in files]

    def units(samples):
        return {persons[files[sample]] for sample in samples}

    def sizes(path):
        rows = read_table(people, path)
        # a second method runs on fewer images
        return {(row["domain"], row["n"]) for row in rows if row.get("method", "mean") == "mean"}

    captured, studied = units(range(CAPTURED)), units(range(STUDIED))
    assert len(captured) < CAPTURED
    assert sizes("entropy/tiny/heads.csv") == {("real", str(len(captured))), ("synthetic", str(CAPTURED))}
    assert sizes("ablation/tiny/effects.csv") == {("real", str(len(studied))), ("synthetic", str(STUDIED))}
    chosen = [
        int(row["sample"]) for row in read_table(people, "ablation/tiny/references.csv") if row["domain"] == "real"
    ]
    assert len(chosen) == REFERENCES
    assert not units(chosen) & studied
    assert people.planned(GROUPED, *TARGETS) == set()

    # two persons that are studied turn out to be one, so that the reference images stay
    first, second = sorted(studied)[:2]
    write_table(people, {file: first if person == second else person for file, person in persons.items()})
    statistics = {"attention_entropy tiny", "entropy_divergence tiny"}
    assert people.planned(GROUPED, "entropy") == {"image_groups datasets people"} | statistics
    jobs = people.run(*TARGETS, edit=GROUPED)
    assert jobs >= {"image_groups datasets people", "ablation_effects tiny", "circuit_complexity tiny"} | statistics
    assert not [job for job in jobs if job.startswith(COSTLY)]
    assert ("real", str(len(studied) - 1)) in sizes("ablation/tiny/effects.csv")

    # without groups each image is a unit again, and the column one of labels, so that the table is read anew
    ungrouped = GROUPED | {"datasets": {"people": PEOPLE | {"group": None}}}
    assert people.planned(ungrouped, "entropy") >= {"prepare_dataset people"} | statistics
