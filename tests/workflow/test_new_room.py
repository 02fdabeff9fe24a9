"""A further study moves in by its own files: nothing that is there is edited, nothing that is computed runs again."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import CPU, ROOT

from diffmech.findings import Finding, StudyCard, write_findings

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("tiny")]

FILES = {
    "src/diffmech/config/studies/shapes.py": '''
"""`shapes`: a study of the tests."""

from typing import ClassVar

from pydantic import Field

from diffmech.config.section import Count, StudySection


class ShapesStudy(StudySection):
    """How many shapes there are."""

    title: ClassVar[str] = "Shapes & sizes"

    count: Count = Field(2, description="How many shapes are counted.")
''',
    "src/diffmech/shapes/__init__.py": '"""The study of shapes."""\n',
    "src/diffmech/shapes/paths.py": '''
"""The files of the study of shapes."""

from diffmech.workflow.front import FINDINGS, PAGE
from diffmech.workflow.study import Study


class Shapes:
    """What the study of shapes makes of one validated config.yaml."""

    def __init__(self, study: Study) -> None:
        """Take its section, or the defaults."""
        self.section = study.section("shapes")
        self.page = PAGE.format(study="shapes")
        self.findings = FINDINGS.format(study="shapes")
''',
    "src/diffmech/shapes/counting.py": '''
"""Count shapes."""

from diffmech.config.studies.shapes import ShapesStudy
from diffmech.findings import Finding


def count_shapes(shapes: ShapesStudy) -> Finding:
    """Return how many shapes there are."""
    return Finding("How many shapes are there?", "found", f"{shapes.count} shapes.", (), "shapes")
''',
    "src/diffmech/report/shapes/__init__.py": '"""The page on shapes."""\n',
    "src/diffmech/report/shapes/page.py": '''
"""The page on shapes."""

from diffmech.artifacts import atomic_path
from diffmech.config.studies.shapes import ShapesStudy
from diffmech.findings import write_findings
from diffmech.report.markup import paragraph, section
from diffmech.report.page import assemble
from diffmech.shapes.counting import count_shapes


def write_page(page: str, findings: str, *, shapes: ShapesStudy) -> None:
    """Write how many shapes there are, on the page and for others."""
    found = count_shapes(shapes)
    counted = section(found.section, found.question, paragraph(found.answer))
    with atomic_path(page) as temporary:
        temporary.write_text(assemble(shapes.title, "Shapes.", {counted.anchor: "How many"}, [counted]), "utf-8")
    write_findings([found], findings)
''',
    "workflow_scripts/shapes_page.py": '''
"""Write the page on shapes."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.studies.shapes import ShapesStudy
    from diffmech.report.shapes.page import write_page

    write_page(job.output.page, job.output.findings, shapes=job.section(ShapesStudy, "shapes"))
''',
    "rules/shapes.smk": '''
"""How many shapes there are."""

from diffmech.shapes.paths import Shapes

shapes = Shapes(study)


localrules:
    shapes,


rule shapes:
    """The page on shapes."""
    input:
        shapes.page,


rule shapes_page:
    """Count the shapes."""
    input:
        settled=settled,
    output:
        page=shapes.page,
        findings=shapes.findings,
    log:
        "results/logs/shapes_page.log",
    benchmark:
        "results/benchmarks/shapes_page.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        settings=study.settings(shapes=shapes.section),
        code=study.code("shapes_page"),
    message:
        "Counting shapes"
    script:
        "../workflow_scripts/shapes_page.py"
