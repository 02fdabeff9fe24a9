"""A fingerprint changes with what code does, and with nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = "workflow_scripts/attention_entropy.py"


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "workflow_scripts", tmp_path / "workflow_scripts")
    return tmp_path


def fingerprint(folder: Path, script: str = SCRIPT) -> str:
    code = (
        f"import sys; sys.path.insert(0, {str(folder / 'src')!r}); from pathlib import Path;"
        "from diffmech.workflow.fingerprints import fingerprint;"
        f"print(fingerprint(Path({str(folder / script)!r})))"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_comments_docstrings_and_touch_change_nothing(copy):
    before = fingerprint(copy)
    module = copy / "src/diffmech/mechanisms/entropy.py"
    module.write_text("# a remark\n" + module.read_text().replace('"""', '"""Another word. ', 1))
    (copy / "src/diffmech/artifacts.py").touch()
    assert fingerprint(copy) == before


def test_a_reworded_error_changes_nothing_but_another_error_does(copy):
    before = fingerprint(copy)
    module = copy / "src/diffmech/artifacts.py"
    edit(module, "is not a whole store", "is half a store")
    assert fingerprint(copy) == before
    edit(module, "raise StoreError(", "raise ValueError(")
    assert fingerprint(copy) != before


def test_annotations_that_compute_nothing_change_nothing(copy):
    module = copy / "src/diffmech/randomness.py"
    with module.open("a") as source:
        source.write(
            "\n\nclass Added:\n    n: np.ndarray\n\n\ndef added(n: int) -> int:\n    m: int = n\n    return m\n"
        )
    before = fingerprint(copy)
    edit(module, "def added(n: int) -> int", "def added(n: float) -> float")
    edit(module, "m: int", "m: float")
    edit(module, "import numpy as np\n", "import numpy as np\nfrom jaxtyping import Float\n")
    edit(module, "n: np.ndarray", 'n: Float[np.ndarray, "sample"]')
    assert fingerprint(copy) == before
    edit(module, 'n: Float[np.ndarray, "sample"]', "n: float")  # a field: the class is another one
    assert fingerprint(copy) != before


def test_a_real_edit_changes_its_own_cone_only(copy):
    capture = "workflow_scripts/capture_attention.py"
    entropy_before, capture_before = fingerprint(copy), fingerprint(copy, capture)
    with (copy / "src/diffmech/mechanisms/entropy.py").open("a") as module:
        module.write("\n\ndef added() -> int:\n    return 1\n")
    assert fingerprint(copy) != entropy_before
    assert fingerprint(copy, capture) == capture_before


def test_an_edit_deep_in_the_closure_is_seen(copy):
    before = fingerprint(copy)
    edit(copy / "src/diffmech/randomness.py", "hashlib.sha256", "hashlib.sha512")
    assert fingerprint(copy) != before


def test_configuration_and_glue_are_tracked_as_parameters_instead(copy):
    before = fingerprint(copy)
    with (copy / "src/diffmech/config/analysis.py").open("a") as module:
        module.write("\n\nadded = 1\n")
    assert fingerprint(copy) == before


def test_declarations_of_tables_count_by_the_code_that_computes_them(copy):
    before = fingerprint(copy)
    declared = copy / "src/diffmech/mechanisms/tables.py"
    edit(declared, "How widely each head attends.", "How wide.")
    edit(declared, '"condition": text(', '"told": text("what it is told"),\n        "condition": text(')
    assert fingerprint(copy) == before
    edit(copy / "src/diffmech/tables.py", "digits: int = 6", "digits: int = 7")
    assert fingerprint(copy) != before


def test_lazily_named_modules_belong_to_the_closure(tmp_path, monkeypatch):
    from diffmech.workflow import fingerprints

    package = tmp_path / "diffmech"
    package.mkdir()
    (package / "late.py").write_text("x = 1\n")
    script = tmp_path / "script.py"
    script.write_text('NAME = "diffmech.late:thing"\n')
    monkeypatch.setattr(fingerprints, "PACKAGE", package)
    assert fingerprints.closure(script) == {"diffmech.late"}


def test_a_lazily_named_folder_stands_for_its_modules_and_templates(tmp_path, monkeypatch):
    from diffmech.workflow import fingerprints

    folder, script = tmp_path / "diffmech" / "found", tmp_path / "script.py"
    folder.mkdir(parents=True)
    script.write_text('FOLDER = "diffmech.found"\n')
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path / "diffmech")
    seen = []
    for name, text in (("one.py", "x = 1\n"), ("page.html", "<p>"), ("page.html", "<b>")):
        (folder / name).write_text(text)
        fingerprints._imports.cache_clear()
        seen.append(fingerprints.fingerprint(script))
    assert fingerprints.closure(script) == {"diffmech.found.one"}
    assert len(set(seen)) == 3


def test_what_is_remembered_gives_the_same_fingerprints_and_hides_no_edit(copy):
    def run(folder: Path) -> str:
        code = (
            f"import sys; sys.path.insert(0, {str(copy / 'src')!r}); from pathlib import Path;"
            "from diffmech.workflow import fingerprints;"
            f"print(fingerprints.fingerprint(Path({str(copy / SCRIPT)!r})), len(fingerprints._new));"
            "fingerprints.remember()"
        )
        return subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder
        ).stdout.split()

    records = copy / ".snakemake"
    records.mkdir()
    computed, parsed = run(copy)
    assert int(parsed) > 5
    assert run(copy) == [computed, "0"]
    edit(copy / "src/diffmech/mechanisms/entropy.py", "np.log(site.keys)", "np.log2(site.keys)")
    edited, parsed = run(copy)
    assert edited != computed
    assert parsed == "1"
    (records / "diffmech-syntax.json").write_text("{ half a file")
    assert run(copy)[0] == edited


def test_a_rule_that_runs_a_denoiser_tracks_the_loader_of_its_kind_alone():
    from diffmech.models.load import LOADERS as FUNCTIONS
    from diffmech.workflow.fingerprints import closure
    from diffmech.workflow.study import LOADERS

    by_name = {f"diffmech.{place.split(':')[0]}" for place in FUNCTIONS.values()} - {"diffmech.models.load"}
    assert set(LOADERS.values()) == by_name
    assert not closure(ROOT / "workflow_scripts/capture_attention.py") & by_name
