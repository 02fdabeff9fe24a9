"""The attention of edited denoisers: that nothing is found where nothing changes, and what is there is."""

import numpy as np
import pytest
import xarray as xr
from test_concept_jobs import HAT, untrained
from test_concept_probes import mask_of

from diffmech.artifacts import open_store, write_store
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.concepts import inside
from diffmech.concepts.asking import asking_for
from diffmech.concepts.edits import TEXT
from diffmech.concepts.inside import changes_of, concept_attention, edited_attention
from diffmech.concepts.masks import Mask, applied, write_mask
from diffmech.concepts.probes import Stepper
from diffmech.concepts.tables import ATTENTION
from diffmech.config.concept_probes import InsideConfig
from diffmech.config.studies.concepts import EvaluationConfig, NamedConcept
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import ddim
from diffmech.report.concepts.inside import beyond, findings

SETTINGS = {"draws": 200, "permutations": 400, "confidence": 0.95, "seed": 0}
EVALUATION = EvaluationConfig(seeds=4, steps=3)


def stored(own, random=0.0, samples=12, concept="hat", draws=39, seed=1):
    """A store of two kinds with two heads each at two timesteps; `own` and `random` are what edits add to entropies.

    Each edit adds something of its own, too, to all images alike.
    """
    base = np.random.default_rng(0).normal(2, 0.1, (samples, 2, 4))
    noise = np.random.default_rng(seed).normal(0, 0.01, (2 + draws, samples, 2, 4))
    masks = np.random.default_rng(seed + 1).normal(0, 0.02, (2 + draws, 1, 2, 4))
    masks[0] = 0
    added = np.stack([base * 0, base * 0 + own, *[base * 0 + random] * draws]) + masks
    return xr.Dataset(
        {"entropy": (("set", "sample", "timestep", "head"), base + added + noise)},
        coords={
            "edit": ("set", np.array(["original", "own", *["random"] * draws], dtype=TEXT)),
            "timestep": [900, 100],
            "head": np.array(["a.self.h00", "a.self.h01", "a.cross.h00", "a.cross.h01"], dtype=TEXT),
            "kind": ("head", np.array(["self", "self", "cross", "cross"], dtype=TEXT)),
            "h_max": ("head", np.log([16.0, 16, 8, 8])),
        },
        attrs={"concept": concept, "objective": "erase", "dose": 20.0, "count": 20},
    )


def tabulated(store):
    return ATTENTION.frame(changes_of(store, **SETTINGS))


def test_planted_concentration_is_found_where_it_is():
    own = np.zeros((2, 4))
    own[1, 2:] = -0.3  # cross-attention at timestep 100
    table = tabulated(stored(own))
    found = table[beyond(table, 0.05)]
    assert sorted(map(tuple, found[["head", "kind", "timestep"]].to_numpy())) == [
        ("a.cross.h00", "cross", "100"),
        ("a.cross.h01", "cross", "100"),
        ("all", "cross", "all"),
    ]
    whole = table[(table["head"] == "all") & (table["kind"] == "cross")].iloc[0]
    assert whole["change"] == pytest.approx(-0.15, abs=0.03)
    assert whole["low"] < whole["change"] < whole["high"]
    assert whole["after"] - whole["before"] == pytest.approx(whole["change"])
    [finding] = findings(table, alpha=0.05)
    assert finding.verdict == "found"
    assert "cross-attention concentrates" in finding.answer
    assert "self-attention" not in finding.answer
    assert finding.details[-1].startswith("Of 8 heads at timesteps, 2 concentrate and 0 disperse")


def test_what_random_edits_do_as_well_is_no_finding():
    table = tabulated(stored(0.3, random=0.3))
    assert (table["p_corrected"] <= 0.05).all()
    assert not beyond(table, 0.05).any()
    [finding] = findings(table, alpha=0.05)
    assert finding.verdict == "not found"


def test_a_random_edit_is_beyond_random_ones_no_more_often_than_alpha():
    tables = [tabulated(stored(0.0, seed=seed)) for seed in range(60)]
    assert np.mean([(table["p_corrected"] <= 0.05).any() for table in tables]) > 0.9  # every edit changes something
    for kinds in (True, False):  # each is a family
        found = [beyond(table[(table["head"] == "all") == kinds], 0.05).any() for table in tables]
        assert np.mean(found) <= 0.13  # a rate of 0.05 exceeds this with a chance below 1 %


