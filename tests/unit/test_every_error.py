"""Every error that a user can meet is met by a test, which says so by words of its message.

All places that raise an error of the package, or one that becomes a mistake in config.yaml, are collected from the
source. A test names one where a string of it holds three words in a row that only this message has (any three, where it
has none of its own). That is as much as can be told without running all tests: that the words are asserted, and not in
a comment, is theirs to see to.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "diffmech"
ERRORS = {"ConfigError", "DataError", "ModelError", "StoreError"}
OF_VALIDATION = "ValueError"  # in a section of the configuration
WORDS = 3


@dataclass(frozen=True)
class Site:
    """One place that raises an error, by its module and the first words of its message."""

    module: str
    name: str
    windows: frozenset[str]


def normal(text: str) -> str:
    """Return the words of `text`, in small letters; what regular expressions escape is as it stands in the message."""
    return " ".join(re.findall(r"[a-z0-9]+", text.replace("\\", "").lower()))


def windows(fragments: list[str]) -> frozenset[str]:
    """Return all rows of three words; what stands between two fragments is known to the message alone."""
    rows = set()
    for fragment in fragments:
        words = normal(fragment).split()
        rows |= {" ".join(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)}
    return frozenset(rows)


def fragments(message: ast.expr) -> list[str]:
    """Return the constant parts of a message, with those of words that are chosen in it."""
    return [node.value for node in ast.walk(message) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def sites() -> Iterator[Site]:
    for file in sorted(SOURCE.rglob("*.py")):
        module = file.relative_to(SOURCE).as_posix()
        errors = ERRORS | ({OF_VALIDATION} if module.startswith("config/") else set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in errors and call.args:
                parts = fragments(call.args[0])
                rows = windows(parts)
                if rows:  # a message that is made elsewhere is named there
                    yield Site(module, " ".join(normal(" ".join(parts)).split()[:8]), rows)


def named_in_tests() -> set[str]:
    found: set[str] = set()
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if file == Path(__file__):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= windows(re.split(r"\.\*|\\S\+|\|", node.value))
    return found


def unnamed() -> list[str]:
    """Return the errors that no test names, as `module: first words`."""
    every, named = list(sites()), named_in_tests()
    common = Counter(row for site in every for row in site.windows)
    left = []
    for site in every:
        own = {row for row in site.windows if common[row] == 1} or site.windows
        if not own & named:
            left.append(f"{site.module}: {site.name}")
    return left


def test_every_error_is_named_by_a_test() -> None:
    assert unnamed() == [], "write a test that raises each of these and matches words that only its message has"


def test_the_errors_of_the_package_are_found() -> None:
    modules = {site.module for site in sites()}
    assert {"config/study.py", "models/weights.py", "data/folder.py", "interventions/patching.py"} <= modules
    assert len(list(sites())) > 200


def test_no_message_has_more_than_one_line_or_advises_to_load_unsafely() -> None:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args:
                text = "".join(fragments(call.args[0])).replace("\n\n", "")
                assert "weights_only=False" not in text, f"{file}, line {node.lineno}"
                assert "\n" not in text or text == "\n", f"{file}, line {node.lineno}"
