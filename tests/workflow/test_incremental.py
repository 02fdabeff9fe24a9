"""An edit reruns what depends on it, and nothing else."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("tiny")]

REPORT = {"draw_charts", "write_report"}
MODEL = {"train_denoiser tiny", "heldout_loss tiny", "generate_gallery tiny"}
ENTROPY = {"attention_entropy tiny", "entropy_divergence tiny", "seen_divergence tiny"}
CLUSTERS = {"cluster_heads tiny", "label_mechanisms tiny"}
MECHANISMS = {"head_features tiny", "find_phases tiny", *CLUSTERS}
EFFECTS = {"ablation_effects tiny", "circuit_complexity tiny"}
ACCOUNT = {"mechanism_account tiny"}
RESAMPLED = {"resample_images tiny synthetic 0", "resample_images tiny synthetic 1"}
RESAMPLING = RESAMPLED | {"resampling_effects tiny"}
DATASETS = ("lfw_subset", "synthetic_faces")
WINDOWS = {"ablation_windows tiny", "patching_effects tiny"}
PATCHES = {f"patch_heads tiny {dataset} domain" for dataset in DATASETS}
CIRCUITS = {f"discover_circuit tiny {dataset}" for dataset in DATASETS}
BLOCKS = ("t0000-0049", "t0050-0099")
SHARDS = ("s00000000-00000007", "s00000008-00000015")
TOLD = {f"capture_told tiny {dataset}" for dataset in DATASETS}
UNTRAINED = {f"capture_untrained tiny {dataset}" for dataset in DATASETS}


def captures(datasets=DATASETS, blocks=BLOCKS, shards=SHARDS):
    return {
        f"{rule} tiny {dataset} {block} {shard}"
        for rule in ("make_latents", "capture_attention")
        for dataset in datasets
        for block in blocks
        for shard in shards
    }


def ablations(groups=("heads", "layers", "mechanisms"), blocks=BLOCKS):
    return {
        f"ablate_heads tiny {dataset} {group} {block} {SHARDS[0]}"
        for dataset in DATASETS
        for group in groups
        for block in blocks
    }


def references(blocks=BLOCKS):
    return {f"reference_outputs tiny {block}" for block in blocks}


EVERYTHING_ELSE = (
    MODEL
    | captures()
    | UNTRAINED
    | TOLD
    | ENTROPY
    | MECHANISMS
    | references()
    | ablations()
    | EFFECTS
    | CIRCUITS
    | PATCHES
    | WINDOWS
    | RESAMPLING
    | ACCOUNT
    | REPORT
    | {"compare_domains", "seen_images tiny", "train_judge tiny"}
)
OF_WEIGHTS_ALONE = {"train_denoiser tiny", "generate_gallery tiny", "train_judge tiny"}

EDITS = [
    pytest.param({}, set(), id="nothing"),
    pytest.param({"runtime": {"batch_size": 7, "threads": 2, "device": "cpu"}}, set(), id="runtime"),
    pytest.param({"report": {"title": "Another title"}}, REPORT, id="report"),
    pytest.param(
        {"datasets": {"synthetic_faces": {"seed": 5}}},
        EVERYTHING_ELSE | {"prepare_dataset synthetic_faces"},
        id="one data set: its latents, all below, models trained on it",
    ),
    pytest.param(
        {"capture": {"timesteps": [10, 60, 70]}},
        captures(blocks=BLOCKS[1:])
        | {"heldout_loss tiny"}
        | UNTRAINED
        | TOLD
        | ENTROPY
        | MECHANISMS
        | references(BLOCKS[1:])
        | ablations(blocks=BLOCKS[1:])
        | ablations(groups=("mechanisms",))
        | EFFECTS
        | CIRCUITS
        | PATCHES
        | WINDOWS
        | RESAMPLING
        | ACCOUNT
        | REPORT,
        id="one more timestep: its block, then aggregates",
    ),
    pytest.param(
        {"capture": {"samples": 20}},
        captures(shards=("s00000016-00000023",))
        | {"compare_domains", "seen_images tiny", "heldout_loss tiny", "ablation_effects tiny"}
        # told something else are the first images, as before
        | (ENTROPY - {"entropy_divergence tiny"})
        | MECHANISMS
        | ablations(groups=("mechanisms",))
        | WINDOWS
        | RESAMPLING
        | ACCOUNT
        | REPORT,
        id="more samples: new shards, then aggregates",
    ),
    pytest.param(
        {"capture": {"images": "unseen"}},
        (EVERYTHING_ELSE - OF_WEIGHTS_ALONE) | {f"unseen_images tiny {dataset}" for dataset in DATASETS},
        id="unseen images: all that is done with images, with the weights that are there",
    ),
    pytest.param({"entropy": {"permutations": 150}}, ENTROPY | REPORT, id="entropy"),
    pytest.param(
        {"told": {"samples": 6}},
        TOLD | {"entropy_divergence tiny", "circuit_complexity tiny"} | REPORT,
        id="what images are told: no capture, no ablation",
    ),
    pytest.param(
        {"mechanisms": {"clusters": 3}},
        CLUSTERS
        | ablations(groups=("mechanisms",))
        | {"ablation_effects tiny", "ablation_windows tiny"}
        | RESAMPLING
        | ACCOUNT
        | REPORT,
        id="mechanisms: from there down (ablations as far as heads.csv changes)",
    ),
    pytest.param(
        {"ablation": {"methods": ["zero"]}},
        ablations() | EFFECTS | CIRCUITS | {"ablation_windows tiny"} | ACCOUNT | REPORT,
        id="ablation",
    ),
    pytest.param(
        {"ablation": {"first_reference": 10}},
        {"compare_domains"}
        | references()
        | ablations()
        | MECHANISMS
        | EFFECTS
        | CIRCUITS
        | WINDOWS
        | RESAMPLING
        | ACCOUNT
        | REPORT,
        id="other reference images, and others on which clusters are found",
    ),
    pytest.param(
        {"ablation": {"controls": 21}},
        ablations(groups=("mechanisms",)) | {"ablation_effects tiny", "ablation_windows tiny"} | ACCOUNT | REPORT,
        id="controls of mechanisms",
    ),
    pytest.param({"ablation": {"windows": "thirds"}}, WINDOWS | ACCOUNT | REPORT, id="windows"),
    pytest.param({"discovery": {"faithfulness": 0.8}}, CIRCUITS | REPORT, id="circuits"),
    pytest.param({"circuit": {"draws": 150}}, REPORT, id="attribution: only the page, which prints all settings"),
    pytest.param({"patching": {"windows": [[0, 99]]}}, {"patching_effects tiny"} | REPORT, id="windows of patching"),
    pytest.param({"patching": {"doses": [1.0]}}, PATCHES | {"patching_effects tiny"} | REPORT, id="doses"),
    pytest.param({"resampling": {"seed": 1}}, RESAMPLING | ACCOUNT | REPORT, id="other images sampled again"),
    pytest.param(
        {"resampling": {"examples": 1, "draws": 150}},
        {"resampling_effects tiny"} | ACCOUNT | REPORT,
        id="what is measured of images that are there",
    ),
    pytest.param(
        {"resampling": {"detector": {"function": "torch.nn.modules.linear:Linear", "attributes": ["hat"]}}},
        {"resampling_effects tiny"} | ACCOUNT | REPORT,
        id="who looks at images that are there",
    ),
    pytest.param(
        {"recognition": {"epochs": 2}},
        {"train_judge tiny", "resampling_effects tiny"} | ACCOUNT | REPORT,
        id="the judge, and what it judges",
    ),
    pytest.param({"complexity": {"draws": 150}}, {"circuit_complexity tiny"} | REPORT, id="complexity"),
    pytest.param({"sampling": {"guidance": 2.0}}, {"generate_gallery tiny"} | REPORT, id="sampling"),
]


@pytest.mark.parametrize(("edit", "jobs"), EDITS)
def test_an_edit_of_the_config_reruns_its_cone(finished, edit, jobs):
    assert finished.planned(edit) == jobs


def test_equal_heads_repeat_no_ablation(finished, tmp_path):
    project = finished.copy(tmp_path / "copy")
    before = (project.folder / "results/mechanisms/tiny/heads.csv").read_bytes()
    assert project.planned() == set()
    done = project.run(edit={"mechanisms": {"cluster_range": [2, 4]}})
    assert (project.folder / "results/mechanisms/tiny/heads.csv").read_bytes() == before
    assert done >= CLUSTERS
    costly = ("ablate_heads", "capture_attention", "make_latents", "resample_images")
    assert not {job for job in done if job.startswith(costly)}


def edited(path: Path, change) -> str:
    text = path.read_text()
    path.write_text(change(text))
    return text


@pytest.mark.parametrize(
    ("module", "change", "jobs"),
    [
        ("mechanisms/entropy.py", lambda text: "# a remark\n" + text + "\n# another\n", set()),
        ("mechanisms/entropy.py", lambda text: text.replace('"""', '"""In other words: ', 1), set()),
        ("mechanisms/entropy.py", lambda text: text, set()),
        ("mechanisms/entropy.py", lambda text: text + "\n\ndef added() -> int:\n    return 1\n", ENTROPY | REPORT),
    ],
    ids=["a comment", "a docstring", "a touch", "entropy code"],
)
def test_an_edit_of_the_code_reruns_its_cone(finished, module, change, jobs):
    path = finished.folder / "src/diffmech" / module
    before = edited(path, change)
    try:
        assert finished.planned() == jobs
    finally:
        path.write_text(before)


def test_an_edit_of_the_capture_code_reruns_capture_and_what_follows(finished):
    path = finished.folder / "src/diffmech/attention/capture.py"
    before = edited(path, lambda text: text + "\n\ndef added() -> int:\n    return 1\n")
    try:
        jobs = finished.planned()
    finally:
        path.write_text(before)
    captured = {job for job in captures() if job.startswith("capture_attention")}
    assert captured <= jobs
    assert not {job for job in jobs if job.startswith(("make_latents", "train_denoiser", "prepare_dataset"))}


def test_an_edit_of_one_reader_reruns_only_its_data_set(finished):
    path = finished.folder / "src/diffmech/data/bundled.py"
    before = edited(path, lambda text: text + "\n\ndef added() -> int:\n    return 1\n")
    try:
        jobs = finished.planned()
    finally:
        path.write_text(before)
    assert "prepare_dataset lfw_subset" in jobs
    assert "prepare_dataset synthetic_faces" not in jobs


def test_a_training_that_takes_the_place_of_an_import_or_of_another_kind_of_network_is_not_passed_over(
    module_project, tmp_path
):
    model, weights = "results/models/tiny/model.json", "results/models/tiny/gallery.zarr.zip"
    project = module_project.copy(tmp_path / "copy")
    own = {"models": {"tiny": {"source": "untrained"}}}
    assert "import_denoiser tiny" in project.run(model, edit=own)
    assert {"train_denoiser tiny", "generate_gallery tiny"} <= project.planned(None, weights)
    assert "train_denoiser tiny" in project.run(weights)
    assert project.planned(None, weights) == set()
    classes = {"models": {"tiny": {"architecture": {"conditioning": "classes"}}}}
    assert "train_denoiser tiny" in project.planned(classes, weights)