def test_two_random_edits_are_too_few_to_tell():
    table = tabulated(stored(-0.5, draws=2))
    assert (table["p_random"] >= 1 / 3).all()
    [finding] = findings(table, alpha=0.05)
    assert finding.verdict == "cannot be told"
    assert "attention concentrates" in finding.answer
    assert "2 random edits (inside.draws: at least 19)" in finding.answer


def test_nothing_is_found_more_often_than_alpha_where_an_edit_does_nothing():
    found, studies, source = 0, 100, np.random.default_rng(3)
    for _ in range(studies):
        store = stored(0.0)
        store["entropy"] = store["entropy"] + source.normal(0, 0.1, store["entropy"].shape)
        table = ATTENTION.frame(changes_of(store, **{**SETTINGS, "draws": 10, "permutations": 100}))
        found += bool((table[table["head"] != "all"]["p_corrected"] <= 0.05).any())
    assert found / studies <= 0.12  # a rate of 0.05 exceeds this with a chance below 1 %


def test_the_entropies_are_those_of_the_capture_on_the_same_points(runtime, tmp_path):
    model = untrained(tmp_path, 6)
    denoiser = load_denoiser(model, device="cpu")
    own, nothing = mask_of(denoiser), Mask.of({}, 0.0, **mask_of(denoiser).about)
    watched = InsideConfig(samples=3, timesteps=2, draws=1)
    tables = {}
    for name, mask in (("own", own), ("nothing", nothing)):
        write_mask(mask, tmp_path / f"{name}.safetensors")
        edited_attention(
            model,
            tmp_path / f"{name}.safetensors",
            tmp_path / name,
            concept=HAT,
            evaluation=EVALUATION,
            inside=watched,
            runtime=runtime,
        )
        concept_attention([tmp_path / name], tmp_path / f"{name}.csv", **SETTINGS)
        tables[name] = ATTENTION.read(tmp_path / f"{name}.csv")
    assert (tables["nothing"]["change"] == 0).all()
    assert not beyond(tables["nothing"], 0.05).any()
    assert (tables["own"]["change"] != 0).any()
    store = open_store(tmp_path / "own").to_dataset()
    # the last point, seen once more by hand, under the edit
    stepper = Stepper(asking_for(denoiser, HAT), EVALUATION, runtime)
    told = stepper.told("asked", count=3)
    x_t = stepper.run(stepper.noise(3), range(2), told)
    observer = StatisticsObserver()
    t = int(ddim(denoiser, 3).timesteps[2])
    with applied(denoiser, own), AttentionTap(denoiser.module, [observer]):
        denoiser.predict_noise(x_t, t, told)
    by_hand = np.concatenate([found.entropy.numpy() for found in observer.results.values()], axis=1)
    assert store["timestep"].values[-1] == t
    assert np.allclose(store["entropy"][1, :, -1].values, by_hand, atol=1e-5)


def test_no_store_gives_an_empty_table(tmp_path):
    concept_attention([], tmp_path / "none.csv", **SETTINGS)
    assert ATTENTION.read(tmp_path / "none.csv").empty
    write_store(tmp_path / "one", stored(0.0))
    concept_attention([tmp_path / "one"], tmp_path / "one.csv", **SETTINGS)
    assert len(ATTENTION.read(tmp_path / "one.csv")) == 2 + 8


def test_a_denoiser_without_attention_has_no_heads_and_says_so(linear, runtime, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(inside, "open_asking", lambda _, concept, **__: asking_for(linear, concept))
    edit = {"groups": ["feed_forward"], "granularity": "global", "order": "first", "factor": 0.0}
    about = {"concept": "glasses", "objective": "erase", "dose": 2.0, "count": 2, "edit": edit}
    write_mask(Mask.of({"ff.weight": np.array([0, 5])}, 0.0, **about), tmp_path / "mask.safetensors")
    glasses, few = NamedConcept(name="glasses"), InsideConfig(samples=2, timesteps=1, draws=1)
    edited_attention(
        tmp_path,
        tmp_path / "mask.safetensors",
        tmp_path / "store",
        concept=glasses,
        evaluation=EVALUATION,
        inside=few,
        runtime=runtime,
    )
    assert "the entropy of attention is left out: the model makes no attention call" in caplog.text
    concept_attention([tmp_path / "store"], tmp_path / "table.csv", **SETTINGS)
    assert ATTENTION.read(tmp_path / "table.csv").empty
