"""What README, docs and the comments of config.yaml say can be written, can be written."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from diffmech.config.load import merge, models_in, validate
from diffmech.config.root import Config
from diffmech.errors import ConfigError

ROOT = Path(__file__).parents[3]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = [page for page in PAGES if page.name != "config.md"]  # which is generated from the sections themselves
COMMENTS = " ".join(line.partition("#")[2].strip() for line in (ROOT / "config.yaml").read_text().splitlines())

BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]

# What a comment of config.yaml offers in place of the value that stands there.
OFFERED = [
    ("images.channels", 3, "3 = RGB"),
    ("images.match", None, "Also null, or {mean: -0.1, contrast: 0.4}"),
    ("images.match", {"mean": -0.1, "contrast": 0.4}, "Also null, or {mean: -0.1, contrast: 0.4}"),
    ("datasets.synthetic_faces.zoom", 1, "1 = head with hat and shoulders"),
    ("latents.condition", None, "null = no condition"),
    ("capture.factors_of", {"sites": ["up*.self"]}, 'e.g. {sites: ["up*.self"]}'),
    ("told.timesteps", None, "of those above, spread evenly; null = all"),
    ("ablation.methods", ["zero", "uniform"], "also: zero, uniform"),
    ("ablation.method_samples", None, "which decide nothing; null = all"),
    ("circuit.steps", 0, "0 = none"),
    ("circuit.path", "joint", "joint = all"),
    ("discovery.search", "greedy", "or greedy"),
    ("discovery.timesteps", None, "of those above, spread evenly; null = all"),
    ("patching.sources", None, "null = domain"),
    ("patching.sources", ["sample", "domain", "attribute:glasses"], 'also [sample, domain, "attribute:glasses"]'),
    ("resampling.steps", None, "null = sampling.steps"),
    ("resampling.guidance", None, "null = sampling.guidance"),
    ("resampling.controls", 19, "of 19 or more"),
]


def edited(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return merge(DEFAULT, value)


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(BLOCKS)])
def test_every_example_of_the_pages_is_a_study_when_it_is_laid_over_the_default(page: str, block: str) -> None:
    example = yaml.safe_load(block)
    study = validate(merge(DEFAULT, example))
    assert study.study.model == ("mine" if "models" in example else DEFAULT["study"]["model"])


@pytest.mark.parametrize(("path", "value", "comment"), OFFERED)
def test_what_a_comment_offers_is_taken(path: str, value: Any, comment: str) -> None:
    assert comment in COMMENTS
    validate(edited(path, value))


def test_no_null_of_a_comment_is_forgotten_here() -> None:
    offered = [comment for _, value, comment in OFFERED if value is None]
    assert len(re.findall(r"null = |Also null", COMMENTS)) == len(offered)


def nullable(model: type[BaseModel], path: str) -> list[tuple[str, type[BaseModel], str]]:
    """Return every key whose description says what null means."""
    found = []
    for name, field in model.model_fields.items():
        for nested in models_in(field.annotation):
            found += nullable(nested, f"{path}.{name}")
        if re.search(r"\b[Nn]ull = |\(null\)|`?null`? (?:takes|for)|or null", field.description or ""):
            found.append((f"{path}.{name}", model, name))
    return found


NULLABLE = nullable(Config, "config")


@pytest.mark.parametrize(("model", "name"), [key[1:] for key in NULLABLE], ids=[key[0] for key in NULLABLE])
def test_a_key_that_says_what_null_means_takes_null(model: type[BaseModel], name: str) -> None:
    schema = model.model_json_schema()["properties"][name]
    options = schema.get("anyOf") or schema["additionalProperties"]["anyOf"]
    assert {"type": "null"} in options
    required = [key for key, field in model.model_fields.items() if field.is_required()]
    if not set(required) - {name}:
        model.model_validate({name: None})


WORDS = [
    (page.name, word)
    for page in PROSE
    for word in re.findall(r"`([a-z_]+(?:\.[a-z_<>]+)+(?:: [^`]+)?)`", page.read_text(encoding="utf-8"))
    if word.split(".")[0] in Config.model_fields and not word.endswith((".csv", ".json"))
]


@pytest.mark.parametrize(("page", "word"), sorted(set(WORDS)))
def test_every_key_that_a_page_names_exists_and_takes_the_value_it_names(page: str, word: str) -> None:
    path, _, value = word.partition(": ")
    model: Any = Config
    section, name, field = Config, "", Config.model_fields[path.split(".")[0]]
    for key in path.split("."):
        if key.startswith("<"):
            continue
        options = models_in(model) if not (isinstance(model, type) and issubclass(model, BaseModel)) else [model]
        owners = [option for option in options if key in option.model_fields]
        assert owners, f"{page}: {path}: there is no {key}"
        section, name, field = owners[0], key, owners[0].model_fields[key]
        model = field.annotation
    if value and "..." not in value:
        given = yaml.safe_load(value)
        required = {key: each for key, each in section.model_fields.items() if each.is_required() and key != name}
        if not required:
            section.model_validate({name: given})
        elif get_args(field.annotation):
            assert given in get_args(field.annotation)


@pytest.mark.parametrize(
    ("domains", "left"),
    [
        ({"digits": "lfw_subset", "letters": "synthetic_faces"}, ["digits", "letters"]),
        (
            {"real": None, "synthetic": None, "digits": "lfw_subset", "letters": "synthetic_faces"},
            ["digits", "letters"],
        ),
        ({"real": "synthetic_faces", "letters": "lfw_subset"}, ["real", "letters"]),
        ({"real": "lfw_subset", "synthetic": None, "letters": "synthetic_faces"}, ["real", "letters"]),
        ({"real": "synthetic_faces", "synthetic": "lfw_subset"}, ["real", "synthetic"]),
    ],
)
def test_own_domains_replace_those_of_the_default_study(domains: dict[str, Any], left: list[str]) -> None:
    study = validate(merge(DEFAULT, {"study": {"domains": domains}}))
    assert list(study.study.domains) == left


def test_one_domain_beside_those_of_the_default_study_is_told_how_to_take_one_out() -> None:
    with pytest.raises(ConfigError, match=r"a file laid over .*by null: \{real: null, synthetic: null, \.\.\."):
        validate(merge(DEFAULT, {"study": {"domains": {"letters": "lfw_subset"}}}))


def test_shares_of_a_training_that_nobody_gave_are_those_of_the_own_domains() -> None:
    domains = {"digits": "lfw_subset", "letters": "synthetic_faces"}
    model: dict[str, Any] = {"source": "train", "location": None}
    raw = merge(DEFAULT, {"study": {"domains": domains}, "models": {"faces": model}})
    assert validate(raw).model.training.domain_shares == {"digits": 0.5, "letters": 0.5}
    own = merge(raw, {"models": {"faces": {"training": {"domain_shares": {"digits": 1, "cats": 2}}}}})
    with pytest.raises(ConfigError, match=r"faces\.training\.domain_shares: 'cats' is not a domain of the study"):
        validate(own)
    assert validate(merge(DEFAULT, {"models": {"faces": model}})).model.training.domain_shares["real"] == 0.3


@pytest.mark.parametrize(("name", "mended"), [("my study", "my-study"), ("über/all", "ber-all"), ("--", "my-study")])
def test_a_name_that_cannot_be_is_answered_with_one_that_can(name: str, mended: str) -> None:
    with pytest.raises(ConfigError, match=rf"^study\.name: '{name}' is not letters, .*; give e\.g\. {mended}$"):
        validate(edited("study.name", name))
    validate(edited("study.name", mended))


@pytest.mark.parametrize("value", [2024, True, 1.5])
def test_a_number_where_text_is_meant_is_answered_with_quotes(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^study\.name: .* is not text, which YAML makes of it in quotes: '"):
        validate(edited("study.name", value))
