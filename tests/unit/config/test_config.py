"""A config file is either valid or answered with one line that names the path, the value and what is allowed."""

from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import yaml

from diffmech.config import documentation
from diffmech.config.images import Moments
from diffmech.config.load import merge, overlay, read_config, validate
from diffmech.config.root import Config
from diffmech.config.study import DEFAULT_DOMAINS
from diffmech.errors import ConfigError
from diffmech.heads.paths import Heads
from diffmech.statistics.halves import finding
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "resources" / "studies").glob("*.yaml"))
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def edited(path: str, value: object) -> dict:
    raw = deepcopy(DEFAULT)
    *parents, last = path.split(".")
    node = raw
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return raw


def test_default_study_is_valid_and_canonical_form_restores_it():
    config = read_config(ROOT / "config.yaml")
    assert Config.restore(config.canonical()) == config


@pytest.mark.parametrize("overlay", STUDIES, ids=lambda path: path.stem)
def test_every_overlay_is_valid_over_the_default(overlay):
    assert read_config(ROOT / "config.yaml", overlay).study.name


@pytest.mark.parametrize("study", [None, *STUDIES], ids=lambda path: path.stem if path else "default")
def test_the_settings_of_a_study_repeat_it_when_they_are_laid_over_the_default(study):
    """As the report prints them: a study with domains of its own was refused, as four domains were left."""
    config = read_config(ROOT / "config.yaml", *([study] if study else []))
    printed = yaml.safe_load(yaml.safe_dump(overlay(config), sort_keys=False, allow_unicode=True))
    again = validate(merge(DEFAULT, printed))
    whole = {"runtime", "datasets", "models"}  # those of the default study stay among the data sets and models
    assert again.model_dump(exclude=whole) == config.model_dump(exclude=whole)
    assert again.model == config.model
    for name in config.study.domains.values():
        assert again.datasets[name] == config.datasets[name]


def test_the_domains_that_an_overlay_takes_out_are_those_of_the_default_study():
    assert DEFAULT["study"]["domains"] == DEFAULT_DOMAINS


