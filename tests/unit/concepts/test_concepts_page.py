"""The page on concepts from tables and stores whose content is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_effects import ATTRIBUTES, SEEDS, SETTINGS, TEXT, write
from test_inside import stored

from diffmech.artifacts import write_store
from diffmech.concepts.effects import concept_effects
from diffmech.concepts.inside import concept_attention
from diffmech.concepts.recovery import concept_probes
from diffmech.concepts.tables import FIDELITY, HEADS, JUDGED, MAP, OVERLAP
from diffmech.config.studies.concepts import ConceptsStudy
from diffmech.findings import read_findings
from diffmech.judging.confusion import confusion
from diffmech.report.concepts.judge import judge_section
from diffmech.report.concepts.page import write_page

REFERENCES = Path(__file__).parents[3] / "resources" / "references-concepts.yaml"


def _verdicts(source, attribute, seen, unseen, n):
    told = np.repeat([True, False], n)
    verdicts = np.concatenate([np.arange(n) < seen, np.arange(n) >= unseen])
    found = confusion(told, verdicts, confidence=0.95)
    return [{"source": source, "attribute": attribute, **row} for row in found]


PROBING = {name: value for name, value in SETTINGS.items() if name != "permutations"}


def write_probes(path):
    """Half of the glasses are back where the unedited denoiser begins, none by noise, nearly all by a token."""
    sets = [
        *(("completion", 0.25, edit, rate) for edit, rate in (("own", 0.6), ("random", 1))),
        *(("noise", 1.85, edit, rate) for edit, rate in (("own", 0), ("original", 1))),
        *(("inversion", 40, edit, rate) for edit, rate in (("own", 0.9), ("control", 0))),
    ]
    seen = np.zeros((len(sets), SEEDS, len(ATTRIBUTES)), np.float32)
    for row, (*_, rate) in enumerate(sets):
        seen[row, : round(rate * SEEDS), 0] = 1
    store = xr.Dataset(
        {
            "images": (("set", "image", "channel", "y", "x"), np.zeros((len(sets), SEEDS, 1, 2, 2), np.float32)),
            "seen": (("set", "image", "attribute"), seen),
        },
        coords={
            "probe": ("set", np.array([probe for probe, *_ in sets], dtype=TEXT)),
            "setting": ("set", np.array([setting for _, setting, *_ in sets])),
            "edit": ("set", np.array([edit for _, _, edit, _ in sets], dtype=TEXT)),
            "attribute": np.array(ATTRIBUTES, dtype=TEXT),
        },
        attrs={
            "concept": "glasses",
            "attribute": "glasses",
            "objective": "erase",
            "dose": 800.0,
            "count": 800,
            "absent": ["nothing in particular"],
            "steps": 8,
            "cut": {"1.85": 7},
        },
    )
    write_store(path, store)
    return path


@pytest.fixture
def written(tmp_path):
    originals = write(
        tmp_path / "originals.zip",
        [
            *(("original", way, 0, rate, 1, 0) for way, rate in (("asked", 1), ("weak", 0.2), ("base", 0))),
            ("reference", "base", 0, 0, 1, 0),
            ("uce", "asked", 0, 0.9, 0.9, 0),
        ],
    )
    evaluations = []
    for dose, rate in ((200, 0.5), (800, 0.0)):
        sets = [("own", "asked", 0, rate, 1, 0), ("own", "base", 0, 0, 1, 1), ("random", "asked", 0, 1, 1, 0)]
        evaluations.append(write(tmp_path / f"e{dose}", sets, objective="erase", dose=dose, count=dose))
    sets = [("own", "weak", 0, 0.2, 1, 0), ("own", "base", 0, 0, 1, 1), ("random", "weak", 0, 0.2, 1, 0)]
    evaluations.append(write(tmp_path / "amplify", sets, objective="amplify", dose=800, count=790))
    other = {"concept": "skin", "attribute": "skin"}  # which nothing judges
    ways = [("original", way, 0, 0, 1, 0) for way in ("asked", "weak", "base")]
    skin = write(tmp_path / "skin.zip", [*ways, ("reference", "base", 0, 0, 1, 0)], **other)
    sets = [("own", "asked", 0, 0, 1, 0), ("own", "base", 0, 0, 1, 0)]
    evaluations.append(write(tmp_path / "skinned", sets, objective="erase", dose=800, count=800, **other))
    tables = {name: tmp_path / f"{name}.csv" for name in ("rates", "effects", "quality")}
    concept_effects({"glasses": originals, "skin": skin}, evaluations, *tables.values(), **SETTINGS)
    maps, fidelities = tmp_path / "map.csv", tmp_path / "fidelity.csv"
    place = ("down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight", "feed_forward")
    MAP.write(
        maps,
        MAP.frame(
            ("glasses", objective, *place, window, 900 - 500 * window, 500 - 500 * window, 99, 0.2, -0.1, 50)
            for objective in ("erase", "amplify")
            for window in (0, 1)
        ),
    )
    orders = [("first", 0.7), ("second", 0.9)]
    rows = [("glasses", "erase", order, r, r - 0.1, r + 0.05, 0.1, 0.2, 0.4, 200, 800) for order, r in orders]
    FIDELITY.write(fidelities, FIDELITY.frame(rows))
    verdicts = [
        *_verdicts("held_out", "glasses", 99, 98, 100),
        *_verdicts("generated", "glasses", 24, 23, 24),
        *_verdicts("generated", "hat", 13, 12, 24),
    ]
    JUDGED.write(tmp_path / "confusion.csv", JUDGED.frame(verdicts))
    further = {name: tmp_path / f"{name}.csv" for name in ("probes", "attention", "heads", "overlap")}
    probed = write_probes(tmp_path / "probed")
    concept_probes({"glasses": originals}, [evaluations[1]], [probed], further["probes"], **PROBING)
    write_store(tmp_path / "inside", stored(-0.2, concept="glasses"))
    concept_attention([tmp_path / "inside"], further["attention"], **SETTINGS)
    HEADS.write(
        further["heads"],
        HEADS.frame(("glasses", "erase", f"a.self.h0{head}", "self", 0.1 * head, -0.1, head == 1) for head in (0, 1)),
    )
    shares = (0.9, 0.5, 0.4, 0.6, 0.001, 0.002, 0.002, 0.004)
    OVERLAP.write(
        further["overlap"],
        OVERLAP.frame([("glasses", "erase", "positive", 800, 2, 1, *shares)]),
    )
    inputs = {
        **tables,
        **further,
        "probed": [probed],
        "confusion": tmp_path / "confusion.csv",
        "maps": [maps],
        "fidelities": [fidelities],
        "originals": [originals, skin],
        "evaluations": evaluations,
        "references": REFERENCES,
    }
    concepts = ConceptsStudy.model_validate({"concepts": {"glasses": {}, "skin": {}}})
    pictures = [tmp_path / f"{name}.svg" for name in ("glasses", "skin")]
    write_page(inputs, tmp_path / "page.html", tmp_path / "findings.json", pictures, concepts=concepts)
    return (tmp_path / "page.html").read_text(), read_findings(tmp_path / "findings.json")


def test_findings_say_what_counts_and_what_does_not(written):
    _, found = written
    verdicts = {finding.question: finding.verdict for finding in found}
    assert verdicts == {
        "Which weights carry glasses?": "found",
        "Which weights hold back glasses?": "not found",
        "Is every concept judged?": "caution",
        "Is glasses, once erased, still there?": "found",
        "Does erasing glasses change how widely heads attend?": "found",
        "Do weights that carry concepts lie in the heads that matter?": "found",
    }
    erased, amplified, unjudged, probed, attention, heads = found
    assert erased.answer.startswith("800 weights of the highest scores: glasses goes from 100 to 0 %")
    assert erased.estimate.value == -100
    assert "not told apart from weights at random" in amplified.answer
    assert "skin" in unjudged.answer
    assert probed.answer == (
        "Avoided: without 800 weights, finishing after 2 steps of 8 and a token after 40 steps still bring "
        "glasses back."
    )
    assert probed.details[0].endswith("0 % without it, 100 % unedited, 100 % after as many random weights.")
    assert "eta is cut off in 7 of 8 steps" in probed.details[1]
    assert "self-attention concentrates" in attention.answer
    assert "positive for glasses (erase) more than by chance" in heads.answer
    assert "1 of 2 heads are causal" in heads.sight


def test_the_front_page_shows_all_doses_of_a_concept(written, tmp_path):
    erased = written[1][0]
    drawn = (tmp_path / erased.picture).read_text()
    assert [drawn.count(words) for words in ("unedited", "200 weights", "800 weights")] == [1, 2, 2]
    assert {finding.picture for finding in written[1][1:]} == {None}


def test_the_page_holds_its_charts_grids_and_published_figures(written):
    text, _ = written
    assert len(text.encode()) < 8_000_000
    for name in (
        "dose_erase",
        "against_amplify",
        "retention_erase",
        "map_erase",
        "fidelity",
        "probes",
        "attention_erase",
        "heads",
    ):
        start = text.index(f'id="spec-{name}">') + len(f'id="spec-{name}">')
        spec = json.loads(text[start : text.index("</script>", start)])
        assert spec["description"]
    assert text.count('class="gallery"') == 3 + 1  # of each objective of each concept, and of what is probed
    assert "Not probed: nothing in particular." in text
    assert "50.0 % (40.0 to 60.0)" in text.replace("\u00a0", " ")  # of as many components at random
    assert "0.506" in text
    assert "1,275" in text
    assert "0.700 to 0.700" in text  # measured beside published


def test_the_page_says_what_the_judge_is_worth_and_warns_where_it_may_guess(written):
    text, _ = written
    assert "99 of 100 (94.6 to 99.8\u00a0%)" in text
    assert "23 of 24" in text
    assert "sees more than chance in unedited images of: hat." in text


def test_without_a_judge_the_page_says_so():
    assert "No judge sees these concepts." in str(judge_section(JUDGED.frame()))
