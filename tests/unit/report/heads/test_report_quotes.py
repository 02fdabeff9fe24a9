"""What data and settings say is text on the page: a title, an attribute or a prompt that is a script runs nowhere."""

import json
import shutil
from dataclasses import asdict

import pytest
from small_study import study_config
from test_report_html import Page

from diffmech.config.load import merge, validate
from diffmech.report.heads.artifacts import ReportInputs
from diffmech.report.heads.charts import every_chart
from diffmech.report.heads.page import write_report

ATTRIBUTE, TITLE, PROMPT, DATASET = (f"<script>alert({number})</script>" for number in range(1, 5))


class Scripts(Page):
    """Counts what runs: elements of scripts, attributes of events, addresses of scripts."""

    def __init__(self, text: str) -> None:
        self.running: list[str] = []
        super().__init__(text)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag in ("script", "iframe", "object", "embed", "svg"):
            self.running.append(tag)
        self.running += [
            f"{tag} {name}" for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")
        ]


@pytest.fixture(scope="module")
def quoted(found, tmp_path_factory):
    """The page of the small study, in which an attribute, the title, a prompt and a data set have hostile names."""
    folder = tmp_path_factory.mktemp("quoted") / "study"
    shutil.copytree(found[0], folder)
    for file in [*folder.rglob("*.csv"), *folder.rglob("*.json")]:
        file.write_text(file.read_text().replace("glasses", ATTRIBUTE))
    inputs = ReportInputs(**json.loads(json.dumps(asdict(found[1])).replace(str(found[0]), str(folder))))
    edit = {
        "report": {"title": TITLE},
        "datasets": {"asked": {"kind": "prompts", "prompts": [PROMPT, 'a "quoted" \' & <b>face']}},
        "study": {"domains": {"synthetic": DATASET}},
    }
    settings = merge(study_config().model_dump(mode="json"), edit)
    settings["datasets"][DATASET] = settings["datasets"]["drawn"]
    charts = [str(folder / "charts" / f"{chart.name}.vl.json") for chart in every_chart()]
    write_report(inputs, charts, folder / "report.html", folder / "findings.json", config=validate(settings))
    return (folder / "report.html").read_text()


def test_what_is_quoted_runs_nowhere(quoted, found):
    clean = (found[0] / "report.html").read_text()
    assert Scripts(quoted).running == Scripts(clean).running
    assert "<script>alert" not in quoted


@pytest.mark.parametrize("hostile", [ATTRIBUTE, TITLE, PROMPT, DATASET])
def test_what_is_quoted_is_shown_as_it_is(quoted, hostile):
    assert hostile in " ".join(Page(quoted).words)
