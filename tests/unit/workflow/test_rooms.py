"""Each study is a room of its own: none imports another's code, and imports run in one direction only."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffmech.config.further import further_sections
from diffmech.workflow.fingerprints import is_glue, module_file

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "diffmech"
LAZY_NAME = re.compile(r"^diffmech(?:\.\w+)+(?::\w+)?$")

MAIN_STUDY = {"mechanisms", "interventions", "circuits", "resampling", "planted", "heads"}
FURTHER_ROOMS = [{name, f"report/{name}"} for name in further_sections()]
STUDIES = [{*MAIN_STUDY, "measures", "report/heads"}, *FURTHER_ROOMS]

# What each package, and each module beside them, may import; a further study may import all but other studies.
BASE = {
    "errors",
    "randomness",
    "machine",
    "archives",
    "artifacts",
    "tensors",
    "tables",
    "batches",
    "config",
    "statistics",
}
OBSERVED = BASE | {"data", "training", "models", "attention"}
MAY_IMPORT = {
    "errors": set(),
    "randomness": set(),
    "machine": set(),
    "findings": {"artifacts", "errors"},
    "charts": set(),
    "archives": {"errors", "verify"},
    "artifacts": {"archives", "errors"},
    "tensors": {"artifacts", "errors"},
    "tables": {"artifacts", "errors"},
    "declared": {"tables"},
    "dictionary": {"declared", "tables"},
    "batches": {"config", "errors"},
    "statistics": {"randomness"},
    "config": {"errors", "statistics"},
    "data": BASE,
    "training": BASE | {"data"},
    "models": BASE | {"data", "training"},
    "judging": BASE | {"data", "training", "models"},
    "attention": BASE | {"data", "models"},
    "interventions": OBSERVED,
    "mechanisms": OBSERVED | {"interventions"},
    "circuits": OBSERVED | {"interventions"},
    "resampling": OBSERVED | {"interventions", "judging"},
    "planted": OBSERVED | {"interventions", "mechanisms"},
    "workflow": {"artifacts", "config", "errors", "batches", "data", "findings"},
    "verify": set(),  # one file that runs by itself
    "provenance": {"artifacts", "errors", "verify", "workflow"},
    "heads": {"config", "workflow", "tables", "declared", "data", "models"} | MAIN_STUDY,  # of the others tables alone
    "report": {"artifacts", "errors", "findings"},
    "report/heads": OBSERVED | MAIN_STUDY | {"findings", "charts", "measures", "report"},
    "measures": OBSERVED | MAIN_STUDY | {"charts", "report"},
    "testing": {"attention", "models", "randomness", "training"},
    "__init__": {"attention"},
}
FURTHER = OBSERVED | {"judging", "workflow", "findings", "charts", "report"}
# Arrows that point up, and why each is there.
UPWARDS = {
    ("config.images", "data"),  # a kind of data set names what reads it, which only the jobs that read it import
    ("config.images", "planted"),
    ("config.factor_data", "data"),
    ("config.anomaly_data", "anomaly"),
    ("workflow.study", "models"),  # what loads each kind of denoiser is named for the fingerprints of its rules
    ("workflow.study", "planted"),
    ("models.importing", "planted"),  # planted denoisers are imported as any other, by the loader of their kind
    ("models.implementation", "workflow"),  # the digest of the user's own code, which the workflow tracks too
    ("models.own_module", "workflow"),
    ("attention.plan_others", "circuits"),  # the plan of the whole main study is made beside that of its captures
    ("attention.plan_others", "interventions"),
}


def room_of(module: str) -> str:
    """Return the package or module below diffmech; the pages of each study are a room beside the kit of all."""
    below = module.split(".")[1:]
    of_a_study = below[0] == "report" and len(below) > 1 and (SOURCE / "report" / below[1]).is_dir()
    return "/".join(below[:2]) if of_a_study and below[1] != "templates" else below[0]


def imports(file: Path) -> Iterator[str]:
    """Yield what a file imports of the package, at its top or in functions, and modules that it names in strings."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("diffmech."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffmech":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if module_file(name).is_file() else str(node.module)
        elif isinstance(node, ast.Constant) and LAZY_NAME.match(str(node.value)):
            yield str(node.value).split(":")[0]


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(SOURCE.rglob("*.py")):
        yield ".".join(("diffmech", *file.relative_to(SOURCE).with_suffix("").parts)), file


def test_no_study_imports_another() -> None:
    for module, file in modules():
        for own in STUDIES:
            if room_of(module) in own:
                others = set().union(*STUDIES) - own
                assert not {room_of(name) for name in imports(file)} & others, module


def test_imports_run_in_one_direction() -> None:
    used = set()
    for module, file in modules():
        room, place = room_of(module), module.removeprefix("diffmech.")
        [own] = [own for own in FURTHER_ROOMS if room in own] or [set()]
        allowed = FURTHER | own if own else MAY_IMPORT[room]
        for name in imports(file):
            # declarations of tables lie below everything
            if room_of(name) not in allowed | {room} and not name.endswith(".tables"):
                used.add((place, room_of(name)))
    assert used == UPWARDS


def test_what_a_study_names_for_its_rules_is_glue_and_the_code_of_the_same_name_is_not() -> None:
    glue = {module for module, _ in modules() if is_glue(module) and not module.endswith("__init__")}
    of_packages = ("diffmech.config.", "diffmech.workflow.", "diffmech.errors")
    further = {f"diffmech.{name}.paths" for name in further_sections()}
    assert {module for module in glue if not module.startswith(of_packages)} == {
        "diffmech.heads.paths",
        "diffmech.heads.resamplings",
        "diffmech.heads.tellings",
        *(name for name in further if module_file(name).is_file()),
    }
    assert module_file("diffmech.interventions.paths").is_file()
    assert not is_glue("diffmech.interventions.paths")


def test_glue_of_a_study_computes_nothing() -> None:
    """It imports configuration, other glue and declarations alone: all that it says is tracked as parameters."""
    for module, file in modules():
        if is_glue(module) and room_of(module) not in ("config", "workflow", "errors"):
            for name in imports(file):
                declared = (
                    name.endswith(".tables") or name == "diffmech.heads.files"
                )  # paths alone, which jobs read too
                assert is_glue(name) or declared, f"{module} imports {name}"


def test_no_module_grows_too_long() -> None:
    lines = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in modules()}
    assert {module: count for module, count in lines.items() if count > 400} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import diffmech.report.heads.findings",
        "from diffmech.report import heads",
        "from diffmech.report.heads import findings",
        "def later():\n    from diffmech.report.heads.findings import findings",
        "DRAW = 'diffmech.report.heads.charts_model:recognition'",
    ],
)
def test_the_room_of_what_is_imported_is_seen_however_it_is_written(line: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(line)
    assert {room_of(name) for name in imports(tmp_path / "page.py")} == {"report/heads"}
    (tmp_path / "page.py").write_text("from diffmech.report import markup\nfrom diffmech import tables")
    assert {room_of(name) for name in imports(tmp_path / "page.py")} == {"report", "tables"}
