"""The whole analysis finds what was planted, and only that."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from planted_study import ONE_TIMESTEP, planted_study, run_planted

from diffmech.artifacts import open_store, read_json, write_json
from diffmech.errors import ModelError
from diffmech.models.load import load_denoiser
from diffmech.planted.denoiser import WEIGHTS, import_planted, load_planted
from diffmech.planted.recovery import recover, summarise

# One worker runs the studies, which all tests share.
pytestmark = pytest.mark.xdist_group("planted")


def test_every_planted_head_gets_its_name(studied):
    heads = pd.read_csv(studied / "recovery.csv")
    wrong = heads[~heads["label_right"]]
    assert wrong.empty, wrong[["role", "label"]].to_string()


def test_dead_heads_change_nothing_at_all_though_they_attend(studied):
    folder = studied
    heads = pd.read_csv(folder / "recovery.csv")
    dead = heads[heads["role"].str.startswith("dead")]
    assert (dead["effect_percent"] == 0).all()
    assert (dead[["p_zero_holm", "p_untrained"]] == 1).all(axis=None)
    assert (dead["label"] != "unassigned").all()
    for domain in ("symmetric", "asymmetric"):
        ablated = open_store(folder / f"{domain}.heads.zarr.zip").to_dataset()
        chosen = np.isin(ablated["target"].values.tolist(), dead["head"])
        assert (ablated["shift"].values[chosen] == 0).all()
        assert (ablated["mse_ablated"].values[chosen] == ablated["mse_clean"].values).all()


def test_precision_and_recall_are_high(studied):
    summary = pd.read_csv(studied / "summary.csv").set_index("what")
    assert list(summary.index) == ["label", "effect", "mechanism", "redundant pair"]
    assert (summary[["precision", "recall"]] > 0.94).all(axis=None), summary.to_string()
    assert (summary.loc[["label", "redundant pair"], ["precision", "recall"]] == 1).all(axis=None)


def test_the_redundant_pair_is_the_only_one_and_large_only_together(studied):
    pairs = pd.read_csv(studied / "pairs.csv")
    assert len(pairs) == 2 * 78
    assert (pairs["redundant"] == pairs["planted"]).all()
    pair = pairs[pairs["planted"]]
    assert (pair["effect_both"] > 1).all()
    assert (pair[["effect_first", "effect_second"]].abs().max(axis=1) < 0.15 * pair["effect_both"]).all()


def test_the_mirror_head_matters_on_mirrored_images_only(studied):
    heads = pd.read_csv(studied / "recovery.csv").query("role == 'mirror'").set_index("domain")
    assert heads.loc["symmetric", "significant"]
    assert not heads.loc["asymmetric", "significant"]


def test_of_an_untrained_model_nothing_is_named(tmp_path):
    """A guard against gross faults, not a test of a level: where twice the nominal 5 % of studies are wrong, one study
    passes nine times in ten. Levels are simulated where thousands of studies can be (test_calibration.py)."""
    few = {
        "ablation": {"samples": 24, "reference_samples": 16},
        "discovery": {"samples": 24},
        "capture": {"samples": 64},
        "models": {"planted": {"planted": {"images": 16}}},  # what is fitted on them is drawn anew
    }
    study = planted_study(0, ONE_TIMESTEP, few)
    model_json = tmp_path / "model/model.json"
    import_planted(study.config.model.planted, model_json, images=study.config.images)
    make_untrained(model_json, seed=1234)
    run_planted(study, tmp_path, model_json, few_for_pairs=True)
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("what")
    assert summary.loc["label", "found"] == 0
    assert summary.loc["mechanism", "found"] == 0
    assert summary.loc["effect", "found"] == 0
    assert summary.loc["redundant pair", "found"] == 0


def make_untrained(model_json, *, seed):
    """Put random weights in place of those that were built by hand."""
    import hashlib

    from safetensors.torch import save_file

    pointer = read_json(model_json)
    file = model_json.parent / WEIGHTS
    save_file(load_planted(pointer, model_json, device="cpu", untrained_seed=seed).module.state_dict(), file)
    write_json(model_json, pointer | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})


def test_a_planted_model_is_loaded_as_it_was_written_and_its_twins_are_random(tmp_path):
    config = planted_study(0).config
    circuit = config.model.planted.model_copy(update={"images": 16})
    model_json = tmp_path / "model.json"
    import_planted(circuit, model_json, images=config.images)
    pointer = json.loads(model_json.read_text())
    assert len(pointer["roles"]) == 13
    denoiser, twin = load_denoiser(model_json, device="cpu"), load_denoiser(model_json, device="cpu", untrained_seed=0)
    assert denoiser.sample_shape == (1, 20, 20)
    x_t = torch.zeros(2, 1, 20, 20)
    assert not torch.allclose(denoiser.predict_noise(x_t, 50), twin.predict_noise(x_t, 50))
    with (tmp_path / WEIGHTS).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ModelError, match="the weights changed"):
        load_denoiser(model_json, device="cpu")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(
        ModelError, match=rf"{WEIGHTS}: is gone; delete .*model\.json and let the workflow make it anew"
    ):
        load_denoiser(model_json, device="cpu")
    with pytest.raises(ModelError, match=r"set images\.channels 1"):
        import_planted(circuit, model_json, images=config.images.model_copy(update={"channels": 3}))


def test_recovery_of_a_model_that_was_not_planted_is_refused(tmp_path):
    write_json(tmp_path / "model.json", {"kind": "custom"})
    with pytest.raises(ModelError, match="is of kind 'custom', not planted, so nothing is known to find"):
        recover(
            tmp_path / "model.json",
            "heads.csv",
            "effects.csv",
            {},
            [],
            heads_output=tmp_path / "a",
            pairs_output=tmp_path / "b",
            summary_output=tmp_path / "c",
            symmetric={},
            ablation=planted_study(0).config.ablation,
            untrained=planted_study(0).config.untrained,
            seed=0,
            runtime=planted_study(0).config.runtime,
        )


def test_precision_and_recall_count_what_is_wrong():
    heads = pd.DataFrame(
        {
            "head": ["a", "b", "c", "d", "e"],
            "role": ["edge", "sink", "local", "uniform", "pair_first"],  # what the last costs alone is not counted
            "planted_label": ["edge", "sink", "local", "unassigned", "positional"],
            "label": ["edge", "edge", "unassigned", "edge", "unassigned"],
            "causal": [True, True, False, False, False],
            "significant": [True, False, True, False, True],
        }
    )
    heads["label_right"] = heads["label"] == heads["planted_label"]
    heads["effect_right"] = heads["causal"] == heads["significant"]
    pairs = pd.DataFrame({"planted": [True, False], "redundant": [False, False]})
    table = summarise(heads, pairs).set_index("what")
    assert table.loc["label", ["precision", "recall"]].tolist() == [pytest.approx(1 / 3), pytest.approx(1 / 4)]
    assert table.loc["effect", ["precision", "recall"]].tolist() == [0.5, 0.5]
    # of the two that are named and matter, one is named and found to matter
    assert table.loc["mechanism", ["planted", "found", "right"]].tolist() == [2, 1, 1]
    assert np.isnan(table.loc["redundant pair", "precision"])
    assert table.loc["redundant pair", "recall"] == 0
