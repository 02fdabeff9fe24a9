"""The user's own code: where an implementation lies, and a digest that says whether it is still the same.

The digest covers the file and all that it imports from beside or below it, so that no result outlives the code it came
from. As for our own code it ignores comments, docstrings and the words of errors. Installed packages are versions, not
code: of an implementation in one of them only its own file is covered.
"""

import ast
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from diffmech.workflow.fingerprints import PACKAGE, syntax

INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class OwnCode:
    """A class in a file; its imports are looked for in `folder`. `module` is empty for a file given by its path."""

    file: Path
    folder: Path
    module: str
    name: str


def find_code(implementation: str, root: Path) -> OwnCode | None:
    """Return where `path/to/file.py:Class` or `package.module:Class` lies, None where there is no such file.

    A path counts from the working directory or from `root`, the project. Nothing is imported.
    """
    target, _, name = implementation.rpartition(":")
    if target.endswith(".py"):
        path = Path(target).expanduser()
        file = next((each.resolve() for each in (path, root / path) if each.is_file()), None)
        return OwnCode(file, file.parent, "", name) if file else None
    parts = target.split(".")
    spec = find_spec(parts[0])
    for depth in range(2, len(parts) + 1):  # level by level: looking for a submodule at once would import its package
        places = list((spec and spec.submodule_search_locations) or [])
        spec = PathFinder.find_spec(".".join(parts[:depth]), places)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin).resolve()
    inside = len(parts) - (file.name != "__init__.py")
    return OwnCode(file, file.parents[inside], target, name)


def own_files(code: OwnCode) -> list[Path]:
    """Return the file of `code` and those it imports from `code.folder`, directly or through others, in order."""
    found: set[Path] = set()
    waiting = [code.file]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            others = _imported(file, code.folder) if not is_installed(file) else ()
            waiting.extend(other for other in others if not is_installed(other))
    return sorted(found)


def is_installed(file: Path) -> bool:
    """Return whether `file` belongs to an installed package, or to this one."""
    return bool(set(INSTALLED) & set(file.parts)) or file.is_relative_to(PACKAGE)


def code_digest(code: OwnCode) -> str:
    """Return the SHA-256 of the syntax trees of `own_files`; a file that is no valid Python counts as it is."""
    digest = hashlib.sha256(code.name.encode())
    for file in own_files(code):
        text = file.read_bytes()
        tree = _parsed(file)
        digest.update(Path(os.path.relpath(file, code.folder)).as_posix().encode())
        digest.update(hashlib.sha256(text if tree is None else ast.dump(tree).encode()).digest())
    return digest.hexdigest()


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    tree = _parsed(file)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name, folder)
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            for name in [node.module or "", *(f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names)]:
                yield from _files_of(name, base)


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """Yield the files in `folder` that an import of `module` runs: its packages and itself."""
    path = folder
    for part in module.split(".") if module else []:
        path = path / part
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _parsed(file: Path) -> ast.Module | None:
    try:
        return syntax(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, ValueError):  # ValueError: bytes that are no UTF-8, or null bytes
        return None
