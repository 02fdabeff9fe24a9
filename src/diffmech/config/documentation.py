"""docs/config.md and resources/config.schema.json, generated from the sections so that they cannot drift.

Run: python -m diffmech.config.documentation
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diffmech.config.load import models_in
from diffmech.config.root import Config

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "resources" / "config.schema.json"
PAGE = ROOT / "docs" / "config.md"

_HEAD = """# config.yaml, key by key

Generated from the sections in `src/diffmech/config` by `make docs`; do not edit. Unknown keys are errors. A file given
with `--configfile` is laid over `config.yaml`, mapping by mapping. Editors that know JSON schema complete keys with
`resources/config.schema.json`.
"""


def schema() -> str:
    """Return the JSON schema of config.yaml."""
    return json.dumps(Config.model_json_schema(), indent=1, sort_keys=True) + "\n"


def page() -> str:
    """Return the Markdown page that describes every key."""
    lines = [_HEAD]
    for name, field in Config.model_fields.items():
        lines += _section(f"`{name}`", name, field)
    return "\n".join(lines) + "\n"


def _section(title: str, path: str, field: FieldInfo) -> Iterator[str]:
    yield f"## {title}\n"
    if _is_mapping(field.annotation) or field.default is None:
        yield f"{field.description}\n"
    for model in models_in(field.annotation):
        kind = model.model_fields.get("kind")
        entry = f"{path}.<name>" if _is_mapping(field.annotation) else path
        if kind is not None:
            yield f"### `kind: {get_args(kind.annotation)[0]}`\n"
        if model.__doc__:
            yield f"{' '.join(model.__doc__.split())}\n"
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from _rows(model, entry)
        yield ""


def _rows(model: type[BaseModel], path: str, *, with_kind: bool = False) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == "kind" and not with_kind:  # it stands above the table
            continue
        nested = models_in(field.annotation)
        default = field.get_default(call_default_factory=False)
        if nested:
            yield f"| `{path}.{name}` | section | | {field.description} |"
            for inner in nested:
                yield from _rows(inner, f"{path}.{name}", with_kind=len(nested) > 1)
        else:
            shown = "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"
            yield f"| `{path}.{name}` | {_type(model, name)} | {shown} | {field.description} |"


def _type(model: type[BaseModel], name: str) -> str:
    return _spoken(model.model_json_schema()["properties"][name])


def _spoken(schema: dict[str, Any]) -> str:
    """Say a JSON schema in words: type, bounds, choices."""
    if "anyOf" in schema:
        return " or ".join(_spoken(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " \\| ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "true/false", "null": "null"}
    if schema.get("type") == "array":
        items = schema.get("items") or {"type": "integer"}
        return f"list of {_spoken(items)}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_spoken(values)}" if isinstance(values, dict) else "mapping"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([kind[schema["type"]], ", ".join(bounds)]).strip()


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