@pytest.mark.parametrize(
    ("path", "value", "answer"),
    [
        ("capture.timestep", [1], "capture.timestep: unknown key; did you mean 'timesteps'?"),
        ("captur", {}, "captur: unknown key; did you mean 'capture'?"),
        ("capture.timesteps", [1, 2, 1200], "capture.timesteps[2]: 1200 is not below the scheduler's 1000 steps"),
        ("capture.timesteps", [5, 5], "capture.timesteps: lists a timestep twice: [5, 5]"),
        ("capture.timesteps", [], "capture.timesteps: needs at least one timestep, e.g. [100, 500, 900]"),
        ("datasets.lfw_subset.kind", "lfw_subst", "did you mean 'lfw_subset'?"),
        ("datasets.synthetic_faces.zom", 1, "datasets.synthetic_faces.zom: unknown key; did you mean 'zoom'?"),
        ("study.model", "fces", "study.model: 'fces' is not in models, which has ['faces']"),
        ("study.domains", {"a": "lfw_subset"}, "study.domains: needs exactly two domains"),
        (
            "study.domains",
            {"real": "cats", "synthetic": "synthetic_faces", "cats": "a", "dogs": "b"},
            "a file laid over config.yaml takes out the domains that stand there by null: {real: null, synthetic: null",
        ),
        ("study.domains.real", "nothing", "study.domains.real: 'nothing' is not in datasets"),
        ("models.faces.architecture", {"channels": [30, 64, 128]}, "channels 30 is not a multiple of norm_groups 8"),
        ("models.faces.location", None, "models.faces: source bundled needs a location"),
        ("capture.keep_factors", 201, "capture: keep_factors 201 is above shard_size 200"),
        ("capture.maps_of", {"timesteps": [20, 21]}, "capture.maps_of.timesteps[1]: 21 is not in capture.timesteps"),
        ("capture.factors_of", {"timesteps": []}, "capture.factors_of.timesteps: is empty; give some of"),
        ("capture.factors_of", {"site": ["*"]}, "capture.factors_of.site: unknown key; did you mean 'sites'?"),
        ("ablation.timesteps", [121], "ablation.timesteps[0]: 121 is not in capture.timesteps"),
        ("ablation.samples", 1000, "ablation.samples: 1000 is above capture.samples 100"),
        (
            "capture.samples",
            30,
            "30 are too few for 16 reference images from number 18 on, after 18",
        ),
        (
            "ablation.first_reference",
            17,
            "first_reference: 17 is a studied image, of which there are 18; give",
        ),
        ("ablation.first_reference", 90, "100 are too few for 16 reference images from number 90 on, after 18"),
        ("ablation.first_reference", 84, "samples: 100 leave 0 images on which clusters of heads are found"),
        ("untrained.samples", 99, "untrained copies); give at least 101, or lower ablation.reference_samples"),
        ("ablation.reference_samples", 1, "ablation.reference_samples: 1 is not allowed: input should be greater than"),
        ("ablation.controls", 18, "ablation.controls: 18 allow no p-value below 0.053"),
        ("ablation.alpha", 0.01, "told from them at ablation.alpha 0.01; give at least 99"),
        ("ablation.groups", ["layers"], "ablation: groups must contain heads"),
        ("mechanisms.phases.penality", 1, "mechanisms.phases.penality: unknown key; did you mean 'penalty'?"),
        (
            "images.size",
            [64, 48],
            "images.size: [64, 48] is a height and a width, but every image is studied as",
        ),
        ("images.resolution", 64, "images: resolution 64 is above size 32"),
        ("untrained.samples", 101, "above capture.samples 100 or capture.shard_size 200; give at most 100"),
        ("latents.kind", "trajectory", "latents.kind: 'trajectory' needs a model of source pipeline, which"),
        (
            "datasets.lfw_subset",
            {"kind": "prompts", "prompts": ["a face"]},
            "study.domains.real: 'lfw_subset' is of kind prompts, but models.faces is of source bundled and needs data "
            "sets of images",
        ),
        (
            "datasets.mine",
            {"kind": "image_folder", "path": "faces", "group": "person"},
            "datasets.mine: group: 'person' is a column of the table `labels`, which is null",
        ),
        (
            "models.faces",
            {"source": "pipeline", "location": "somewhere"},
            "study.domains.real: 'lfw_subset' is of kind lfw_subset, but models.faces is of source pipeline and needs",
        ),
        ("datasets.p", {"kind": "prompts"}, "datasets.p: give either `prompts`, a list of texts, or `file`, a text"),
        ("models.faces.architecture", {"channels": [32, 64]}, "channels has 2 levels but attention has 3; give"),
        ("models.faces.architecture", {"attention": [False] * 3}, "architecture: no level has attention; set one"),
        (
            "models.p",
            {"source": "planted", "planted": {"layers": [["edge", "edge"]]}},
            "'edge' 2 times; give each role to one",
        ),
        ("models.faces.planted", {"seed": 1}, "models.faces: planted belongs to source planted, but source is bundled"),
        ("mechanisms.cluster_range", [5, 3], "cluster_range: must rise from at least 2, found [5, 3]; example: [2"),
        ("ablation.methods", [], "ablation: methods must name at least one entry, each once, found []"),
        ("ablation.window", [9, 5], "ablation: window must be [first, last] with first <= last, found [9, 5]"),
        ("patching.sources", ["glasses"], "sources[0]: 'glasses' is none of sample, domain and attribute:<name>, e.g."),
        ("patching.timesteps", [], "patching.timesteps: is empty; give at least one entry, or null"),
        ("patching.doses", [0.5], "patching: doses must contain 1, the whole replacement, which the maps show; found"),
        ("patching.groups", ["heads", "heads"], "patching: groups must name each entry once, found ['heads', 'heads']"),
        ("entropy.draws", "many", "entropy.draws: 'many' is not allowed"),
        (
            "runtime",
            {"batch_size": 0},
            "runtime.batch_size: 0 is not allowed: input should be greater than",
        ),
    ],
)
def test_a_mistake_is_answered_in_one_line(path, value, answer):
    with pytest.raises(ConfigError) as caught:
        validate(edited(path, value))
    message = str(caught.value)
    assert answer in message
    assert "\n" not in message


