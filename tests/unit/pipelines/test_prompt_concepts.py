"""Concepts that are words: pipelines asked for them, the weights that carry them, and edits that diffusers loads."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from tiny_pipelines import PIPELINES, clip

from diffmech.artifacts import open_store, read_json
from diffmech.concepts.asking import asking_for, open_asking
from diffmech.concepts.attribution import Subject, attribute_concept
from diffmech.concepts.baselines import uce_values
from diffmech.concepts.effects import concept_effects
from diffmech.concepts.evaluation import Sampler, edit_concept, original_images
from diffmech.concepts.gradients import gradients
from diffmech.concepts.groups import weights
from diffmech.concepts.masks import Mask, applied, export
from diffmech.concepts.paths import Concepts
from diffmech.concepts.tables import EFFECTS, RATES
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.load import merge, validate
from diffmech.config.models import DenoiserConfig
from diffmech.config.studies.concepts import (
    AttributionConfig,
    EditConfig,
    EvaluationConfig,
    NamedConcept,
)
from diffmech.errors import ConfigError, ModelError
from diffmech.judging.panel import Panel, open_panel
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_layout
from diffmech.models.storage import find_layout
from diffmech.randomness import generator
from diffmech.report.concepts.findings import findings
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
RUNTIME = RuntimeConfig(progress=False, device="cpu", batch_size=4)
ATTRIBUTION = AttributionConfig(samples=2, steps=3, windows=1, guidance=4.0)
EVALUATION = EvaluationConfig(seeds=4, steps=2, guidance=4.0)
HOW: dict[str, Any] = {"steps": 2, "guidance": 4.0, "seed": 5, "runtime": RUNTIME}
HAT = {
    "kind": "prompt",
    "prompt": ["a photo of a hat", "a drawing of a hat"],
    "base": ["a photo", "a drawing"],
    "weak": "a face",
    "others": {"glasses": "a face with glasses", "beard": ["a beard", "a face with a beard"]},
}
CLASS = {"kind": "prompt", "prompt": "7", "others": {"glasses": "1", "beard": ["2", "3"]}}
JUDGED = {name: [f"a face with a {name}", "a face"] for name in ("hat", "glasses", "beard")}


def named(concept: dict[str, Any], name: str = "hat") -> NamedConcept:
    return NamedConcept.model_validate({"name": name, "concept": concept})


def imported(folder: Path, family: str, dtype: str = "float32") -> Path:
    PIPELINES[family](folder / "tokenizer_files").save_pretrained(folder / "pipeline")
    output = folder / "model.json"
    config = DenoiserConfig.model_validate({"source": "pipeline", "location": str(folder / "pipeline"), "dtype": dtype})
    import_denoiser(config, output, root=folder, images=ImagesConfig(size=16, channels=3))
    return output


@pytest.fixture(scope="module")
def dit_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("dit"), "dit")


@pytest.fixture(scope="module")
def sd3_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("sd3"), "stable_diffusion_3")


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> JudgesConfig:
    folder = clip(tmp_path_factory.mktemp("clip"))
    return JudgesConfig.model_validate({"clip": folder, "features": "clip", "text_attributes": JUDGED})


@pytest.fixture(scope="module")
def asking(pipeline_json: Path) -> Any:
    return open_asking(pipeline_json, named(HAT), device="cpu")


def test_images_are_those_of_the_pipeline_called_with_the_prompts_in_turn(asking: Any, pipeline_folder: Path) -> None:
    plain = diffusers.StableDiffusionPipeline.from_pretrained(str(pipeline_folder), safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    expected = {
        "asked": [HAT["prompt"][0], HAT["prompt"][1], HAT["prompt"][0]],
        "weak": ["a face"] * 3,
        "base": ["a face with glasses", "a beard", "a face with glasses"],
    }
    for way, prompts in expected.items():
        seeds = [int(generator(5, "sampling", number).integers(2**63)) for number in range(3)]
        found = plain(
            prompts,
            negative_prompt=[""] * 3,
            num_inference_steps=2,
            guidance_scale=4.0,
            height=16,
            width=16,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        images = asking.images(way, 3, **HOW)
        np.testing.assert_array_equal(images.numpy(), np.moveaxis(found, -1, 1) * 2 - 1)
    told = asking.told("base", 3, 5, ("hat", "beard", "glasses"))
    assert told.tolist() == [[False, False, True], [False, True, False], [False, False, True]]
    assert asking.told("asked", 2, 5, ("hat", "beard")).tolist() == [[True, False]] * 2
    assert not asking.told("weak", 2, 5, ("hat", "beard")).any()


def test_gradients_are_those_of_the_network_called_by_hand_with_encoded_prompts(asking: Any) -> None:
    subject = Subject(asking, ATTRIBUTION, RUNTIME)
    among = weights(asking.denoiser, ["cross_value"])
    found = gradients(asking.denoiser, subject.points("erase"), among, batch_size=4)
    unet, pipeline = asking.denoiser.module, asking.pipeline
    asked, base = (pipeline.encode_prompt(HAT[key], "cpu", 1, False)[0] for key in ("prompt", "base"))
    weight = among[0].parameter.requires_grad_(True)
    total = torch.zeros(())
    for x_t, timestep in zip(subject.trajectories.points, subject.trajectories.timesteps, strict=True):
        with torch.no_grad():
            target = unet(x_t, timestep, base).sample
        total = total + (unet(x_t, timestep, asked).sample - target).square().mean() / 3
    (expected,) = torch.autograd.grad(total, weight)
    weight.requires_grad_(False)
    assert expected.abs().max() > 0
    assert_same_up_to_rounding(found.gradient[among[0].name], expected, roundings=ROUNDINGS_OF_MANY_PASSES)


def test_flow_matching_is_noised_to_the_very_level_that_its_denoiser_is_told(sd3_json: Path) -> None:
    asking = open_asking(sd3_json, named(HAT), device="cpu")
    subject = Subject(asking, ATTRIBUTION, RUNTIME)
    points = subject.points("amplify")
    clean = subject.trajectories.images
    for step, condition in enumerate(points.conditions):
        sigma = condition.timestep / 1000  # type: ignore[attr-defined]
        eps = points.targets[step] + clean  # the velocity is noise minus image
        assert_same_up_to_rounding(points.x_t[step], (1 - sigma) * clean + sigma * eps, roundings=64)
    assert asking.cross_tokens() is None
    assert not float(points.conditions[1].timestep).is_integer()  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["stable_diffusion", "dit"])
def test_an_exported_edit_gives_the_same_images_in_plain_diffusers(family: str, request: Any, tmp_path: Path) -> None:
    sd = family == "stable_diffusion"
    model_json: Path = request.getfixturevalue("pipeline_json" if sd else "dit_json")
    asking = open_asking(model_json, named(HAT if sd else CLASS), device="cpu")
    before = asking.images("asked", 2, **HOW)
    chosen = {
        weight.name: np.arange(0, weight.parameter.numel(), 3) for weight in weights(asking.denoiser, ["feed_forward"])
    }
    mask = Mask.of(chosen)
    with applied(asking.denoiser, mask):
        edited = asking.images("asked", 2, **HOW)
    assert (edited - before).abs().max() > 1e-4
    assert torch.equal(asking.images("asked", 2, **HOW), before)
    original = (model_json.parent / read_json(model_json)["location"]).resolve()
    export(asking.denoiser, mask, original, tmp_path / "edited")
    plain = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / "edited"), safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    asking.pipeline = plain
    assert torch.equal(asking.images("asked", 2, **HOW), edited)


def test_uce_gives_the_words_of_a_concept_the_values_of_its_base(asking: Any) -> None:
    tokens = asking.cross_tokens()
    for name, edited in uce_values(asking.denoiser, tokens).items():
        own = asking.denoiser.module.get_parameter(name)
        wanted = tokens.base @ own.T
        before, after = ((tokens.asked @ matrix.T - wanted).square().mean() for matrix in (own, edited))
        assert after < before / 2
        kept = (tokens.kept @ (edited - own).T).square().mean()
        assert kept < before / 2


def colours(images: torch.Tensor) -> Panel:
    """Return a judge that sees an attribute in each colour which is brighter than in half of `images`."""
    middle = images.mean((2, 3)).median(0).values
    read = lambda some: (some.mean((2, 3)) - middle).numpy()  # noqa: E731
    return Panel("colours", read, "colours", ("hat", "glasses", "beard"), read, accuracy={}, absent=())


@pytest.mark.parametrize(("family", "concept"), [("stable_diffusion", HAT), ("dit", CLASS)])
def test_a_pipeline_goes_through_the_study_and_nothing_is_found_in_random_weights(
    family: str,
    concept: dict[str, Any],
    judges: JudgesConfig,
    request: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sd = family == "stable_diffusion"
    model: Path = request.getfixturevalue("pipeline_json" if sd else "dit_json")
    if not sd:  # a CLIP of random weights is of one opinion
        how = {"steps": EVALUATION.steps, "guidance": EVALUATION.guidance, "seed": EVALUATION.seed}
        shown = open_asking(model, named(concept), device="cpu").images(
            "asked", EVALUATION.seeds, runtime=RUNTIME, **how
        )
        monkeypatch.setattr("diffmech.concepts.evaluation.open_panel", lambda *_, **__: colours(shown))
    shared: dict[str, Any] = {"concept": named(concept), "runtime": RUNTIME}
    outputs = {objective: [str(tmp_path / f"{objective}.safetensors")] for objective in ("erase", "amplify")}
    attribute_concept(
        model, outputs, tmp_path / "map.csv", groups=None, attribution=ATTRIBUTION, curvature=False, **shared
    )
    judged = {"evaluation": EVALUATION, "judges": judges, **shared}
    original_images(model, None, tmp_path / "originals.zip", uce=True, **judged)
    for objective, files in outputs.items():
        edit_concept(
            model,
            files,
            tmp_path / "originals.zip",
            None,
            tmp_path / f"{objective}.mask",
            tmp_path / f"{objective}.zip",
            objective=objective,
            edit=EditConfig(baselines=["random", "wanda"], granularity="row", doses=[0.1]),
            dose=0.1,
            **judged,
        )
    tables = [tmp_path / f"{name}.csv" for name in ("rates", "effects", "quality")]
    settings = {"draws": 100, "permutations": 100, "confidence": 0.95, "seed": 0}
    concept_effects(
        {"hat": tmp_path / "originals.zip"}, [tmp_path / f"{each}.zip" for each in outputs], *tables, **settings
    )
    effects = EFFECTS.read(tables[1])
    erased = effects[effects["objective"] == "erase"]
    assert erased["against"].tolist() == ["original", *(["uce"] if sd else []), "random", "wanda"]
    assert (effects["p_corrected"] > 0.05).all()
    assert {each.verdict for each in findings(effects, [], alpha=0.05, pictures={})} == {"not found"}
    untold = findings(erased.assign(others_relative=np.nan), [], alpha=0.05, pictures={})
    assert "no image says what else it takes away" in untold[0].answer
    assert sd or effects["target_against"].between(0.2, 0.8).any()
    rates = RATES.read(tables[0])
    told = rates[rates["told"] & (rates["way"] == "base")]
    assert set(told["attribute"]) == {"glasses", "beard"}
    store = open_store(tmp_path / "erase.zip").to_dataset()
    assert store["images"].shape[1:] == (4, 3, 16, 16)
    assert np.abs(store["images"][0] - open_store(tmp_path / "originals.zip")["images"][2]).max() > 0


def test_an_overflow_of_halves_is_said(tmp_path: Path) -> None:
    asking = open_asking(imported(tmp_path, "stable_diffusion", "float16"), named(HAT), device="cpu")
    assert next(asking.denoiser.module.parameters()).dtype == torch.float16
    with torch.no_grad():
        asking.denoiser.module.conv_out.bias += 6e4
    with pytest.raises(ModelError, match=r"generated images are NaN or infinite; give models\.<name>\.dtype float32"):
        asking.images("asked", 1, **HOW)


def test_what_fits_no_pipeline_is_answered(pipeline_json: Path, dit_json: Path, judges: JudgesConfig) -> None:
    faces = ROOT / "resources" / "models" / "faces"
    with pytest.raises(ConfigError, match="hat: is of kind prompt, but the denoiser is of no pipeline and reads no"):
        asking_for(load_layout(find_layout(faces), device="cpu"), named(HAT))
    attribute = named({"kind": "attribute"}, "glasses")
    with pytest.raises(
        ConfigError, match="glasses: is of kind attribute, but the denoiser is that of a pipeline, which"
    ):
        open_asking(pipeline_json, attribute, device="cpu")
    with pytest.raises(ConfigError, match=r"concepts\.concepts\.hat: 'hat' is no class of DiTPipeline; give a number"):
        open_asking(dit_json, named({"kind": "prompt", "prompt": "hat"}), device="cpu")
    with pytest.raises(ConfigError, match="tokens, but the text encoder takes"):
        open_asking(pipeline_json, named({"kind": "prompt", "prompt": "a face " * 40}), device="cpu")
    asking = open_asking(pipeline_json, named(HAT | {"others": {"smile": "a smile"}}), device="cpu")
    panel = open_panel(judges, None, device="cpu")
    with pytest.raises(ConfigError, match=r"does not know 'smile', only hat, .* or to judges\.text_attributes"):
        Sampler(asking, named(HAT), EVALUATION, panel, RUNTIME)
    with pytest.raises(ModelError, match="has no weights of the group 'joint_query', only of feed_forward"):
        weights(asking.denoiser, ["joint_query"])
    with pytest.raises(ValueError, match="no trajectories were sampled yet"):
        asking.conditions("asked", 1, 0, [1])


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        ({"prompt": ["a", "b"], "base": ["c", "d", "e"]}, "base has 3 prompts beside 2 in prompt"),
        ({"prompt": "a", "weak": ["c", "d"]}, "weak has 2 prompts beside 1 in prompt"),
        ({"prompt": ["a", "b"], "base": ["c", "b"]}, "base 'b' is the prompt that asks for the concept"),
    ],
)
def test_prompts_that_do_not_fit_together_are_answered(concept: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        validate({"concepts": {"concepts": {"hat": {"kind": "prompt", **concept}}}})
    assert message in str(told.value)


@pytest.mark.parametrize("name", ["concepts-stable-diffusion", "concepts-dit"])
def test_shipped_studies_ask_for_no_judge_of_faces_and_sample_as_they_say(name: str) -> None:
    overlay = yaml.safe_load((ROOT / f"resources/studies/{name}.yaml").read_text())
    study = Study(merge(yaml.safe_load((ROOT / "config.yaml").read_text()), overlay), ROOT)
    concepts = Concepts(study)
    assert concepts.judge == []
    for concept in concepts.names:
        told = concepts.originals_settings(concept)["concept"]
        assert NamedConcept.model_validate(told).scheduler == "ddim"
        assert {concept, *told["concept"]["others"]} <= set(concepts.section.judges.text_attributes)
