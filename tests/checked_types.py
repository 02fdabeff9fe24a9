"""How calls are checked against the shapes in their annotations in tests; installed by conftest.py."""

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import jaxtyped

KINDS = {"Float", "Int", "Bool", "Inexact", "Num", "Shaped"}
# numpy gives a scalar for an array without axes, and a whole number is also a `float`, as type checkers have it.
CONF = BeartypeConf(hint_overrides=FrozenDict({np.ndarray: np.ndarray | np.generic}), is_pep484_tower=True)
checked = jaxtyped(typechecker=beartype(conf=CONF))


def install(packages: Sequence[str]) -> None:
    """Check the modules of these packages that are imported from now on."""
    sys.meta_path.insert(0, _Finder(tuple(f"{package}." for package in packages)))


class _Finder(MetaPathFinder):
    """Finds the modules of some packages as Python does, for a loader that adds checks."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.prefixes = prefixes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(self.prefixes) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Decorates what names shapes: jaxtyping's own hook also decorates all else, which takes most of its time."""

    def get_code(self, name: str) -> CodeType:
        # never from a cache, which knows nothing of checks
        tree = ast.parse(self.get_data(self.path), self.path)
        aliases = {
            ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign) and _shaped(node.value)
        }
        found = [_check(node, KINDS | aliases) for node in tree.body]
        if any(found):
            place = 1 if ast.get_docstring(tree) else 0
            tree.body.insert(place, ast.Import(names=[ast.alias("checked_types")]))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


def _check(node: ast.AST, names: set[str]) -> bool:
    """Decorate a function, or a class and its methods, and return whether there was anything to decorate."""
    if isinstance(node, ast.FunctionDef):
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        found = any(_shaped(arg.annotation, names) for arg in given if arg) or _shaped(node.returns, names)
        place = len(node.decorator_list)  # what others make of it has perhaps no annotations
    elif isinstance(node, ast.ClassDef):
        within = [_check(child, names) for child in node.body]
        found = any(_shaped(child.annotation, names) for child in node.body if isinstance(child, ast.AnnAssign))
        place = 0  # after it became a dataclass
        if not found:
            return any(within)
    else:
        return False
    if found:
        decorator = ast.parse("checked_types.checked", mode="eval").body
        node.decorator_list.insert(place, ast.copy_location(decorator, node))
    return found


def _shaped(annotation: ast.AST | None, names: set[str] = KINDS) -> bool:
    """Return whether an annotation names a shape."""
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id in names for node in ast.walk(annotation)
    )