''',
}
ASKED = {"shapes": {"count": 3}}


def move_in(project):
    for name, text in FILES.items():
        path = project.folder / name
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    return project


def rules(jobs):
    return {job.split()[0] for job in jobs} - {"everything", "shapes"}


def test_the_section_of_a_new_study_is_checked_and_described(project):
    move_in(project)
    done = project.snakemake("--dry-run", "--quiet", "all", edit={"shapes": {"cuont": 3}})
    assert done.returncode != 0
    assert "config: shapes.cuont: unknown key; did you mean 'count'?" in done.stdout + done.stderr
    code = f"import sys; sys.path.insert(0, {str(project.folder / 'src')!r}); import runpy;"
    code += "runpy.run_module('diffmech.config.documentation', run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project.folder)
    schema = json.loads((project.folder / "resources/config.schema.json").read_text())
    assert schema["properties"]["shapes"]["default"] is None
    assert {"$ref": "#/$defs/ShapesStudy"} in schema["properties"]["shapes"]["anyOf"]
    page = (project.folder / "docs/config.md").read_text()
    assert "## `shapes`\n\nShapes & sizes: a further study; null = not asked for.\n" in page
    assert "| `shapes.count` | integer ≥ 1 | `2` | How many shapes are counted. |" in page


def test_a_new_study_keeps_the_rules_of_the_house(project):
    """Its page is made with the kit; what another study says on its own page is none of its business."""

    def tested(*names):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
        environment = {**CPU, "PYTHONPATH": str(project.folder / "src")}
        return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True).stdout

    move_in(project)
    rooms, house = (f"tests/unit/workflow/test_{name}.py" for name in ("rooms", "house_rules"))
    for name in (rooms, house, "pyproject.toml", "constraints.txt"):
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project.folder / name)
    said = tested(rooms, house)
    assert "failed" not in said, said
    assert "passed" in said, said
    with (project.folder / "src/diffmech/report/shapes/page.py").open("a") as page:
        page.write("\nfrom diffmech.report.heads.findings import findings\n")
    assert "test_rooms.py::test_no_study_imports_another" in tested(rooms)


def test_a_new_study_is_a_target_and_part_of_everything_where_it_is_asked_for(project):
    main = rules(project.planned(None, "everything"))
    assert "write_report" in main
    assert "front_page" in main
    move_in(project)
    listed = project.snakemake("--list-rules").stdout.split()
    assert {"shapes", "shapes_page", "everything", "front_page", "all"} <= set(listed)
    assert rules(project.planned(None, "everything")) == main
    assert rules(project.planned({"shapes": None}, "everything")) == main
    assert rules(project.planned(ASKED, "everything")) == main | {"shapes_page"}
    assert "shapes_page" not in rules(project.planned(ASKED))
    # by its name it runs with its defaults, and nothing but what it needs
    assert rules(project.planned(None, "shapes")) == {"shapes_page", "prepare_dataset"}


def test_a_study_that_moves_in_repeats_nothing_and_is_on_the_front_page(finished, tmp_path):
    project = move_in(finished.copy(tmp_path / "copy"))
    assert project.planned() == set()
    assert project.planned(ASKED) == set()
    assert rules(project.run("everything")) == {"front_page"}
    front = project.folder / "results/index.html"
    assert "report.html" in front.read_text()
    assert "Shapes &amp; sizes" in front.read_text()
    assert "config.yaml has no section shapes" in front.read_text()
    [command] = re.findall("<code>(snakemake [^<]* shapes)</code>", front.read_text())
    assert project.snakemake(*shlex.split(command)[1:]).returncode == 0
    assert rules(project.run("everything")) == {"front_page"}
    assert "2 shapes." in front.read_text()
    assert "not asked for: config.yaml has no section shapes; this is from when it was last run" in front.read_text()
    assert project.planned(None, "everything") == set()
    assert rules(project.run("everything", edit=ASKED)) == {"front_page", "shapes_page"}
    assert "<p>3 shapes.</p>" in (project.folder / "results/shapes.html").read_text()
    assert "shapes.html" in front.read_text()
    assert "How many shapes are there?" in front.read_text()
    assert "no section shapes" not in front.read_text()
    assert project.planned(ASKED, "everything") == set()
    # an edit of what names its files reruns nothing, one of its code its page
    with (project.folder / "src/diffmech/shapes/paths.py").open("a") as module:
        module.write("\n\nadded = 1\n")
    assert project.planned(ASKED, "everything") == set()
    with (project.folder / "src/diffmech/report/shapes/page.py").open("a") as module:
        module.write("\n\nadded = 1\n")
    assert rules(project.planned(ASKED, "everything")) == {"front_page", "shapes_page"}


def test_cards_say_which_study_has_a_page_and_why_another_has_none(tmp_path):
    from diffmech.report.front_page import write_front_page

    page = tmp_path / "report.html"
    write_findings([Finding("Is 1 < 2?", "found", "Yes.", (), "answers")], tmp_path / "findings.json")
    asked = StudyCard("heads", "Heads <1>", page, tmp_path / "findings.json", "")
    absent = StudyCard("shapes", "Shapes", None, None, "not asked for")
    write_front_page([asked, absent], tmp_path / "index.html", title="All & sundry")
    text = (tmp_path / "index.html").read_text()
    assert "All &amp; sundry" in text
    assert "Heads &lt;1&gt;" in text
    assert "Is 1 &lt; 2?" in text
    assert text.index("report.html") < text.index("not asked for")
