"""Reading config.yaml, and answering a mistake in it with one line: the path, the value, what is allowed."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from diffmech.config.root import Config
from diffmech.config.study import DEFAULT_DOMAINS
from diffmech.errors import ConfigError


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overlay` laid over it, mapping by mapping, as Snakemake does with --configfile."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_config(*paths: Path) -> Config:
    """Read and validate one file, with any further files laid over it; ConfigError in one line per mistake."""
    raw: dict[str, Any] = {}
    for path in paths:
        raw = merge(raw, read_mapping(path))
    return validate(raw)


def read_mapping(path: Path) -> Mapping[str, Any]:
    """Read one file without validating what it says; ConfigError where it is no YAML of sections."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}; save it in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: holds {type(content).__name__}, expected sections such as `study:`")
    return content


def validate(raw: Mapping[str, Any]) -> Config:
    """Validate a plain mapping; ConfigError with one line per mistake."""
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_line(detail, raw) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None


def overlay(config: Config) -> dict[str, Any]:
    """Return the settings that give this study when laid over config.yaml: its domains are taken out by null."""
    settings = config.model_dump(mode="json", exclude={"runtime"})
    own = settings["study"]["domains"]
    settings["study"]["domains"] = {name: None for name in DEFAULT_DOMAINS if name not in own} | own
    return settings


def _line(detail: Any, raw: Mapping[str, Any]) -> str:
    kind, value = detail["type"], detail["input"]
    whole = kind == "value_error" and isinstance(value, Mapping)  # of a section: its kind may stand last
    tagged = whole and detail["loc"][-1:] == (value.get("kind"),)
    location = _spoken_location(detail["loc"][:-1] if tagged else detail["loc"], raw)
    path = _path(location)
    if kind == "extra_forbidden":
        allowed = _fields_at(location[:-1], raw)
        near = get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(sorted(allowed))}"
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: is missing and has no default"
    if kind == "union_tag_invalid":
        context = detail["ctx"]
        near = get_close_matches(
            str(context["tag"]), [tag.strip("' ") for tag in context["expected_tags"].split(",")], n=1
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path}.kind: {context['tag']!r} is not one of {context['expected_tags']}{hint}"
    if kind == "union_tag_not_found":
        return f"{path}.kind: is missing; e.g. kind: image_folder"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{path}: {message}" if path else message
    if kind == "string_pattern_mismatch":  # of study.name alone
        mended = re.sub(r"[^A-Za-z0-9_-]+", "-", value).strip("-_") or "my-study"
        return f"{path}: {value!r} is not letters, digits, - and _ after a letter or digit; give e.g. {mended}"
    if kind == "string_type" and isinstance(value, int | float):
        return f"{path}: {value!r} is not text, which YAML makes of it in quotes: '{str(value).lower()}'"
    return f"{path}: {value!r} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _spoken_location(location: tuple[int | str, ...], raw: Any) -> tuple[int | str, ...]:
    """Drop the parts of a pydantic location that are not keys of the user's file (union tags)."""
    spoken: list[int | str] = []
    node = raw
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, Mapping) and part not in node and not last:
            continue
        spoken.append(part)
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            node = node[part]
    return tuple(spoken)


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        spoken = str(part) if str(part) and str(part).isprintable() else repr(part)  # a key may hold a line break
        text += f"[{part}]" if isinstance(part, int) else (f".{spoken}" if text else spoken)
    return text


def _fields_at(location: tuple[int | str, ...], raw: Any) -> list[str]:
    """Return the keys that the section at `location` allows."""
    model: Any = Config
    node = raw
    for part in location:
        node = node[part] if isinstance(node, Mapping) and part in node else None
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[str(part)].annotation
        options = models_in(model)
        if isinstance(node, Mapping) and len(options) > 1:
            kinds = [(option, option.model_fields["kind"]) for option in options if "kind" in option.model_fields]
            if "kind" in node:
                options = [option for option, kind in kinds if node["kind"] in get_args(kind.annotation)] or options
            else:  # one that need not be said
                options = [option for option, kind in kinds if not kind.is_required()]
        if options and (len(options) == 1 or (isinstance(node, Mapping) and "kind" in node)):
            model = options[0]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a field's annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
