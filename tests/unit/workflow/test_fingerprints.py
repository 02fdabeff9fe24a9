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


def fingerprints(folder: Path, *scripts: str) -> list[str]:
    code = (
        f"import sys; sys.path.insert(0, {str(folder / 'src')!r}); from pathlib import Path;"
        "from diffmech.workflow import fingerprints;"
        f"print(*(fingerprints.fingerprint(Path(script).absolute()) for script in {scripts!r}));"
        "fingerprints.remember()"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder)
    return found.stdout.split()


def fingerprint(folder: Path, script: str = SCRIPT) -> str:
    return fingerprints(folder, script)[0]


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
    edit(module, "cannot be read as a table", "is no table")
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


def test_of_a_declared_table_its_layout_counts_and_no_word_of_what_it_means(copy):
    """For the scripts that write or read the table, and no others."""
    others = ("capture_attention", "attention_entropy", "attribution_patching")
    below = ("ablation_effects", "mechanism_account", "write_report")
    scripts = [f"workflow_scripts/{name}.py" for name in (*others, *below)]
    declared = copy / "src/diffmech/interventions/tables.py"
    (copy / ".snakemake").mkdir()  # what is parsed once is remembered
    text, before = declared.read_text(), fingerprints(copy, *scripts)
    edit(copy / "src/diffmech/mechanisms/tables.py", "How widely each head attends.", "How wide.")
    edit(copy / "src/diffmech/models/tables.py", 'name="heldout"', 'name="held_out"')
    edit(declared, '"effect that would be found four times in five", "%"', '"what would be seen", "1"')
    assert fingerprints(copy, *scripts) == before
    for old, new in {
        ' "p_zero": number(': ' "p_none": number(',  # a name
        '"heads": HEADS,\n        "n": N,\n': '"n": N,\n        "heads": HEADS,\n',  # the order
        '"controls_fair": flag(': '"controls_fair": text(',  # a kind
        '"weight": number(': '"more": number("more"),\n        "weight": number(',  # one more
    }.items():
        declared.write_text(text)
        edit(declared, old, new)
        changed = [one != known for one, known in zip(fingerprints(copy, *scripts), before, strict=True)]
        assert changed == [False] * len(others) + [True] * len(below), new


def test_a_measure_that_declares_its_own_table_counts_alike(copy):
    module, script = copy / "src/diffmech/own.py", copy / "own.py"
    module.write_text(
        "from diffmech.tables import Table, interval, number\n"
        'KEYS = number("exp of that entropy", "keys")\n'
        'COLUMNS = {"keys": KEYS, **interval("the keys", prefix="keys_")}\n'
    )
    script.write_text("import diffmech.own\n")
    before = fingerprint(copy, "own.py")
    edit(module, "exp of that entropy", "number of keys")
    edit(module, "the keys", "this number")
    assert fingerprint(copy, "own.py") == before
    edit(module, "keys_", "of_keys_")
    assert fingerprint(copy, "own.py") != before


def test_how_tables_are_written_counts_as_any_code(copy):
    before = fingerprint(copy)
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
