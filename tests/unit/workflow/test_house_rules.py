"""Rules of the house that incremental runs and reproducible environments depend on."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def rules(file):
    """Return the text of every rule of a file, from its name on."""
    return re.split(r"(?m)^(?:rule|checkpoint) ", file.read_text())[1:]


def test_the_conda_environment_lists_what_the_package_depends_on():
    environment = yaml.safe_load((ROOT / "envs" / "diffmech.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == PROJECT["dependencies"]


def test_every_dependency_is_pinned_to_a_version_it_allows():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {Requirement(line).name.lower().replace("_", "-"): Requirement(line).specifier for line in lines}
    extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
    for text in [*PROJECT["dependencies"], *extras]:
        need = Requirement(text)
        (version,) = [str(pin.version) for pin in pinned[need.name.lower().replace("_", "-")]]
        assert need.specifier.contains(version), f"{text} does not allow the pinned {version}"


@pytest.mark.parametrize("script", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda path: path.stem)
def test_a_rule_script_only_wires(script):
    tree = ast.parse(script.read_text())
    assert len(script.read_text().splitlines()) <= 25
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)
    ]


@pytest.mark.parametrize("package", sorted((ROOT / "src/diffmech").glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_packages_stay_empty_so_that_fingerprints_do_not_merge(package):
    assert not [
        node for node in ast.walk(ast.parse(package.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def test_every_rule_behind_which_images_lie_asks_whether_they_changed():
    """A rule that does not ask runs again whenever a data set was read again, and so does all below it."""
    without_images = {"prepare_dataset", "import_denoiser", "plan", "generated_latents", "provenance"}
    asked_for = {"image_groups", "choose_references"}  # nothing that these ask for may be asked for too
    own_images = {"vae.smk", "anomaly.smk"}  # of studies that know nothing of the data sets of the main one
    for file in sorted((ROOT / "rules").glob("*.smk")):
        for rule in rules(file):
            name = rule.split(":")[0]
            if file.name in own_images:
                assert "by_content(" not in rule
            elif "script:" in rule:
                assert ("        settled=settled" in rule) == (name not in without_images | asked_for), name
            # its time says nothing, so it is no input without its digest
            assert ("by_content(" in rule) <= ("study.digests(" in rule), name


def test_every_rule_behind_which_brains_lie_has_a_file_of_both_checkpoints():
    """Of others it is not asked anew whether they have to run, once the slices were read or split again."""
    before = {"anomaly_slices": set(), "anomaly_splits": {"SLICES"}, "anomaly_folds": {"SLICES"}}
    before["anomaly_round"] = {"SLICES"}  # itself a checkpoint, which asks for none
    for rule in rules(ROOT / "rules" / "anomaly.smk"):
        name, inputs = rule.split(":")[0], rule.split("    output:")[0]
        if "script:" in rule:
            assert "checkpoints." not in rule, name
            found = {what for what in ("SLICES", "SEEN") if f"anomaly_paths.{what}" in inputs}
            assert found == before.get(name, {"SLICES", "SEEN"}), name


def test_every_rule_tracks_its_code_and_names_its_environment():
    scripts = set()
    for file in sorted((ROOT / "rules").glob("*.smk")):
        for rule in rules(file):
            if "script:" in rule:
                name = rule.split(":")[0]
                scripts.add(name)
                assert re.search(rf'code=(lambda wildcards: )?\w+\.(denoising_|data_)?code\("{name}"', rule), name
                assert f'"../workflow_scripts/{name}.py"' in rule, name
                # A rule without output runs whenever it is asked for, which a benchmark file would prevent.
                timed = ["benchmark"] if "    output:" in rule else []
                assert all(f"    {word}:" in rule for word in ("log", *timed, "conda", "threads", "message")), name
    assert scripts == {path.stem for path in (ROOT / "workflow_scripts").glob("*.py")}
