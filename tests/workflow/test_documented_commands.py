"""Every command of README, docs and study files is run, or asked what it would run where that takes long."""

import re
import shlex
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("tiny")]

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config.yaml")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "resources" / "studies").glob("*.yaml")),
]
COMMAND = re.compile(
    r"(?:^#? *|`)((?:\.venv/bin/)?(?:snakemake|make|python -m|pip)(?: +[^`#\n]+)+?) *(?:`|#.*)?$|"
    r"`((?:\.venv/bin/)?(?:snakemake|make|python -m|pip)(?: +[^`#\n]+)+)`",
    re.MULTILINE,
)


def commands() -> set[str]:
    """Return all commands of the pages; words that stand for a file of the reader's are put in by the test."""
    found = set()
    for page in PAGES:
        for first, second in COMMAND.findall(page.read_text(encoding="utf-8")):
            command = re.split(" {2,}", (first or second).strip())[0]  # what follows at a distance is about it
            found.add(command.removeprefix(".venv/bin/"))
    return found


ALL = sorted(commands())
# What goes to a cluster needs a plugin, and runs in tests/cluster.
OF_SNAKEMAKE = [command for command in ALL if command.startswith("snakemake") and "profiles/" not in command]


def test_the_commands_of_the_pages_are_found() -> None:
    known = {"make run", "make plan", "snakemake --cores 2 plan", "snakemake --report report.zip", "make docs"}
    assert known <= set(ALL)
    assert "snakemake plan --cores 2 --configfile my-study.yaml" in ALL


@pytest.mark.parametrize("command", [command for command in ALL if command.startswith("make")])
def test_every_target_of_make_exists(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if "=" not in word]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


@pytest.mark.parametrize("command", [command for command in OF_SNAKEMAKE if "--report" not in command])
def test_every_command_of_snakemake_plans_its_jobs(command: str, project, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (project.folder / "my-study.yaml").write_text((ROOT / "resources/studies/tiny.yaml").read_text())
    (project.folder / "patch_denoiser.py").write_text("")
    (project.folder / "patch_denoiser.pt").write_text("")
    done = project.call(*shlex.split(command)[1:], "--dry-run", "--quiet", "all")
    answer = done.stdout + done.stderr
    # data of the reader's own are not here: a dry run gets as far as asking for them
    missing = "MissingInputException" in answer or "no such" in answer
    assert done.returncode == 0 or (missing and "resources/studies" in command), answer[-3000:]
    assert "Traceback" not in answer


def test_the_report_of_snakemake_is_packed(finished, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (command,) = [command for command in OF_SNAKEMAKE if command.endswith(".zip")]
    copy = finished.copy(tmp_path / "copy")
    done = copy.snakemake(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    with zipfile.ZipFile(copy.folder / "report.zip") as packed:
        assert any(name.endswith("report.html") for name in packed.namelist())
