"""The study of VAEs, small: it runs to its page, and one more seed, family or factor computes nothing else anew."""

from collections import Counter

import pytest

from diffmech.findings import read_findings
from diffmech.vae.tables import EDGES, SCORES

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("vae")]

FAMILIES = {"vae": {"kind": "vae"}, "vq_vae": {"kind": "vq_vae", "codes": 8, "code_size": 4}}
SECTION = {
    "data": {"scene": {"kind": "pendulum", "size": 16}},
    "factors": {"scene": ["angle", "light"]},
    "families": FAMILIES,
    "seeds": [0, 1],
    "network": {"channels": [8, 8], "hidden": 16, "latents": 4},
    "training": {"steps": 20, "batch_size": 16},
    "measures": {"images": 200, "pairs": 20, "twins": 2, "votes": 20, "floors": 2, "scenes": 10, "steps": 3}
    | {"draws": 100, "permutations": 100},
}
OF_A_DATA_SET = {"vae_tables": 1, "vae_page": 1}


def section(**changes):
    return {"vae": {**SECTION, **changes}}


def measures(**changes):
    return {"measures": {**SECTION["measures"], **changes}}


def rules(jobs):
    return Counter(job.split()[0] for job in jobs if job.split()[0] != "vae")


def of_vaes(count, factors=2):
    return {
        "train_vae": count,
        "vae_codes": count,
        "vae_disentanglement": count,
        "vae_factor": factors * count,
        **OF_A_DATA_SET,
    }


@pytest.fixture(scope="module")
def studied(module_project):
    assert rules(module_project.run("vae", edit=section())) == of_vaes(4)
    return module_project


def test_the_study_ends_with_its_page_findings_and_tables(studied):
    results = studied.folder / "results"
    page = (results / "vae.html").read_text()
    assert "Causal interventions in VAEs" in page
    assert read_findings(results / "vae/findings.json")
    assert "<svg" in (results / "vae/traversals.svg").read_text()
    for family in FAMILIES:
        place = {"data": "scene", "family": family, "vae_seed": "1"}
        assert len(SCORES.read(studied.folder / SCORES.at(**place)))
        edges = EDGES.read(studied.folder / EDGES.at(**place))
        assert set(edges["cause"]) == {"angle", "light"}
    assert studied.planned(section(), "vae") == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": [0, 1, 2]}, of_vaes(2)),
        ({"seeds": [0]}, OF_A_DATA_SET),
        ({"families": {**FAMILIES, "tc": {"kind": "beta_tc_vae"}}}, of_vaes(2)),
        ({"families": {**FAMILIES, "vq_vae": {"kind": "vq_vae", "codes": 9, "code_size": 4}}}, of_vaes(2)),
        # scores and graphs are of all factors together; nothing of the other factors is measured again
        (
            {"factors": {"scene": ["angle", "light", "shadow_length"]}},
            {"vae_factor": 4, "vae_disentanglement": 4, **OF_A_DATA_SET},
        ),
        ({"factors": {"scene": ["angle"]}}, {"vae_disentanglement": 4, **OF_A_DATA_SET}),
        (measures(votes=30), {"vae_disentanglement": 4, **OF_A_DATA_SET}),
        (measures(twins=3), {"vae_factor": 8, **OF_A_DATA_SET}),
        (measures(confidence=0.9), OF_A_DATA_SET),
        ({"training": {"steps": 21, "batch_size": 16}}, of_vaes(4)),
        (
            {"data": {**SECTION["data"], "sprites": {"kind": "dsprites_like", "size": 16}}},
            {**of_vaes(4, factors=5), "vae_page": 1},
        ),
    ],
)
def test_an_edit_computes_what_depends_on_it_alone(studied, changes, expected):
    assert rules(studied.planned(section(**changes), "vae")) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {"latents": 0}}, "vae.network.latents: 0 is not allowed: input should be greater than or equal"),
        ({"factors": {"scene": ["angel"]}}, "factors.scene: 'angel' is no factor of it, did you mean 'angle'?"),
        ({"factors": {"sprites": ["x"]}}, "'sprites' is no data set of `data`, which has scene"),
        ({"families": {"tc": {"kind": "beta_tcvae"}}}, "vae.families.tc.kind: 'beta_tcvae' is not one of"),
        (
            {"data": {"scene": {"kind": "pendulum", "sise": 16}}},
            "vae.data.scene.sise: unknown key; did you mean 'size'?",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(studied, changes, said):
    done = studied.snakemake("--dry-run", "vae", edit=section(**changes))
    [line] = [line for line in (done.stdout + done.stderr).splitlines() if "config:" in line]
    assert done.returncode != 0
    assert said in line


def test_a_file_of_another_version_stops_with_its_name(studied):
    broken = studied.folder / "sprites.npz"
    broken.write_bytes(b"not an archive")
    data = {"data": {"dsprites": {"kind": "dsprites", "path": str(broken)}}, "factors": {}}
    done = studied.snakemake("--cores", "1", "vae", edit=section(**data, seeds=[0]))
    [line] = {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("diffmech:")}
    assert done.returncode != 0
    assert "sprites.npz: cannot be read as .npz" in line
