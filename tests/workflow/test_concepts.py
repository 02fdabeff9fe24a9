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
    "judges": {"detector": {"function": "detector.py:bright", "attributes": ["brightness"]}},
    "evaluation": {"seeds": 4, "steps": 2, "examples": 2, "draws": 100, "permutations": 100},
    "probes": {"completion": [0.5], "eta": [1.5], "inversion": {"images": 2, "steps": 2, "batch": 2}},
    "inside": {"samples": 2, "timesteps": 2, "draws": 1},
    "heads": {"components": 20},
}


def section(**changes):
    return {"concepts": {**SECTION, **changes}}


def rules(jobs):
    return Counter(job.split()[0] for job in jobs if job.split()[0] != "concepts")


OF_EDITS = {"concept_effects": 1, "concepts_page": 1}
# What tabulates edits that are looked at more closely.
CLOSER = {"concept_probes": 1, "concept_attention": 1}
HEADS = {"concept_heads": 1}
OF_AN_EDIT = {"edit_concept": 2, "probe_concept": 1, "edited_attention": 2}
OF_A_CONCEPT = {"attribute_concept": 1, "concept_fidelity": 1, "concept_originals": 1, **OF_AN_EDIT}
ALL_TABLES = {"judge_confusion": 1, **OF_EDITS, **CLOSER, **HEADS}


DETECTOR = "def bright(images):\n    return images.mean(dim=(1, 2, 3))[:, None] / 2 + 0.5\n"


@pytest.fixture(scope="module")
def studied(module_project):
    (module_project.folder / "detector.py").write_text(DETECTOR)
    done = rules(module_project.run("concepts", edit=section()))
    assert done == {
        "prepare_dataset": 2,
        "train_denoiser": 1,
        "train_judge": 1,
        **OF_A_CONCEPT,
        **ALL_TABLES,
    }
    return module_project


def test_the_study_ends_with_its_page_findings_and_masks(studied):
    results = studied.folder / "results"
    assert "Whether scores predict" in (results / "concepts.html").read_text()
    assert {finding.question for finding in read_findings(results / "concepts/findings.json")} == {
        "Which weights carry glasses?",
        "Which weights hold back glasses?",
        "Is glasses, once erased, still there?",
        "Does erasing glasses change how widely heads attend?",
        "Does amplifying glasses change how widely heads attend?",
    }
    mask = read_mask(results / "concepts/tiny/masks/glasses/erase/20.safetensors")
    assert (mask.count, mask.about["concept"], mask.about["dose"]) == (20, "glasses", 20.0)
    assert studied.planned(section(), "concepts") == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"edits": {**SECTION["edits"], "erase": {"doses": [20, 40], "compared": [20]}}},
            {"edit_concept": 1, **OF_EDITS},
        ),
        (
            {"edits": {**SECTION["edits"], "erase": {"doses": [20, 40], "compared": None}}},
            {"edit_concept": 1, "probe_concept": 1, "edited_attention": 1, **OF_EDITS, **CLOSER},
        ),
        ({"concepts": {"glasses": {}, "hat": {}}}, {**OF_A_CONCEPT, **ALL_TABLES}),
        (
            {"concepts": {"glasses": {}, "three": {"kind": "class", "label": "3"}}},
            {**OF_A_CONCEPT, **ALL_TABLES},
        ),
        (
            {"probes": {**SECTION["probes"], "eta": [1.0]}},
            {"probe_concept": 1, "concept_probes": 1, "concepts_page": 1},
        ),
        ({"probes": None, "inside": None}, {**CLOSER, "concepts_page": 1}),
        ({"inside": {"samples": 3}}, {"edited_attention": 2, "concept_attention": 1, "concepts_page": 1}),
        ({"heads": {"components": 30}}, {**HEADS, "concepts_page": 1}),
        ({"evaluation": {**SECTION["evaluation"], "examples": 1}}, {"concepts_page": 1}),
        (
            {"evaluation": {**SECTION["evaluation"], "permutations": 120}},
            {**OF_EDITS, "concept_attention": 1, **HEADS},
        ),
        ({"fidelity": {**SECTION["fidelity"], "masks": 6}}, {"concept_fidelity": 1, "concepts_page": 1}),
        (
            {"edits": {**SECTION["edits"], "amplify": {"doses": [20], "compared": None, "random_draws": 1}}},
            {"edit_concept": 1, "edited_attention": 1, **OF_EDITS, "concept_attention": 1},
        ),
        (
            {"attribution": {**SECTION["attribution"], "samples": 3}},
            {"attribute_concept": 1, "concept_fidelity": 1, **OF_AN_EDIT, **OF_EDITS, **CLOSER, **HEADS},
        ),
    ],
)
def test_an_edit_reruns_what_depends_on_it_alone(studied, changes, expected):
    assert rules(studied.planned(section(**changes), "concepts")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a remark\n" + DETECTOR, {}),
        (
            DETECTOR.replace("0.5", "0.4"),
            {
                "concept_originals": 1,
                "edit_concept": 2,
                "probe_concept": 1,
                "judge_confusion": 1,
                **OF_EDITS,
                "edited_attention": 2,  # of the masks that the same jobs write
                "concept_attention": 1,
                "concept_probes": 1,
            },
        ),
    ],
    ids=["a comment", "its code"],
)
def test_an_edit_of_a_detector_judges_anew(studied, text, expected):
    path = studied.folder / "detector.py"
    path.write_text(text)
    try:
        assert rules(studied.planned(section(), "concepts")) == expected
    finally:
        path.write_text(DETECTOR)


def test_a_network_is_trained_anew_where_it_is_told_classes_instead(studied):
    edit = section() | {"models": {"tiny": {"architecture": {"conditioning": "classes"}}}}
    planned = rules(studied.planned(edit, "concepts"))
    assert planned["train_denoiser"] == 1, planned


def test_mistakes_are_answered_in_one_line(studied):
    done = studied.snakemake("--cores", "1", "concepts", edit=section(concepts={"glases": {}}))
    assert done.returncode != 0
    assert "diffmech: concepts.concepts.glases: the denoiser knows no attribute 'glases', only" in done.stderr
    rows = {
        "erase": {"doses": [0.01], "compared": [], "granularity": "row"},
        "amplify": {"doses": [20], "compared": []},
    }
    done = studied.snakemake("--cores", "1", "concepts", edit=section(edits=rows))
    assert done.returncode != 0
    assert "the dose 0.01 by row changes no weight: rounded down it is 0 in each of" in done.stderr
