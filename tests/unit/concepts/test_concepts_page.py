"""The page on concepts from tables and stores whose content is known."""

import json
from pathlib import Path

import pytest
from test_effects import SETTINGS, write

from diffmech.concepts.effects import concept_effects
from diffmech.concepts.tables import FIDELITY, MAP
from diffmech.config.studies.concepts import ConceptsStudy
from diffmech.findings import read_findings
from diffmech.report.concepts.page import write_page

REFERENCES = Path(__file__).parents[3] / "resources" / "references-concepts.yaml"


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
    inputs = {
        **tables,
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
    }
    erased, amplified, unjudged = found
    assert erased.answer.startswith("800 weights of the highest scores: glasses goes from 100 to 0 %")
    assert erased.estimate.value == -100
    assert "not told apart from weights at random" in amplified.answer
    assert "skin" in unjudged.answer


def test_the_front_page_shows_all_doses_of_a_concept(written, tmp_path):
    erased = written[1][0]
    drawn = (tmp_path / erased.picture).read_text()
    assert [drawn.count(words) for words in ("unedited", "200 weights", "800 weights")] == [1, 2, 2]
    assert [finding.picture for finding in written[1][1:]] == [None, None]


def test_the_page_holds_its_charts_grids_and_published_figures(written):
    text, _ = written
    assert len(text.encode()) < 8_000_000
    for name in ("dose_erase", "against_amplify", "retention_erase", "map_erase", "fidelity"):
        start = text.index(f'id="spec-{name}">') + len(f'id="spec-{name}">')
        spec = json.loads(text[start : text.index("</script>", start)])
        assert spec["description"]
    assert text.count('class="gallery"') == 3  # of each objective of each concept
    assert "0.506" in text
    assert "1,275" in text
    assert "0.700 to 0.700" in text  # measured beside published
