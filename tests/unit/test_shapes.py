"""The numerical rooms say the shapes of their arrays where they are annotated, so that tests check every call."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest

from diffmech.statistics.units import spread

PACKAGE = Path(__file__).parents[2] / "src" / "diffmech"
ROOMS = ("statistics", "attention", "mechanisms", "interventions", "circuits")
KINDS = {"Float", "Int", "Bool", "Inexact", "Num", "Shaped"}
WITHOUT_SHAPES = {
    "attention.announcing.announce": "refuses what does not fit by a message of its own, which names the site",
}


def _bare(annotation: ast.AST) -> bool:
    """Return whether an annotation names arrays or tensors without their shape."""
    if (
        isinstance(annotation, ast.Subscript)
        and isinstance(annotation.value, ast.Name)
        and annotation.value.id in KINDS
    ):
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return (annotation.id if isinstance(annotation, ast.Name) else annotation.attr) in {"ndarray", "Tensor"}
    return any(_bare(child) for child in ast.iter_child_nodes(annotation))


def _annotated(body: list[ast.stmt], name: str):
    """Yield by name the annotations of public functions, methods and fields, and the types that have public names."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
            annotations = [argument.annotation for argument in arguments if argument]
            yield f"{name}.{node.name}", [each for each in (*annotations, node.returns) if each]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _annotated(node.body, f"{name}.{node.name}")
        elif isinstance(node, ast.AnnAssign):
            yield f"{name}.{ast.unparse(node.target)}", [node.annotation]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            yield f"{name}.{ast.unparse(node.targets[0])}", [node.value]


def _without_shapes() -> set[str]:
    files = [file for room in ROOMS for file in (PACKAGE / room).glob("*.py")]
    return {
        name
        for file in files
        for name, annotations in _annotated(ast.parse(file.read_text()).body, f"{file.parent.name}.{file.stem}")
        if any(map(_bare, annotations))
    }


def test_public_functions_and_fields_say_the_shapes_of_their_arrays():
    assert _without_shapes() == set(WITHOUT_SHAPES)


@pytest.mark.skipif(
    os.environ.get("DIFFMECH_TEST_TYPES") == "0", reason="types are not checked where DIFFMECH_TEST_TYPES=0"
)
def test_calls_are_checked_against_the_shapes():
    with pytest.raises(TypeError, match="weights"):
        spread(np.ones(3), np.zeros(3))
