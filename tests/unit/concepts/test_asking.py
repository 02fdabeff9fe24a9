"""How a denoiser is asked for a concept, and what is said of one that cannot be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffmech.concepts.asking import asking_for
from diffmech.concepts.attribution import windows
from diffmech.concepts.edits import ORIGINAL, REFERENCE
from diffmech.concepts.evaluation import ImageSet, Sampler
from diffmech.concepts.gradients import Gradients
from diffmech.concepts.groups import weights
from diffmech.concepts.paths import dose_name
from diffmech.config.load import validate
from diffmech.config.studies.concepts import AttributeConcept, ClassConcept, EvaluationConfig, NamedConcept
from diffmech.errors import ConfigError, ModelError, StoreError
from diffmech.models.denoiser import Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import drawn_condition, sample_images
from diffmech.report.references import read_references


def test_only_the_concept_differs_between_ways_of_asking(faces):
    asking = asking_for(
        faces, NamedConcept(name="spectacles", concept=AttributeConcept(attribute="glasses", base=None))
    )
    told = {way: asking.conditions(way, 5, 3, [0])[0].values for way in ("asked", "base", "weak")}
    column = faces.attributes.index("glasses")
    assert told["asked"][:, column].eq(1).all()
    assert told["weak"][:, column].eq(0.5).all()
    assert told["base"][:, column].isnan().all()
    others = [index for index in range(len(faces.attributes)) if index != column]
    assert torch.equal(told["asked"][:, others], told["weak"][:, others])
    assert torch.equal(told["asked"][:, others], told["base"][:, others])
    more = asking.conditions("asked", 9, 3, [0])[0].values
    assert torch.equal(more[:5], told["asked"])


def test_a_concept_that_the_denoiser_is_not_told_is_named_with_those_it_is(faces, linear):
    with pytest.raises(ConfigError, match=r"glases: the denoiser knows no attribute 'glases', only skin"):
        asking_for(faces, NamedConcept(name="glases"))
    with pytest.raises(ConfigError, match="did you mean 'glasses'"):
        asking_for(faces, NamedConcept(name="glases"))
    untold = Denoiser(linear.module, linear.scheduler, (1, 2, 2))
    with pytest.raises(ModelError, match="is told no attributes of an image, so it cannot be asked"):
        asking_for(untold, NamedConcept(name="glasses"))
    assert asking_for(linear, NamedConcept(name="glasses")).cross_tokens() is None
    with pytest.raises(ModelError, match="the denoiser is not conditioned on classes"):
        asking_for(faces, NamedConcept(name="3", concept=ClassConcept(kind="class")))


def test_a_concept_that_no_judge_sees_is_refused(faces, runtime):
    panel, skin = SimpleNamespace(attributes=("glasses", "hat")), NamedConcept(name="skin")
    with pytest.raises(ConfigError, match="the judge does not know 'skin', only glasses, hat; add it to recognition"):
        Sampler(asking_for(faces, skin), skin, EvaluationConfig(), panel, runtime)


def test_further_images_are_told_what_they_were_sampled_with(faces, runtime):
    panel, hat = SimpleNamespace(attributes=("hat", "skin")), NamedConcept(name="hat")
    sampler = Sampler(asking_for(faces, hat), hat, EvaluationConfig(seeds=6), panel, runtime)
    images = torch.empty(0)
    own, further = (sampler.told(ImageSet(edit, "base", images)) for edit in (ORIGINAL, REFERENCE))
    drawn = drawn_condition(faces, 12, 200, fixed={"hat": 0.0}).values.numpy() > 0.5
    columns = [faces.attributes.index(name) for name in panel.attributes]
    assert np.array_equal(np.concatenate([own, further]), drawn[:, columns])
    assert not np.array_equal(own, further)


def test_doses_keep_their_digits_in_the_names_of_files():
    assert [dose_name(dose) for dose in (3000.0, 1234567.0, 0.001, 0.25)] == ["3000", "1234567", "0.001", "0.25"]


def test_windows_divide_the_steps(faces):
    assert windows(5, 2) == [[0, 1, 2], [3, 4]]
    with pytest.raises(ConfigError, match=r"concepts\.attribution\.windows: 3 are more than its 2 steps"):
        windows(2, 3)


def test_scores_of_second_order_need_curvature(faces):
    among = weights(faces, ["feed_forward"])
    found = Gradients({weight.name: torch.zeros(weight.parameter.shape) for weight in among})
    with pytest.raises(StoreError, match="these gradients have no curvature"):
        found.scores(among, "second")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"concepts": {"hat": {"value": 0.5, "base": 0.5}}}, "base 0.5 is the value that asks for the concept"),
        ({"concepts": {"hat": {"value": 0, "base": 1}}}, "base 1.0 has to be less than value 0.0"),
        ({"concepts": {"hat": {"value": 0.4}}}, "weak 0.5 has to be less than value 0.4"),
        (
            {"concepts": {"3": {"kind": "class", "label": "3", "base": "3"}}},
            "base '3' is the class that is the concept",
        ),
        ({"concepts": {"3": {"kind": "clas"}}}, "concepts.concepts.3.kind: 'clas' is not one of 'attribute', 'class'"),
        (
            {"concepts": {"hat": {"atribute": "hat"}}},
            "concepts.concepts.hat.atribute: unknown key; did you mean 'attribute'?",
        ),
        (
            {"concepts": {"hat": {"label": "hat"}}},
            "concepts.concepts.hat.label: unknown key; allowed are attribute, base, kind, value, weak",
        ),
        ({"edits": {"erase": {"doses": [1.5]}}}, "1.5 is no whole number; below 1 it is a share"),
        ({"edits": {"erase": {"doses": [5, 5]}}}, "doses must differ, found"),
        ({"edits": {"erase": {"factor": 1}}}, "factor 1 changes nothing"),
        ({"edits": {"erase": {"doses": [5]}}}, "compared: 3000 is not among doses; name some of these, or null"),
        ({"evaluation": {"seed": 100}}, "evaluation.seed 100 is that of attribution; give one no score has seen"),
        ({"groups": ["norm"]}, "feed_forward is not among groups, so it has no scores"),
        ({"edits": {"erase": {"groups": ["feedforward"]}}}, "concepts.edits.erase.groups"),
    ],
)
def test_mistakes_in_the_section_are_answered(section, message):
    with pytest.raises(ConfigError) as told:
        validate({"concepts": section})
    assert message in str(told.value)


def test_published_figures_that_are_missing_are_named(tmp_path):
    (tmp_path / "references.yaml").write_text("papers: []")
    with pytest.raises(StoreError, match=r"references\.yaml: holds no published figures"):
        read_references(tmp_path / "references.yaml")


def test_base_and_weak_values_need_not_be_told(faces):
    asking = asking_for(faces, NamedConcept(name="hat", concept=AttributeConcept(weak=None)))
    values = asking.conditions("weak", 2, 0, [0])[0].values.numpy()
    assert np.isnan(values[:, faces.attributes.index("hat")]).all()


def test_attributes_are_asked_for_as_galleries_are(faces, runtime):
    """Bit for bit what the functions make that know of no concepts."""
    asking = asking_for(faces, NamedConcept(name="hat"))
    settings = {"steps": 2, "guidance": 3.0, "seed": 5, "runtime": runtime}
    told = drawn_condition(faces, 2, 5, fixed={"hat": 1.0})
    with channels_last(faces.module):
        expected = sample_images(faces, told, **settings)
    assert torch.equal(asking.images("asked", 2, **settings), expected.clamp(-1, 1))
    assert torch.equal(asking.trajectories(2, **settings).images, expected)
    assert (asking.told("asked", 2, 5, ["smile", "hat"]) == (told.values[:, [5, 7]].numpy() > 0.5)).all()