@pytest.mark.parametrize("overlay", [None, *STUDIES], ids=lambda path: path.stem if path else "default")
def test_no_reference_image_is_studied_by_anything(overlay):
    """Of the files that each rule gets and the images that it takes of them."""
    heads = Heads(Study(merge(DEFAULT, yaml.safe_load(overlay.read_text()) if overlay else {}), ROOT))
    config, references = heads.config, set(heads.config.reference_ids)
    assert len(references) == config.ablation.reference_samples >= 2
    ablated = {sample for ids in heads.ablation_shards.values() for sample in ids}
    found, patched = range(config.discovery_samples), range(2 * config.patching.samples)
    for studied in (ablated, range(config.circuit_samples), found, patched):
        assert not references & set(studied) or (studied is patched and "sample" not in config.patching_sources)
    held = {name: set(ids) for name, ids in heads.shards.items()}
    for dataset in heads.datasets:
        for block in heads.ablation_blocks:
            files = heads.reference_latents(dataset, block)
            there = set().union(*(ids for name, ids in held.items() if any(name in file for file in files)))
            assert references <= there


@pytest.mark.parametrize("overlay", [None, *STUDIES], ids=lambda path: path.stem if path else "default")
def test_clusters_are_found_on_images_that_nothing_else_studies(overlay):
    """Of the images that each rule takes: those that are removed, patched, attributed, of reference, seen by twins."""
    heads = Heads(Study(merge(DEFAULT, yaml.safe_load(overlay.read_text()) if overlay else {}), ROOT))
    config = heads.config
    half = finding(range(config.capture.samples), config.tested_samples)
    finds = {sample for sample, belongs in enumerate(half) if belongs}
    patched = config.patching.samples * (2 if "sample" in config.patching_sources else 1)
    ablated = {sample for ids in heads.ablation_shards.values() for sample in ids}
    counts = (config.circuit_samples, config.discovery_samples, patched, config.untrained.samples)
    for studied in (ablated, set(config.reference_ids), *map(range, counts)):
        assert not finds & set(studied)
    assert len(finds) >= 2
    # whole halves where there are images for it
    if config.capture.samples >= 2 * config.tested_samples:
        assert abs(2 * len(finds) - config.capture.samples) <= 1


def test_a_study_that_grows_keeps_its_reference_images_where_they_are_fixed():
    small, grown = edited("ablation.first_reference", 40), edited("ablation.first_reference", 40)
    grown["ablation"]["samples"] = 32
    assert validate(small).reference_ids == validate(grown).reference_ids == list(range(40, 56))
    assert validate(edited("ablation.samples", 32)).reference_ids == list(range(32, 48))


def test_a_pipeline_generates_rgb_images():
    prompts = {"kind": "prompts", "prompts": ["a face"]}
    overlay = {
        "models": {"faces": {"source": "pipeline", "location": "somewhere"}},
        "datasets": {"lfw_subset": None, "synthetic_faces": None, "a": prompts, "b": prompts},
        "study": {"domains": {"real": "a", "synthetic": "b"}},
    }
    raw = merge(DEFAULT, overlay)
    raw["datasets"] = {"a": prompts, "b": prompts}
    with pytest.raises(ConfigError, match=r"^images\.channels: a pipeline generates RGB images; set channels to 3$"):
        validate(raw)
    assert validate(merge(raw, {"images": {"channels": 3}})).images.channels == 3


