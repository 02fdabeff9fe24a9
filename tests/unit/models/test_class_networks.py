"""Networks that are told classes: what they are given, how they lie on disk, and what they are trained on."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from diffmech.artifacts import read_json
from diffmech.config.images import Digits, ImagesConfig, SyntheticFaces
from diffmech.config.load import validate
from diffmech.config.models import Architecture, DenoiserConfig, RecognitionConfig, Training
from diffmech.data.store import prepare_dataset
from diffmech.errors import ConfigError, DataError, ModelError
from diffmech.judging.judge import make_judge, read_judge
from diffmech.models.architecture import build_class_unet, count_heads
from diffmech.models.classes import class_labels
from diffmech.models.denoiser import Condition
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import drawn_condition, guided_prediction
from diffmech.models.train import train_denoiser

TINY = Architecture(
    conditioning="classes", channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, timesteps=50
)


def write(folder: Path, embeddings: int, names: list[str] | None = None, **config: object) -> UNet2DModel:
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=embeddings,
        **config,
    )
    unet.save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    if names is not None:
        (folder / "classes.json").write_text(json.dumps({"names": names}))
    return unet.eval()


def load(folder: Path):
    given = DenoiserConfig(source="diffusers", location=str(folder))
    import_denoiser(given, folder / "model.json", root=folder)
    return load_denoiser(folder / "model.json", device="cpu")


def told(labels: list[int | None], classes: int) -> Condition:
    values = torch.zeros(len(labels), classes)
    for row, label in enumerate(labels):
        values[row] = torch.nan if label is None else torch.eye(classes)[label]
    return Condition(torch.full((len(labels),), -1), values)


def test_a_network_is_called_with_the_labels_of_its_classes(tmp_path):
    unet = write(tmp_path, 4, ["cat", "dog", "owl"])
    denoiser = load(tmp_path)
    assert (denoiser.attributes, denoiser.domains, denoiser.classes) == (("cat", "dog", "owl"), (), True)
    x_t = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        by_hand = unet(x_t, 20, class_labels=torch.tensor([2, 0, 3, 1])).sample
        assert torch.equal(denoiser.predict_noise(x_t, 20, told([2, 0, None, 1], 3)), by_hand)
        # guidance goes from no class to the class
        null = unet(x_t, 20, class_labels=torch.full((4,), 3)).sample
        guided = guided_prediction(denoiser, x_t, 20, told([2, 0, None, 1], 3), 3.0)
        torch.testing.assert_close(guided, null + 3 * (by_hand - null), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [None, ["cat", "dog", "owl"]])
def test_without_an_embedding_for_no_class_it_is_the_mean_of_all(tmp_path, names):
    unet = write(tmp_path, 3, names)
    denoiser = load(tmp_path)
    assert denoiser.attributes == (("0", "1", "2") if names is None else tuple(names))
    x_t = torch.randn(2, 1, 8, 8)
    assert denoiser.module.state_dict().keys() == unet.state_dict().keys()
    with torch.no_grad():
        expected = unet(x_t, 20, class_labels=torch.tensor([1, 2])).sample
        assert torch.equal(denoiser.predict_noise(x_t, 20, told([1, 2], 3)), expected)
        unet.class_embedding.weight[:] = unet.class_embedding.weight.mean(0)
        nothing = unet(x_t, 20, class_labels=torch.tensor([0, 0])).sample
        torch.testing.assert_close(denoiser.predict_noise(x_t, 20), nothing, rtol=1e-4, atol=1e-5)


def test_an_image_has_one_class_at_most():
    assert class_labels(torch.tensor([[0.0, 1], [torch.nan, torch.nan], [0, 0], [1, torch.nan]])).tolist() == [
        1,
        2,
        2,
        0,
    ]
    with pytest.raises(ValueError, match="told to be of two classes"):
        class_labels(torch.tensor([[1.0, 1]]))


def test_names_that_do_not_fit_the_embeddings_are_refused(tmp_path):
    write(tmp_path, 4, ["cat", "dog"])
    with pytest.raises(ModelError, match=r"classes\.json: expected .* with 4 different names, one per class embedding"):
        load(tmp_path)


def test_other_ways_to_tell_classes_are_refused(tmp_path):
    write(tmp_path, 4, class_embed_type="timestep")
    with pytest.raises(ModelError, match="conditioned on classes in a way that is not supported"):
        load(tmp_path)


def test_heads_are_as_many_as_asked_for():
    # one layer on the way down, two on the way up
    assert count_heads(build_class_unet(TINY, (1, 8, 8), 10)) == 3 * 4
    with pytest.raises(ModelError, match=r"6 x 6 pixels cannot be halved 2 times"):
        wide = Architecture(conditioning="classes", channels=[8, 8, 16], attention=[False, False, True], heads=4)
        build_class_unet(wide, (1, 6, 6), 10)
    model = {"source": "train", "architecture": {"conditioning": "classes", "channels": [8, 16], "heads": 4}}
    model["architecture"] |= {"attention": [True, True], "norm_groups": 4}
    with pytest.raises(ConfigError, match=r"have \[8, 16\] channels, but a UNet2DModel has one width of heads"):
        validate({"study": {"name": "x", "model": "m"}, "models": {"m": model}})


def test_classes_take_turns_but_for_those_that_are_held(tmp_path):
    write(tmp_path, 4, ["cat", "dog", "owl"])
    denoiser = load(tmp_path)

    def labels(**fixed):
        return class_labels(drawn_condition(denoiser, 4, 0, fixed=fixed).values).tolist()

    assert labels() == [0, 1, 2, 0]
    assert labels(dog=1.0) == [1, 1, 1, 1]
    assert labels(dog=0.0) == [0, 2, 0, 2]
    assert labels(dog=float("nan")) == labels(dog=0.5) == [3, 3, 3, 3]


@pytest.fixture(scope="module")
def digits(tmp_path_factory, quiet) -> dict[str, Path]:
    stores = {}
    for domain, classes in (("low", [0, 1]), ("high", [7, 9])):
        stores[domain] = tmp_path_factory.mktemp("digits") / f"{domain}.zarr.zip"
        dataset = Digits(kind="digits", classes=classes, count=20)
        prepare_dataset(dataset, ImagesConfig(size=8), stores[domain], name=domain, runtime=quiet)
    return stores


def train(config: DenoiserConfig, stores: dict[str, Path], folder: Path, quiet) -> Path:
    settings = {"images": ImagesConfig(size=8), "runtime": quiet}
    train_denoiser(config, stores, folder / "model", folder / "checkpoints", **settings)
    return folder / "model" / "model.json"


def test_training_tells_classes_and_writes_what_is_read_again(digits, quiet, tmp_path):
    training = Training(steps=3, batch_size=8, domain_shares={"low": 1, "high": 1}, precision="float32", flip=[])
    config = DenoiserConfig(source="train", architecture=TINY, training=training)
    for conditioning, kind in (("tokens", "unet_condition_tokens"), ("classes", "unet_classes")):
        architecture = TINY.model_copy(update={"conditioning": conditioning})
        pointer = train(config.model_copy(update={"architecture": architecture}), digits, tmp_path, quiet)
        assert read_json(pointer)["kind"] == kind
    denoiser = load_denoiser(pointer, device="cpu")
    assert denoiser.attributes == tuple("0123456789")
    assert denoiser.module.class_embedding.num_embeddings == 11
    before = load_denoiser(pointer, device="cpu", untrained_seed=training.seed).module.class_embedding.weight
    ratio = denoiser.module.class_embedding.weight / before
    # of classes that are in the data, and of no class; the others but shrink by the decay of weights
    assert (ratio.amax(1) - ratio.amin(1) > 1e-5).nonzero()[:, 0].tolist() == [0, 1, 7, 9, 10]
    # a judge of its classes comes from the same digits
    judge = tmp_path / "judge.safetensors"
    recognition = RecognitionConfig(attributes=["3", "7", "hat"], epochs=1)
    make_judge(pointer, judge, recognition=recognition, images=ImagesConfig(size=8), runtime=quiet)
    assert read_judge(judge).attributes == ("3", "7")


def test_images_without_one_class_each_are_refused(quiet, tmp_path):
    store = tmp_path / "faces.zarr.zip"
    prepare_dataset(
        SyntheticFaces(kind="synthetic_faces", count=10), ImagesConfig(size=8), store, name="faces", runtime=quiet
    )
    training = Training(steps=1, domain_shares={"faces": 1}, flip=[])
    config = DenoiserConfig(source="train", architecture=TINY, training=training)
    with pytest.raises(
        DataError, match=r"8 of 8 images of domain 'faces' are not of one class, by the attributes skin"
    ):
        train(config, {"faces": store}, tmp_path, quiet)
