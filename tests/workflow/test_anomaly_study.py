"""The study of anomalies, small: it runs to its page, patients who come rerun what is of them, and labels of test
patients reach nothing before the scores are judged."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffmech.anomaly.paths import RECORD, SCORES, SEEN, SLICES, TESTED, WEIGHTS
from diffmech.anomaly.slices import read_slices, write_slices
from diffmech.anomaly.splits import TEST, TRAIN, patients_of, read_folds, read_splits, split_of, splits_of_fold
from diffmech.anomaly.tables import FOLDS, HEADS, PIXEL_MEASURES, SLICE_MEASURES, SPLITS, TRAININGS
from diffmech.config.anomaly_data import SplitConfig
from diffmech.findings import read_findings

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("anomaly")]

SECTION = {
    "model": {
        "network": {"channels": [8, 8], "heads": 2, "latents": 4},
        "training": {"steps": 4, "batch_size": 4, "candidates": 2},
    },
    "uncertainty": {"members": 2, "masks": 2, "latent_draws": 1},
    "evaluation": {"draws": 40, "position_bins": 2, "sizes": [4], "calibration_bins": 3},
    "examples": 1,
}
NETWORKS = 8  # two members, two ablations, two that are left untrained, two autoencoders
JUDGED = {
    **{"anomaly_slicewise": 1, "anomaly_pixelwise": 1, "anomaly_ablations": 1, "anomaly_certainty": 1},
    **{"anomaly_heads": 1, "anomaly_account": 1, "anomaly_page": 1},
}
SCORED = {"anomaly_predict": 5, "anomaly_rival": 2, "anomaly_competitors": 1, "anomaly_entropies": 2}
TRAINED = {"anomaly_train": NETWORKS}
READ = {"anomaly_slices": 1, "anomaly_splits": 1, "anomaly_round": 1}
SPLITS_OF = SplitConfig()


def make_patient(folder, number, slices=4):
    """Draw slices of one patient: a grey disc, brighter where there is a lesion, in two of four."""
    source = np.random.default_rng(number)
    y, x = np.mgrid[:16, :16] - 7.5
    for row in range(slices):
        pixels = np.where(y**2 + x**2 < 45, 100 + source.normal(0, 8, (16, 16)), 0)
        ill = row in (1, 2)
        if ill:
            top, left = source.integers(5, 8, 2)
            pixels[top : top + 3, left : left + 3] = 200
            mask = np.zeros((16, 16), np.uint8)
            mask[top : top + 3, left : left + 3] = 255
            save(mask, folder / "masks" / f"p{number:02d}_{row}.png")
        save(
            pixels.clip(0, 255).astype(np.uint8),
            folder / ("abnormal" if ill else "normal") / f"p{number:02d}_{row}.png",
        )


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def section(folder, **changes):
    data = {"kind": "picture_folder", "path": str(folder / "brains"), "size": 16, "refuse_ct": False}
    data |= {"patient": "(p[0-9]+)_", "position": "_([0-9]+)[.]"}
    return {"anomaly": {**SECTION, "data": data, **changes}}


def rules(jobs):
    return Counter(job.split()[0] for job in jobs if job.split()[0] != "anomaly")


def moved(splits):
    """Return whether other splits have another patient in them, and none is empty."""
    own = [{f"p{n:02d}": split_of(f"p{n:02d}", each) for n in range(12)} for each in (SPLITS_OF, splits)]
    return own[0] != own[1] and set(own[1].values()) == {"train", "validation", "test"}


def bytes_of(folder, pattern):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(
            folder.glob(pattern.replace("{round}", "*").replace("{network}", "*").replace("{scored}", "*"))
        )
    }


@pytest.fixture(scope="module")
def studied(module_project):
    for number in range(12):
        make_patient(module_project.folder / "brains", number)
    jobs = rules(module_project.run("anomaly", edit=section(module_project.folder)))
    assert jobs == {**READ, **TRAINED, **SCORED, **JUDGED}
    return module_project


def test_the_study_ends_with_its_page_findings_and_tables(studied):
    results = studied.folder / "results"
    assert "Bayesian VAE for brain MRI" in (results / "anomaly.html").read_text()
    assert len(read_findings(results / "anomaly/findings.json")) >= 9
    assert "<svg" in (results / "anomaly/slices.svg").read_text()
    slices = SLICE_MEASURES.read(studied.folder / SLICE_MEASURES.path)
    pixels = PIXEL_MEASURES.read(studied.folder / PIXEL_MEASURES.path)
    models = {"standardised", "one_member", "no_attention", "no_uncertainty", "autoencoder", "denoising_autoencoder"}
    free = {"random", "position", "threshold", "atlas", "pca", "nearest_features"}
    assert models | free <= set(slices["score"])
    assert "position" not in set(pixels["score"])  # which has no map
    assert set(slices["matching"]) == {"overall", "matched"}
    assert len(TRAININGS.read(studied.folder / TRAININGS.path)) == NETWORKS
    assert len(HEADS.read(studied.folder / HEADS.path)) == 2 * 2 * 2  # members, heads, overall and matched
    assert studied.planned(section(studied.folder), "anomaly") == set()


def test_bright_lesions_are_found_by_a_threshold_and_not_by_chance(studied):
    """The table can be trusted: what is known of these pictures is in it."""
    pixels = PIXEL_MEASURES.read(studied.folder / PIXEL_MEASURES.path)
    found = pixels[(pixels["measure"] == "pixel_average_precision") & (pixels["of"] == "all")].set_index("score")
    assert found.loc["threshold", "value"] > 0.9
    assert found.loc["random", "value"] < 3 * found.loc["random", "floor"]
    slices = SLICE_MEASURES.read(studied.folder / SLICE_MEASURES.path)
    matched = slices[(slices["matching"] == "matched") & ~slices["adjusted"] & (slices["measure"] == "roc_auc")]
    # two bins of four positions: within each, the lesion lies nearer to the middle
    assert matched.set_index("score").loc["position", "value"] == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"evaluation": {**SECTION["evaluation"], "draws": 41}},
            {k: v for k, v in JUDGED.items() if k != "anomaly_account"},
        ),
        ({"examples": 2}, {"anomaly_page": 1}),
        (
            {"uncertainty": {**SECTION["uncertainty"], "masks": 3}},
            {**SCORED, **JUDGED} | {"anomaly_entropies": 0, "anomaly_heads": 0, "anomaly_account": 0},
        ),
        (
            {"uncertainty": {**SECTION["uncertainty"], "members": 3}},
            {**SCORED, **JUDGED, "anomaly_train": 2, "anomaly_entropies": 1},
        ),
    ],
)
def test_an_edit_computes_what_depends_on_it_alone(studied, changes, expected):
    planned = rules(studied.planned(section(studied.folder, **changes), "anomaly"))
    assert planned == {name: count for name, count in expected.items() if count}


def test_a_patient_who_comes_reruns_what_is_of_their_split(studied, tmp_path):
    project = studied.copy(tmp_path / "project")
    brains = studied.folder / "brains"  # the path is a setting, and stays
    before = read_splits(project.folder / SPLITS.path)
    came = {
        split: next(n for n in range(20, 90) if split_of(f"p{n:02d}", SPLITS_OF) == split) for split in (TEST, TRAIN)
    }
    make_patient(brains, came[TEST])
    jobs = rules(project.run("anomaly", edit=section(studied.folder)))
    assert jobs == {**READ, **SCORED, **JUDGED}  # no network is trained again
    after = read_splits(project.folder / SPLITS.path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"p{came[TEST]:02d}"}
    make_patient(brains, came[TRAIN])
    try:
        assert rules(project.run("anomaly", edit=section(studied.folder))) == {**READ, **TRAINED, **SCORED, **JUDGED}
    finally:
        for number in came.values():
            for path in brains.rglob(f"p{number:02d}_*"):
                path.unlink()


def test_permuting_labels_of_test_patients_changes_nothing_before_they_are_judged(studied, tmp_path):
    project = studied.copy(tmp_path / "project")
    store = project.folder / SLICES
    slices, splits = read_slices(store), read_splits(project.folder / SPLITS.path)
    rows = np.flatnonzero(np.isin(slices.patient, patients_of(splits, TEST)))
    dealt = np.roll(rows, 1)
    lesion, kind = slices.lesion.copy(), slices.kind.copy()
    lesion[rows], kind[rows] = lesion[dealt] & slices.brain[rows], kind[dealt]
    assert (lesion.any((1, 2)) != slices.abnormal).any()
    patterns = (WEIGHTS, SCORES, "results/anomaly/*/predictions/*", "results/anomaly/*/entropies/*")
    before = {pattern: bytes_of(project.folder, pattern) for pattern in patterns}
    table = (project.folder / SLICE_MEASURES.path).read_bytes()
    write_slices(store, replace(slices, lesion=lesion, kind=kind))
    forced = ["--forcerun", "anomaly_train", "anomaly_slicewise"]
    jobs = rules(project.run("anomaly", *forced, edit=section(studied.folder)))
    assert jobs["anomaly_train"] == NETWORKS
    assert jobs["anomaly_predict"] == 5
    assert {pattern: bytes_of(project.folder, pattern) for pattern in patterns} == before
    assert all(before.values())
    assert (project.folder / SLICE_MEASURES.path).read_bytes() != table  # only there


def test_settings_that_leave_the_slices_as_they_are_train_and_score_nothing(studied, tmp_path):
    project = studied.copy(tmp_path / "project")
    edit = section(studied.folder)
    edit["anomaly"]["data"]["patient"] = "(p[0-9][0-9])_"  # the same names, found in other words
    edit["anomaly"]["splits"] = {"validation": 0.1501}
    before = read_splits(project.folder / SPLITS.path)
    jobs = rules(project.run("anomaly", edit=edit))
    assert read_splits(project.folder / SPLITS.path) == before
    assert jobs == {**READ, "anomaly_page": 1}  # which shows the settings


def test_what_sees_other_slices_is_trained_anew_in_the_same_call(studied):
    """Also where the slices are as they were: the splits are their own rule."""
    other = {"seed": next(seed for seed in range(2, 99) if moved(SplitConfig(seed=seed)))}
    planned = rules(studied.planned(section(studied.folder, splits=other), "anomaly"))
    assert {name: planned[name] for name in (*READ, *TRAINED)} == {**READ, **TRAINED, "anomaly_slices": 0}


def test_a_setting_of_the_training_is_followed_though_the_slices_are_read_again_in_vain(studied, tmp_path):
    project = studied.copy(tmp_path / "project")
    edit = section(studied.folder)
    edit["anomaly"]["data"]["patient"] = "(p[0-9][0-9])_"
    edit["anomaly"]["model"] = {**SECTION["model"], "training": {**SECTION["model"]["training"], "beta": 0.2}}
    jobs = rules(project.run(RECORD.format(round="split", network="member0"), edit=edit))
    assert jobs == {**READ, "anomaly_train": 1}


def test_with_folds_every_patient_tests_once(studied):
    edit = section(studied.folder, folds=3, splits={"seed": 0})
    planned = rules(studied.planned(edit, "anomaly"))
    assert (planned["anomaly_folds"], planned["anomaly_round"]) == (1, 3)
    assert planned["anomaly_slices"] == planned["anomaly_splits"] == 0  # the slices are what they were
    digests = [SEEN.format(round=f"fold{n}") for n in range(3)] + [TESTED.format(round="fold2")]
    jobs = rules(studied.run(*digests, edit=edit))
    assert jobs == {"anomaly_folds": 1, "anomaly_round": 3}
    assert set(FOLDS.read(studied.folder / FOLDS.path)["fold"]) == {0, 1, 2}
    folds = read_folds(studied.folder / FOLDS.path)
    tested = [patient for fold in range(3) for patient in patients_of(splits_of_fold(folds, fold), TEST)]
    assert sorted(tested) == sorted(read_slices(studied.folder / SLICES).patients)
    assert len({(studied.folder / digest).read_text() for digest in digests}) == 4
    more = rules(studied.planned({**edit, "anomaly": {**edit["anomaly"], "folds": 4}}, *digests))
    assert more == {"anomaly_folds": 1, "anomaly_round": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": {"modality": "t1"}}, "scores.modality: 't1' is the threshold's, but data has flair"),
        ({"data": {"kind": "bmad", "path": "x"}, "folds": 3}, "folds: bmad has the splits that it was published with"),
        ({"model": {"training": {"corruption": 0}}}, "network.skips lets the decoder copy intact slices"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(studied, changes, said):
    done = studied.snakemake("--dry-run", "anomaly", edit=section(studied.folder, **changes))
    [line] = [line for line in (done.stdout + done.stderr).splitlines() if "config:" in line]
    assert done.returncode != 0
    assert said in line
