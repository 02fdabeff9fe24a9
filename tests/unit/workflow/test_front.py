"""What the front page says of a study is true of it: asked for, run all the same, or neither."""

import re
from types import SimpleNamespace

import pytest

from diffmech.findings import Finding, write_findings
from diffmech.workflow import front


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The card of a study `shapes`, by whether it is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(front, "further_sections", lambda: {"shapes": SimpleNamespace(title="Shapes")})
    config = SimpleNamespace(report=SimpleNamespace(title="Heads"))

    def of(*, asked):
        study = SimpleNamespace(config=config, further={"shapes": asked})
        [main, plain] = front.cards(study)
        assert (main["page"], main["note"]) == ("results/report.html", "")
        return plain, front.restore([plain])[0]

    return of


def test_a_study_that_is_asked_for_has_its_page(card):
    plain, restored = card(asked=True)
    assert plain == {
        **{"name": "shapes", "title": "Shapes", "note": ""},
        **{"page": "results/shapes.html", "findings": "results/shapes/findings.json"},
    }
    assert str(restored.page) == "results/shapes.html"


def test_one_that_is_not_names_the_command_that_runs_it_with_the_cores_that_snakemake_demands(card):
    plain, restored = card(asked=False)
    assert restored.page is restored.findings is None
    assert "not asked for" in plain["note"]
    assert re.findall(r"`(.+?)`", plain["note"]) == ["snakemake --cores 2 shapes", "make everything"]


def test_one_that_was_run_all_the_same_is_shown_and_tracked(card, tmp_path):
    (tmp_path / "results/shapes").mkdir(parents=True)
    (tmp_path / "results/shapes.html").write_text("2 shapes")
    assert "runs it" in card(asked=False)[0]["note"]  # cut off before its findings
    write_findings(
        [Finding("Are there?", "found", "2.", (), "shapes")], tmp_path / front.FINDINGS.format(study="shapes")
    )
    plain, restored = card(asked=False)
    assert str(restored.page) == "results/shapes.html"
    assert plain["note"].endswith("no section shapes; this is from when it was last run")
    write_findings([], tmp_path / front.FINDINGS.format(study="shapes"))
    assert card(asked=False)[0] != plain
