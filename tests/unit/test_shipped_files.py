"""What is shipped says nothing of the machine that made it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ["resources", "src", "rules", "workflow_scripts", "profiles", "envs", "docs", "config.yaml", "Snakefile"]
OF_A_MACHINE = re.compile(rb'"_name_or_path"\s*:\s*"[^"]|/(?:home|root|Users|tmp|mnt|work)/\w+|[A-Z]:\\\\Users')


def files(name: str) -> list[Path]:
    path = ROOT / name
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [p for p in found if "__pycache__" not in p.parts and ".egg-info" not in str(p)]


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_file_holds_a_path_of_a_machine(name) -> None:
    assert files(name)
    for file in files(name):
        found = OF_A_MACHINE.search(file.read_bytes())
        assert found is None, f"{file}: {found[0]!r}"
