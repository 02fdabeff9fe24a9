"""Which code a rule depends on, as a short hash that Snakemake tracks as a parameter.

The fingerprint covers the rule's script and every diffmech module that it imports, directly or not, at the top of a
module or inside a function, by statement or by a lazy "module:name" string. Such a string that names a folder stands
for all that lies in it: modules that are found by their files, and templates. It hashes syntax trees without
docstrings, the words of errors and annotations of functions, so comments, docstrings, messages of `raise`, types and
shapes of arguments, formatting and `touch` change nothing (no model is trained again over a reworded error) and a real
edit changes exactly what depends on it. Types in classes count, since a dataclass is made of them; shapes do nowhere.
Configuration and workflow glue are left out, and so is what names the files and jobs of a study for its rules: what
they pass on is tracked as parameters. Of a table that is declared for the code that writes or reads it, the names of
its columns, their order and what their cells hold count, as they decide what is written, and no word of what they mean.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import isfunction
from pathlib import Path

from diffmech.tables import layout

PACKAGE = Path(__file__).parents[1]
_UNTRACKED = ("diffmech.config", "diffmech.workflow", "diffmech.errors")
_DECLARATIONS = re.compile(r"^diffmech\.\w+\.tables$")
_DECLARED = re.compile(r"^(diffmech\.\w+\.tables)\.(\w+)$")
_OF_COLUMNS = ("text", "whole", "number", "flag", "interval")  # the functions of `diffmech.tables` that declare one
# In the package of a study; elsewhere modules of these names are code like any other.
_GLUE_OF_A_STUDY = ("paths", "tellings", "resamplings")
MAIN_STUDY = "heads"
_LAZY_NAME = re.compile(r"^diffmech(?:\.\w+)+(?::\w+)?$")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)
_ALL = ".*"  # behind a name that may be that of a folder

MEMORY = Path(".snakemake") / "diffmech-syntax.json"
MOST_REMEMBERED = 5000  # files in all their versions, about 1 MB
# Python's own syntax trees differ between versions.
_ALGORITHM = f"{sys.version_info[:2]} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"
_new: set[str] = set()


def fingerprint(script: Path) -> str:
    """Return the fingerprint of a script and its import closure inside the package."""
    digest = hashlib.sha256(_tree_digest(script).encode())
    modules = closure(script)
    for module in sorted(modules):
        digest.update(f"{module} {_tree_digest(module_file(module))}\n".encode())
    files = [script, *map(module_file, modules)]
    for template in sorted(file for path in files for file in _templates(path)):
        digest.update(f"{template.name} ".encode() + template.read_bytes())
    for declared in sorted(set(_declared(files))):
        digest.update(f"{declared}\n".encode())
    return digest.hexdigest()[:16]


def closure(script: Path) -> frozenset[str]:
    """Return the names of the package's modules that `script` imports, directly or through others."""
    found: set[str] = set()
    waiting = list(_imports(script))
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(_imports(module_file(module)))
    return frozenset(module for module in found if not _DECLARATIONS.match(module))


def _declared(files: Iterable[Path]) -> Iterator[str]:
    """Yield what counts of the declarations that `files` import: layouts of tables, functions with all their code."""
    for name in {name for file in files for name in _source(file).names}:
        if match := _DECLARED.match(name):
            declared = getattr(import_module(match[1]), match[2], None)
            if isfunction(declared):
                file = module_file(match[1])
                yield f"{name} {_tree_digest(file)}"
                yield from _declared([file])
            else:
                yield f"{name} {layout(declared)}"


def module_file(module: str) -> Path:
    """Return the file of one of the package's modules."""
    return _file_below(PACKAGE, module)


@cache
def _file_below(package: Path, module: str) -> Path:
    path = package.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def syntax(text: str, name: str) -> ast.Module:
    """Return the syntax tree of `text`, the file `name`, without what computes nothing."""
    tree = ast.parse(text, filename=name)
    fields: set[int] = set()
    for node in _nodes(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            fields.update(map(id, node.body))
        elif isinstance(node, _FUNCTIONS):
            node.returns = None
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign) and id(node) not in fields:
            node.annotation = ast.Constant(None)
    return _without_meanings(_without_shapes(tree))


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below, parents first: as `ast.walk`, in half the time, without operators and the like."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting.extend([child for child in value if isinstance(child, ast.AST)])
            elif isinstance(value, ast.AST) and value._fields:
                waiting.append(value)


