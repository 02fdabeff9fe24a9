"""The whole main job on tiny pipelines, by an overlay alone: from prompts to the report."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from in_process import run_study
from tiny_pipelines import PIPELINES

from diffmech.artifacts import open_store, read_json
from diffmech.config.load import merge
from diffmech.heads.paths import PATCHING, Heads
from diffmech.interventions.reference import open_reference
from diffmech.interventions.stores import open_ablation
from diffmech.testing import assert_same_up_to_rounding
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
FACES = ["face", "face with glasses", "face with a hat"]
OVERLAY: dict[str, Any] = {
    "study": {
        "name": "tiny-pipeline",
        "model": "tiny",
        "domains": {"real": None, "synthetic": None, "photo": "photos", "drawing": "drawings"},
    },
    "images": {"size": 16, "channels": 3, "resolution": None},
    "datasets": {
        "photos": {"kind": "prompts", "prompts": [f"a photo of a {face}" for face in FACES]},
        "drawings": {"kind": "prompts", "prompts": [f"a drawing of a {face}" for face in FACES], "seed": 1},
    },
    "models": {"tiny": {"source": "pipeline"}},
    "sampling": {"steps": 4, "guidance": 5.0},
    "capture": {"timesteps": [100, 600], "samples": 10, "shard_size": 6, "block_span": 1000, "keep_maps": 1},
    "untrained": {"seeds": 2, "samples": 4},
    "entropy": {"draws": 100, "permutations": 100},
    "mechanisms": {
        "draws": 100,
        "permutations": 100,
        "clusters": 2,
        "cross_clusters": 2,
        "cluster_range": [2, 3],
        "rolls": 50,
        "stability_draws": 5,
    },
    "ablation": {
        "draws": 100,
        "permutations": 100,
        "methods": ["mean", "zero"],
        "timesteps": None,
        "samples": 4,
        "shard_size": 4,
        "reference_samples": 2,
    },
    "discovery": {
        "samples": 6,
        "timesteps": None,
        "contribution": 0,
        "random_circuits": 20,
        "random_orders": 2,
        "subset_orders": 1,
        "greedy_heads": 1,
        "graph_heads": 3,
        "draws": 100,
        "permutations": 100,
    },
    "patching": {"draws": 100, "permutations": 100, "samples": 3, "dose_targets": 2},
    "resampling": {
        "mean_images": 2,
        "images": 3,
        "steps": 2,
        "controls": 1,
        "examples": 2,
        "draws": 100,
        "distance_draws": 20,
        "parts": 1,
    },
    "complexity": {"draws": 100, "permutations": 100},
    "report": {"examples": 1, "gallery": 6},
    "runtime": {"batch_size": 8, "progress": False, "device": "cpu"},
}


def study_of(family: str, folder: Path, **changes: Any) -> Study:
    pipeline = PIPELINES[family](folder / "tokenizer_files")
    pipeline.save_pretrained(folder / "pipeline")
    base = yaml.safe_load((ROOT / "config.yaml").read_text())
    located = {"models": {"tiny": {"location": str(folder / "pipeline")}}}
    return Study(merge(merge(merge(base, OVERLAY), located), changes), ROOT)


def assert_no_reference_image_was_studied(heads: Heads, folder: Path) -> None:
    """Of what was written, by all that ablates, attributes, patches, or finds and tests circuits."""
    references = open_reference([folder / path for path in heads.discovery_references()])
    assert set(references.rows) == {(d, sample) for d in ("photo", "drawing") for sample in (6, 7)}
    studied: set[int] = set()
    for dataset, circuit in zip(heads.datasets, heads.circuits(), strict=True):
        for group in heads.config.ablation.groups:
            studied |= set(open_ablation([folder / p for p in heads.ablations(dataset, group)])["sample"].values)
        for source in heads.patching_sources:
            patched = folder / PATCHING.format(model=heads.model, dataset=dataset, source=source)
            ids = open_store(patched).to_dataset()["sample"].values
            studied |= set(ids) | set(ids + len(ids))  # each is paired with one further on
        summary = read_json(folder / circuit)
        studied |= set(summary["discovery_samples"]) | set(summary["test_samples"])
    assert studied == set(range(6))


@pytest.mark.parametrize(("family", "kind"), [("stable_diffusion", "trajectory"), ("stable_diffusion_3", "noised")])
def test_a_pipeline_goes_through_the_whole_main_job(family: str, kind: str, tmp_path: Path) -> None:
    study = study_of(family, tmp_path, latents={"kind": kind})
    report, files = run_study(study, tmp_path), Heads(study)
    page = report.read_text()
    heads = pd.read_csv(report.parent / "entropy.csv")
    effects = pd.read_csv(report.parent / "effects.csv")
    kinds = {"stable_diffusion": {"self", "cross"}, "stable_diffusion_3": {"joint"}}[family]
    assert set(heads["kind"]) == kinds
    assert set(heads["domain"]) == {"photo", "drawing"}
    assert heads["entropy"].between(0, heads["h_max"] + 1e-5).all()
    assert set(effects["group"]) == {"heads", "layers", "mechanisms"}
    patching = pd.read_csv(report.parent / "patching.csv")
    assert set(patching["source"]) == {"sample"}
    assert (patching["n"] == 3).all()
    assert patching["effect"].notna().all()
    # the words of a prompt, each drawn over the image it was asked for
    assert "reads the token photo" in page
    assert "reads the token drawing" in page
    timesteps = [100, 600] if kind == "noised" else [1, 501]
    assert sorted(heads["timestep"].unique()) == timesteps
    # whole images: nobody judges their attributes, which the page says, but how far they move is known
    changed = pd.read_csv(report.parent / "resampling.csv")
    assert set(changed["domain"]) == {"photo", "drawing"}
    assert set(changed["measure"]) == {"ssim", "mse"}
    assert changed.query("measure == 'mse'")["effect"].max() > 0
    assert "Not measured: attributes" in page
    assert_no_reference_image_was_studied(files, tmp_path)
    circuit = read_json(tmp_path / files.circuits()[0])
    assert circuit["domain"] == "photo"
    assert circuit["measure"] == ("output shift" if kind == "trajectory" else "denoising loss")
    # random weights: replaced heads shift any output, but only by chance do they lower a loss
    assert kind == "noised" or circuit["chosen"] or circuit["reason"] == "contribution cannot be told"
    assert ("this is the share of the output shift" in page) == (kind == "trajectory")
    if kind == "trajectory":
        # nobody knows the noise, so the effect on the loss is the output shift
        ablated = open_store(tmp_path / files.ablations("photos", "heads")[0]).to_dataset()
        ratio = ablated["mse_ablated"] / ablated["mse_clean"] - 1
        assert_same_up_to_rounding(ratio, ablated["shift"], scale=float(1 + ablated["shift"].max()))
        assert (ablated["shift"] > 0).any()
