"""The benchmark of the paper on one card: that its study is the paper's, and that what is packed is what was run."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from benchmarks.paper.__main__ import settings, targets, write_study
from benchmarks.paper.packing import PART_BYTES, pack_excerpts, pack_tables, pack_weights, unpack, unpack_weights
from benchmarks.paper.report import packed_inputs
from benchmarks.paper.timeline import timeline
from safetensors.torch import load_file, save_file
from small_study import study_config

from diffmech.attention.store import open_attention
from diffmech.data.store import open_dataset
from diffmech.models.architecture import transformer_layers
from diffmech.report.heads.artifacts import read_tables
from diffmech.report.heads.examples import domain_mosaics, gallery_rows, mechanism_examples

SHOWN = 2


@pytest.fixture(scope="module")
def ran(found, tmp_path_factory):
    """(work, settings, inputs): a study as a run of the benchmark leaves it, and what its page is made from."""
    _, given, _ = found
    work, config = tmp_path_factory.mktemp("work"), study_config()
    (work / "study.yaml").write_text("study: {name: small}\n")
    inputs = packed_inputs(work, config)
    pairs = [(given.comparison, inputs.comparison), (given.model, inputs.model), (given.gallery, inputs.gallery)]
    pairs += [(given.resampled, inputs.resampled)]
    pairs += [(given.tables[name], path) for name, path in inputs.tables.items()]
    for domain, name in config.study.domains.items():
        shard = work / f"results/attention/{config.study.model}/{name}/t0000-0999/s00000000-00000007.zarr.zip"
        pairs += [(given.datasets[domain], inputs.datasets[domain]), (given.attention[domain][0], shard)]
        circuit = Path(inputs.circuits[domain]).parent
        pairs += [(path, circuit / path.name) for path in Path(given.circuits[domain]).parent.glob("*.*")]
    for source, destination in pairs:
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)
    shutil.copytree(given.benchmarks, inputs.benchmarks)
    return work, config, packed_inputs(work, config)


@pytest.fixture(scope="module")
def brought_back(ran, tmp_path_factory):
    """What the page is made from after packing and unpacking, with two images per domain and mechanism."""
    work, config, _ = ran
    config = config.model_copy(update={"report": config.report.model_copy(update={"examples": SHOWN, "gallery": 6})})
    packed, there = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("there")
    pack_tables(work, packed)
    pack_excerpts(work, packed, config)
    unpack(packed, there)
    return packed_inputs(there, config)


@pytest.mark.parametrize("small", [False, True])
def test_study_is_valid_and_compares_as_many_photographs_as_drawn_faces(small, tmp_path):
    config = write_study(tmp_path, settings(tmp_path, small=small))
    assert [config.datasets[name].kind for name in config.study.domains.values()] == ["image_folder", "synthetic_faces"]
    assert len({config.datasets[name].count for name in config.study.domains.values()}) == 1


def test_study_has_the_scale_of_the_paper(tmp_path):
    config = write_study(tmp_path, settings(tmp_path))
    architecture = config.model.architecture
    assert {config.datasets[name].count for name in config.study.domains.values()} == {2000} == {config.capture.samples}
    assert transformer_layers(architecture) == 3
    assert architecture.heads == 8
    assert [c for c, attended in zip(architecture.channels, architecture.attention, strict=True) if attended] == [256]
    assert architecture.timesteps == 1000
    assert len(config.capture.timesteps) == 10
    assert config.ablation.controls == 100


def test_targets_are_all_that_the_page_is_made_from(tmp_path):
    config = write_study(tmp_path, settings(tmp_path))
    inputs = packed_inputs(Path(), config)
    read = [*inputs.tables.values(), *inputs.circuits.values(), inputs.gallery, inputs.resampled, inputs.comparison]
    assert set(read) <= set(targets(config))


def test_tables_come_back_as_they_were(ran, brought_back):
    before, after = read_tables(ran[2]), read_tables(brought_back)
    for name, frame in before.frames.items():
        pd.testing.assert_frame_equal(after.frames[name], frame)
    for domain, circuit in before.circuits.items():
        assert after.circuits[domain].summary == circuit.summary
        pd.testing.assert_frame_equal(after.circuits[domain].curve, circuit.curve)


def test_page_shows_the_same_images_and_attention(ran, brought_back):
    inputs, mechanisms = ran[2], read_tables(ran[2]).mechanisms
    assert mechanism_examples(brought_back, mechanisms, SHOWN) == mechanism_examples(inputs, mechanisms, SHOWN)
    assert domain_mosaics(brought_back, 6) == domain_mosaics(inputs, 6)
    assert gallery_rows(brought_back.gallery) == gallery_rows(inputs.gallery)


def test_excerpts_hold_first_samples_alone(ran, brought_back):
    for domain, stores in brought_back.attention.items():
        excerpt, whole = open_attention(stores), open_attention(ran[2].attention[domain])
        assert excerpt.sizes["sample"] == SHOWN < whole.sizes["sample"]
        xr.testing.assert_equal(excerpt["loss"].load(), whole["loss"].isel(sample=slice(SHOWN)).load())
        assert len(open_dataset(Path(brought_back.datasets[domain]))) == 6


def test_weights_come_back_rounded_to_half_precision(tmp_path):
    config = study_config()
    source = tmp_path / "results/models" / config.study.model
    (source / "unet").mkdir(parents=True)
    (source / "model.json").write_text("{}")
    size = PART_BYTES // 2 * 3 // 2  # of float16, one and a half parts
    weights = torch.randn(size, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weights}, source / "unet/diffusion_pytorch_model.safetensors")
    packed = tmp_path / "packed"
    packed.mkdir()
    pack_weights(tmp_path, packed, config)
    assert [path.name for path in sorted(packed.iterdir())] == ["weights.tar.gz.0", "weights.tar.gz.1"]
    unpack_weights(packed, tmp_path / "there")
    found = load_file(tmp_path / "there" / config.study.model / "unet/diffusion_pytorch_model.safetensors")
    assert torch.equal(found["weight"], weights.half())


def test_a_folder_without_a_run_is_answered_by_its_name(tmp_path):
    with pytest.raises(SystemExit, match=r"tables\.tar\.gz: is missing"):
        unpack(tmp_path, tmp_path)


def test_timeline_tells_when_rules_ran_and_for_how_long(tmp_path):
    folder = tmp_path / "results/benchmarks"
    for name, seconds in (("train/m", 100.0), ("capture/a", 10.0), ("capture/b", 20.0)):
        path = folder / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"s": [seconds]}).to_csv(path, sep="\t", index=False)
    start = (folder / "train/m.tsv").stat().st_mtime - 130
    found = timeline(tmp_path, start).set_index("rule")
    assert found.index.tolist() == ["train", "capture"]
    assert found.loc["capture", ["jobs", "longest", "all_jobs"]].tolist() == [2, 20.0, 30.0]
    np.testing.assert_allclose(found.loc["train", ["start", "end"]].astype(float), [30, 130], atol=0.2)