def _without_shapes(tree: ast.Module) -> ast.Module:
    """Take `Float[Tensor, "sample head"]` for `Tensor`, where fields and named types are annotated with it."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"]
    kinds = {alias.name for node in imports for alias in node.names}

    class Unshaped(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            self.generic_visit(node)
            shaped = isinstance(node.value, ast.Name) and node.value.id in kinds
            return node.slice.elts[0] if shaped and isinstance(node.slice, ast.Tuple) else node

    tree.body = [node for node in tree.body if node not in imports]
    return Unshaped().visit(tree) if kinds else tree


def _without_meanings(tree: ast.Module) -> ast.Module:
    """Take `number("its entropy", "nat")` for `number()`, in a module that declares a table beside its code."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "diffmech.tables"]
    declaring = {alias.name for node in imports for alias in node.names} & {*_OF_COLUMNS}
    for node in ast.walk(tree) if declaring else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in declaring:
            # of an interval, the third says how its columns are called
            node.args = node.args[2:3] if node.func.id == "interval" else []
            node.keywords = [keyword for keyword in node.keywords if keyword.arg == "prefix"]
    return tree


def is_glue(module: str) -> bool:
    """Return whether no fingerprint covers `module`, since what it passes on is tracked as parameters."""
    _, package, *rest = module.split(".")
    if module.startswith(_UNTRACKED):
        return True
    further = PACKAGE / "config" / "studies" / f"{package}.py"
    return bool(rest) and rest[0] in _GLUE_OF_A_STUDY and (package == MAIN_STUDY or further.is_file())


@cache
def _is_code(package: Path, module: str) -> bool:
    """Return whether `module` is one of the package whose code counts; most names are asked for many times."""
    return module.startswith("diffmech.") and not is_glue(module) and _file_below(package, module).is_file()


@dataclass(frozen=True)
class _Source:
    """What is known of one file: the digest of its syntax tree, and the names of modules and folders that it uses."""

    digest: str
    names: tuple[str, ...]


def _tree_digest(path: Path) -> str:
    return _source(path).digest


@cache
def _imports(path: Path) -> frozenset[str]:
    names = set(_source(path).names)
    for folder in _folders(path):
        package = ".".join(["diffmech", *folder.relative_to(PACKAGE).parts])
        names.update(f"{package}.{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__")
    return frozenset(name for name in names if _is_code(PACKAGE, name))


def _folders(path: Path) -> list[Path]:
    """Return the folders that a file names by a lazy string."""
    named = [name.removesuffix(_ALL) for name in _source(path).names if name.endswith(_ALL)]
    return [folder for name in named if (folder := PACKAGE.joinpath(*name.split(".")[1:])).is_dir()]


def _templates(path: Path) -> set[Path]:
    """Return the templates in the folders that a file names."""
    return {file for folder in _folders(path) for file in folder.glob("*.html")}


@cache
def _source(path: Path) -> _Source:
    text = path.read_text(encoding="utf-8")
    # Parsing all modules takes a second, and every job parses the workflow anew; what their text is tells all.
    key = hashlib.sha256(f"{_ALGORITHM}\n{text}".encode()).hexdigest()
    known = _remembered()
    if key not in known:
        tree = syntax(text, str(path))
        known[key] = [hashlib.sha256(ast.dump(tree).encode()).hexdigest(), *sorted(_names(tree))]
        _new.add(key)
    digest, *names = known[key]
    return _Source(digest, tuple(names))


def remember() -> None:
    """Keep what was parsed for the next process, beside Snakemake's own records, where there are any."""
    if not _new or not MEMORY.parent.is_dir():
        return
    with contextlib.suppress(OSError):
        unfinished = MEMORY.with_name(f"{MEMORY.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(_remembered()), encoding="utf-8")
        unfinished.replace(MEMORY)
        _new.clear()


@cache
def _remembered() -> dict[str, list[str]]:
    try:
        content = json.loads(MEMORY.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and len(content) < MOST_REMEMBERED else {}


def _names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _LAZY_NAME.match(node.value):
            names |= {node.value.split(":")[0], f"{node.value.split(':')[0]}{_ALL}"}
    return {name for name in names if name.startswith("diffmech.")}
