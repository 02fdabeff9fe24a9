"""The study of concepts on the tiny denoiser: it runs to its page, and an edit reruns what depends on it alone."""

from collections import Counter

import pytest

from diffmech.concepts.masks import read_mask
from diffmech.findings import read_findings

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("concepts")]

SECTION = {
    "concepts": {"glasses": {}},
    "attribution": {"samples": 2, "steps": 4, "windows": 2},
    "fidelity": {"objectives": ["erase", "amplify"], "masks": 5, "weights": 20, "samples": 1, "timesteps": 2},
    "edits": {"erase": {"doses": [20], "compared": None}, "amplify": {"doses": [20], "compared": None}},
    "evaluation": {"seeds": 4, "steps": 2, "examples": 2, "draws": 100, "permutations": 100},
}


def section(**changes):
    return {"concepts": {**SECTION, **changes}}


def rules(jobs):
    return Counter(job.split()[0] for job in jobs if job.split()[0] != "concepts")


TABULATED = {"concept_effects": 1, "concepts_page": 1}
OF_A_CONCEPT = {"attribute_concept": 1, "concept_fidelity": 1, "concept_originals": 1, "edit_concept": 2}


@pytest.fixture(scope="module")
def studied(module_project):
    done = rules(module_project.run("concepts", edit=section()))
    assert done == {
        "prepare_dataset": 2,
        "train_denoiser": 1,
        "train_judge": 1,
        **OF_A_CONCEPT,
        **TABULATED,
    }
    return module_project


def test_the_study_ends_with_its_page_findings_and_masks(studied):
    results = studied.folder / "results"
    assert "Whether scores predict" in (results / "concepts.html").read_text()
    assert {finding.question for finding in read_findings(results / "concepts/findings.json")} == {
        "Which weights carry glasses?",
        "Which weights hold back glasses?",
    }
    mask = read_mask(results / "concepts/tiny/masks/glasses/erase/20.safetensors")
    assert (mask.count, mask.about["concept"], mask.about["dose"]) == (20, "glasses", 20.0)
    assert studied.planned(section(), "concepts") == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"edits": {**SECTION["edits"], "erase": {"doses": [20, 40], "compared": [20]}}},
            {"edit_concept": 1, **TABULATED},
        ),
        ({"concepts": {"glasses": {}, "hat": {}}}, {**OF_A_CONCEPT, **TABULATED}),
        ({"concepts": {"glasses": {}, "three": {"kind": "class", "label": "3"}}}, {**OF_A_CONCEPT, **TABULATED}),
        ({"evaluation": {**SECTION["evaluation"], "examples": 1}}, {"concepts_page": 1}),
        ({"evaluation": {**SECTION["evaluation"], "permutations": 120}}, TABULATED),
        ({"fidelity": {**SECTION["fidelity"], "masks": 6}}, {"concept_fidelity": 1, "concepts_page": 1}),
        ({"edits": {**SECTION["edits"], "amplify": {"doses": [20]}}}, {"edit_concept": 1, **TABULATED}),
        (
            {"attribution": {**SECTION["attribution"], "samples": 3}},
            {"attribute_concept": 1, "concept_fidelity": 1, "edit_concept": 2, **TABULATED},
        ),
    ],
)
def test_an_edit_reruns_what_depends_on_it_alone(studied, changes, expected):
    assert rules(studied.planned(section(**changes), "concepts")) == expected


def test_a_network_is_trained_anew_where_it_is_told_classes_instead(studied):
    edit = section() | {"models": {"tiny": {"architecture": {"conditioning": "classes"}}}}
    planned = rules(studied.planned(edit, "concepts"))
    assert planned["train_denoiser"] == 1


def test_mistakes_are_answered_in_one_line(studied):
    done = studied.snakemake("--cores", "1", "concepts", edit=section(concepts={"glases": {}}))
    assert done.returncode != 0
    assert "diffmech: concepts.concepts.glases: the denoiser knows no attribute 'glases', only" in done.stderr
    rows = {"erase": {"doses": [0.01], "granularity": "row"}, "amplify": {"doses": [20]}}
    done = studied.snakemake("--cores", "1", "concepts", edit=section(edits=rows))
    assert done.returncode != 0
    assert "the dose 0.01 by row changes no weight: rounded down it is 0 in each of" in done.stderr
