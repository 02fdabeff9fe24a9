"""Classes as concepts: how they are asked for, what else is looked at, and that an edit leaves a plain model."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from diffmech.concepts.asking import asking_for
from diffmech.concepts.attribution import Subject
from diffmech.concepts.effects import Edited, Images, effects
from diffmech.concepts.gradients import gradients
from diffmech.concepts.groups import weights
from diffmech.concepts.masks import Mask, applied, export
from diffmech.config.models import Architecture
from diffmech.config.studies.concepts import AttributionConfig, ClassConcept, NamedConcept
from diffmech.errors import ConfigError
from diffmech.models.architecture import build_class_unet, build_scheduler
from diffmech.models.classes import class_labels
from diffmech.models.load import load_layout
from diffmech.models.storage import find_layout, save_denoiser
from diffmech.training.seeds import seeded

TINY = Architecture(
    conditioning="classes", channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, timesteps=50
)
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("classes") / "model"
    with seeded(1):
        save_denoiser(made, build_class_unet(TINY, (1, 8, 8), 3), None, build_scheduler(TINY), classes=NAMES)
    return made


@pytest.fixture
def animals(folder):
    return load_layout(find_layout(folder), device="cpu")


def concept(name, **settings):
    return NamedConcept(name=name, concept=ClassConcept(kind="class", **settings))


def test_a_class_is_asked_for_against_none_and_shown_beside_the_others(animals):
    asking = asking_for(animals, concept("barks", label="dog"))

    def labels(way):
        first, second = asking.conditions(way, 3, 0, (40, 10))
        assert first is second
        return class_labels(first.values).tolist()

    assert {way: labels(way) for way in ("asked", "base", "weak")} == {
        "asked": [1, 1, 1],
        "base": [3, 3, 3],
        "weak": [3, 3, 3],
    }
    assert class_labels(asking_for(animals, concept("dog", base="owl")).conditions("base", 2, 0, [0])[0].values)[0] == 2
    assert asking.attribute == "dog"
    assert asking.told("asked", 3, 0, NAMES).tolist() == [[False, True, False]] * 3
    assert asking.told("base", 3, 0, NAMES).argmax(1).tolist() == [0, 2, 0]
    assert not asking.told("weak", 3, 0, NAMES).any()
    assert asking.cross_tokens() is None


def test_a_class_that_the_denoiser_does_not_know_is_named_with_those_it_does(animals):
    with pytest.raises(ConfigError, match=r"s\.ants: the denoiser knows no class 'dogs', only cat, dog, owl; did you"):
        asking_for(animals, SimpleNamespace(name="ants", concept=ClassConcept(kind="class", label="dogs")))
    with pytest.raises(ConfigError, match="the denoiser knows no class 'ant'"):
        asking_for(animals, concept("dog", base="ant"))


def test_only_the_class_asked_for_and_none_are_in_the_objectives(animals, runtime):
    """The embeddings of other classes make no difference to J, so they score 0."""
    subject = Subject(asking_for(animals, concept("dog")), AttributionConfig(samples=2, steps=2), runtime)
    among = [weight for weight in weights(animals) if weight.group == "conditioning"]
    assert [weight.name for weight in among] == ["class_embedding.weight"]
    for objective, rows in (("erase", [1]), ("amplify", [3])):
        scores = gradients(animals, subject.points(objective), among, batch_size=8).scores(among, "first")
        assert scores["class_embedding.weight"].abs().sum(1).nonzero()[:, 0].tolist() == rows


def test_plain_diffusers_loads_an_edited_class_network(animals, folder, tmp_path):
    among = weights(animals, ["convolution", "self_value"])
    mask = Mask.of({weight.name: np.arange(0, weight.parameter.numel(), 3) for weight in among})
    export(animals, mask, folder, tmp_path / "edited")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "edited" / "unet").eval()
    x_t = torch.randn(2, 1, 8, 8)
    (told,) = asking_for(animals, concept("owl")).conditions("asked", 2, 0, [20])
    with torch.no_grad():
        plain = unet(x_t, 20, class_labels=torch.tensor([2, 2])).sample
        with applied(animals, mask):
            assert torch.equal(animals.predict_noise(x_t, 20, told), plain)
        assert not torch.equal(animals.predict_noise(x_t, 20, told), plain)
    assert load_layout(find_layout(tmp_path / "edited"), device="cpu").attributes == NAMES


def test_what_is_kept_is_the_mean_over_the_classes_that_were_shown():
    """Each image without the concept is of one other class: cats are kept, half of the owls are lost."""
    n = 8
    target, base = np.zeros((n, 3), bool), np.zeros((n, 3), bool)
    target[:, 1] = True
    base[np.arange(n), np.where(np.arange(n) % 2 == 0, 0, 2)] = True
    lost = base.copy()
    lost[[1, 3], 2] = False

    def images(seen, told):
        return Images(seen.astype(float), told, np.zeros((n, 0)), np.ones(n), 1)

    sets = {
        ("own", "asked"): images(target & False, target),
        ("original", "asked"): images(target, target),
        ("own", "base"): images(lost, base),
        ("original", "base"): images(base, base),
    }
    # one seed alone shows the concept at random: a ratio to its rate has no interval
    sets["random", "asked"] = images(target & (np.arange(n) == 0)[:, None], target)
    edited = Edited("barks", "erase", 5, 5, "dog", NAMES, "asked", sets)
    rows = list(effects(edited, permutations=50, draws=200, confidence=0.95, seed=0))
    assert rows[0]["others_relative"] == pytest.approx(-0.25)
    assert rows[0]["others_relative_low"] < -0.25 < rows[0]["others_relative_high"]
    assert rows[0]["target_relative"] == rows[0]["target_relative_high"] == -1
    assert "others" not in rows[1]  # of the baseline there are no other classes to see
    assert rows[1]["target_relative"] == -1
    assert np.isnan([rows[1]["target_relative_low"], rows[1]["target_relative_high"]]).all()
