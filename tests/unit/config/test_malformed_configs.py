"""Two hundred malformed configurations, drawn: each is answered in lines that name a key, none by a traceback."""

import datetime
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffmech.config.load import merge, read_mapping
from diffmech.errors import ConfigError
from diffmech.heads.paths import Heads
from diffmech.workflow.named_files import check_named_files
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "config.yaml", *(ROOT / "resources" / "studies" / f"{name}.yaml" for name in ("tiny", "planted"))]
REFUSED = 200
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 10**30, 0.5, -2.5, float("nan"), float("inf"), 1e308),
    *(
        "",
        " ",
        "no",
        "null",
        "*",
        "a" * 10_000,
        "zwei\nZeilen",
        "\0",
        "../../x",
        "<script>",
        "${HOME}",
        "\ud800",
    ),
    *([], [None], [[]], [0, -1], ["a", "a"], list(range(50)), {}, {"kind": "none"}, {"": ""}, {1: 2}, {"a": {"b": {}}}),
    *(datetime.date(2026, 1, 1), b"bytes", {1, 2}),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value, of sections too."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def malformed(raw: dict[str, Any], source: random.Random) -> tuple[dict[str, Any], str]:
    """Return `raw` with one or two things wrong, and what they are."""
    raw, done = deepcopy(raw), []
    for _ in range(source.choice([1, 1, 2])):
        *parents, last = source.choice(list(places(raw)))
        node = raw
        for key in parents:
            node = node[key]
        how = source.choice(["value", "value", "value", "extra", "gone", "renamed"])
        if how == "value" or isinstance(node, list):
            node[last] = deepcopy(source.choice(ODD))
        elif how == "extra":
            node[source.choice(["", "kinds", 7, None, "\n", "a.b"])] = deepcopy(source.choice(ODD))
        else:
            value = node.pop(last)
            if how == "renamed":
                node[f"{last}x"] = value
        done.append(f"{how} at {parents} {last}")
    return raw, "; ".join(done)


def study(raw: dict[str, Any]) -> None:
    """Do with a configuration what the rules do with it before any job."""
    made = Study(raw, ROOT)
    check_named_files(made.config, ROOT)
    Heads(made).all_attention()
    for name in made.config.models:
        made.checkpoints(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_malformed_configuration_is_answered_in_lines(file):
    source = random.Random(file.stem)
    base = dict(merge(read_mapping(FILES[0]), read_mapping(file)))
    refused, told = 0, []
    while refused < REFUSED // len(FILES) + 1:
        raw, what = malformed(base, source)
        try:
            study(raw)
        except ConfigError as error:
            told += [(line, what) for line in str(error).split("\n")]
            refused += 1
        except Exception as error:  # whatever it is, it would be a traceback
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
    for line, what in told:
        assert line.strip(), what
        assert all(ord(sign) >= 32 for sign in line), what
        assert len(line) < 20_000, what


def test_a_file_that_is_cut_or_garbled_is_one_line(tmp_path):
    text, source, told = (ROOT / "config.yaml").read_bytes(), random.Random(0), []
    for number in range(60):
        broken = bytearray(text[: source.randrange(len(text))] if number % 2 else text)
        for _ in range(source.randrange(1, 30)):
            if broken:
                broken[source.randrange(len(broken))] = source.randrange(256)
        (tmp_path / "config.yaml").write_bytes(broken)
        try:
            read_mapping(tmp_path / "config.yaml")
        except ConfigError as error:
            told.append(str(error))
    assert len(told) > 20
    assert all("\n" not in line and "config.yaml" in line for line in told)


def test_the_files_that_are_garbled_are_valid_themselves():
    for file in FILES:
        study(merge(read_mapping(FILES[0]), yaml.safe_load(file.read_text())))