def test_each_mistake_has_its_own_line():
    raw = edited("capture.timestep", [1])
    raw["entropy"]["draw"] = 3
    with pytest.raises(ConfigError) as caught:
        validate(raw)
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read \(No .*\); name an existing YAML file"):
        read_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"study: [", r"broken\.yaml: is not valid YAML"),
        (
            "study: {name: M\u00fcller}".encode("latin-1"),
            r"broken\.yaml: is not valid YAML: .*utf-8.*; save it in UTF-8",
        ),
        (b"- study", r"broken\.yaml: holds list, expected sections such as `study:`"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, answer):
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(content)
    with pytest.raises(ConfigError, match=answer) as caught:
        read_config(broken)
    assert "\n" not in str(caught.value)


def test_overlays_are_laid_over_mapping_by_mapping():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}


def test_timesteps_are_sorted_so_that_their_order_changes_nothing():
    given = DEFAULT["capture"]["timesteps"]
    assert validate(edited("capture.timesteps", given[::-1])).capture.timesteps == sorted(given)


def test_schema_and_page_are_the_generated_ones():
    assert documentation.SCHEMA.read_text() == documentation.schema(), "run `make docs`"
    assert documentation.PAGE.read_text() == documentation.page(), "run `make docs`"


@pytest.mark.parametrize("overlay", STUDIES, ids=lambda path: path.stem)
def test_studies_fit_the_generated_schema(overlay):
    jsonschema.validate(merge(DEFAULT, yaml.safe_load(overlay.read_text())), Config.model_json_schema())


def test_every_key_is_described():
    assert "| None |" not in documentation.page()


FOREIGN = {
    "custom": {"source": "custom", "implementation": "mine.py:Mine"},
    "diffusers": {"source": "diffusers", "location": "somewhere/else"},
    "planted": {"source": "planted"},
}


@pytest.mark.parametrize("source", FOREIGN)
def test_a_denoiser_from_elsewhere_gets_its_images_unshifted_unless_its_file_asks_for_it(source):
    """The default study's match leaked into every file laid over it: a mean of 0.25 became -0.1."""
    mine = {"study": {"model": "mine"}, "models": {"mine": FOREIGN[source]}}
    assert validate(merge(DEFAULT, mine)).images.match is None
    assert validate(merge({**DEFAULT, "images": {"size": 32}}, mine)).images.match is None
    asked = merge(mine, {"images": {"match": {"mean": 0.0, "contrast": 0.5}}})
    assert validate(merge(DEFAULT, asked)).images.match == Moments(mean=0.0, contrast=0.5)


@pytest.mark.parametrize("source", ["bundled", "train", "untrained"])
def test_a_denoiser_trained_here_gets_matched_images_unless_its_file_says_no(source):
    own = {"models": {"faces": {"source": source}}}
    assert validate(merge(DEFAULT, own)).images.match == Moments(mean=-0.1, contrast=0.4)
    assert validate(merge(DEFAULT, merge(own, {"images": {"match": None}}))).images.match is None


def test_no_overlay_of_a_foreign_model_shifts_mean_and_contrast():
    decided = {path.stem: read_config(ROOT / "config.yaml", path) for path in STUDIES}
    assert {name for name, config in decided.items() if config.images.match is None} == {
        "concepts-dit",
        "concepts-stable-diffusion",
        "digits",  # trained here, and says so
        "own-model",
        "flux",
        "planted",
        "stable-diffusion",
    }


def test_a_mistake_in_models_is_still_told_where_match_is_left_to_its_source():
    for models in ([], {"faces": []}, {"faces": {"source": ["bundled"]}}):
        with pytest.raises(ConfigError, match="models"):
            validate({**DEFAULT, "models": models})


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (FOREIGN["custom"], "capture.images: 'unseen' needs a record of what models.faces was trained on"),
        ({"source": "untrained"}, "of source untrained there is none; give all"),
        ({"source": "train", "training": {"holdout": 0}}, "models.faces.training.holdout is 0; give it 2 or more"),
    ],
)
def test_unseen_images_need_a_record_of_the_training(model, answer):
    raw = {**edited("capture.images", "unseen"), "models": {"faces": model}}
    with pytest.raises(ConfigError) as caught:
        validate(raw)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)
