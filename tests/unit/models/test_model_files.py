"""Denoisers come back from disk as they were written, and what cannot be studied is named with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel, UNet2DModel

from diffmech.artifacts import read_json
from diffmech.config.images import ImagesConfig
from diffmech.config.models import Architecture, DenoiserConfig
from diffmech.errors import ConfigError, ModelError, StoreError
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.importing import bundle_denoiser, import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.storage import check_size, find_layout, save_denoiser
from diffmech.testing import assert_same_up_to_rounding
from diffmech.training.device import resolve_device

TINY = Architecture(channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, token_width=8, timesteps=50)
SMALL_UNET = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}


def predict(denoiser: Denoiser) -> torch.Tensor:
    x_t = torch.linspace(-2, 2, denoiser.sample_shape[0] * 64).reshape(1, *denoiser.sample_shape)
    return denoiser.predict_noise(x_t, 20)


def foreign(name: str) -> DenoiserConfig:
    return DenoiserConfig(source="diffusers", location=name)


def write_unconditional(folder: Path, *, subfolder: str = "unet", **scheduler: object) -> UNet2DModel:
    unet = UNet2DModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **SMALL_UNET,
    )
    unet.save_pretrained(folder / subfolder)
    DDPMScheduler(**scheduler).save_pretrained(folder / "scheduler" if subfolder else folder)
    return unet.eval()


def test_loading_gives_what_was_saved(tmp_path: Path) -> None:
    unet, tokens = build_model(TINY, (1, 8, 8), ["hat"], ["real", "synthetic"], 3)
    save_denoiser(tmp_path / "m", unet, tokens, build_scheduler(TINY))
    import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    loaded = load_denoiser(tmp_path / "model.json", device="cpu")
    for before, after in ((unet, loaded.module), (tokens, loaded.tokens)):
        assert before.state_dict().keys() == after.state_dict().keys()
        for name, weight in before.state_dict().items():
            assert torch.equal(weight, after.state_dict()[name]), name
    condition = Condition(torch.tensor([1]), torch.tensor([[0.5]]))
    x_t = torch.randn(1, 1, 8, 8)
    expected = unet.eval()(x_t, 20, tokens(condition.domain, condition.values)).sample
    assert_same_up_to_rounding(loaded.predict_noise(x_t, 20, condition), expected)
    assert loaded.domains == ("real", "synthetic")
    assert loaded.token_names == ("domain", "hat")
    assert not loaded.module.training
    assert not any(p.requires_grad for p in loaded.module.parameters())


def test_half_precision_files_come_back_in_float32_and_close(tmp_path: Path) -> None:
    unet, tokens = build_model(TINY, (1, 8, 8), ["hat"], ["real"], 3)
    save_denoiser(tmp_path / "half", unet, tokens, build_scheduler(TINY), dtype=torch.float16)
    save_denoiser(tmp_path / "full", unet, tokens, build_scheduler(TINY))
    assert next(unet.parameters()).dtype == torch.float32
    sizes = [(tmp_path / n / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = []
    for name in ("half", "full"):
        import_denoiser(foreign(str(tmp_path / name)), tmp_path / f"{name}.json", root=tmp_path)
        loaded.append(load_denoiser(tmp_path / f"{name}.json", device="cpu"))
    assert next(loaded[0].module.parameters()).dtype == torch.float32
    assert_same_up_to_rounding(predict(loaded[0]), predict(loaded[1]), dtype="float16", roundings=8)


def test_untrained_twin_has_its_own_weights_by_seed_and_reads_none(trained: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(trained.parent, copied)
    for weights in copied.rglob("*.safetensors"):
        weights.unlink()
    pointer = copied / "model.json"
    first, again, other = (predict(load_denoiser(pointer, device="cpu", untrained_seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    twin = load_denoiser(pointer, device="cpu", untrained_seed=1)
    original = load_denoiser(trained, device="cpu")
    shapes = [[weight.shape for weight in d.module.parameters()] for d in (twin, original)]
    assert shapes[0] == shapes[1]
    assert twin.attributes == original.attributes
    assert not torch.equal(predict(twin), predict(original))


@pytest.mark.parametrize("subfolder", ["unet", ""])
def test_unconditional_diffusers_directory_is_loaded(tmp_path: Path, subfolder: str) -> None:
    unet = write_unconditional(tmp_path / "foreign", subfolder=subfolder, num_train_timesteps=40)
    import_denoiser(foreign(str(tmp_path / "foreign")), tmp_path / "model.json", root=tmp_path)
    denoiser = load_denoiser(tmp_path / "model.json", device="cpu")
    assert read_json(tmp_path / "model.json")["kind"] == "unet_unconditional"
    assert (denoiser.timesteps, denoiser.token_names, denoiser.sample_shape) == (40, (), (1, 8, 8))
    x_t = torch.randn(2, 1, 8, 8)
    assert_same_up_to_rounding(denoiser.predict_noise(x_t, 20, Condition.null(2, 0)), unet(x_t, 20).sample)


def test_conditional_class_without_cross_attention_is_loaded(tmp_path: Path) -> None:
    unet = UNet2DConditionModel(
        in_channels=1,
        out_channels=1,
        cross_attention_dim=(None, None),
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        **SMALL_UNET,
    )
    unet.save_pretrained(tmp_path / "m" / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "m" / "scheduler")
    import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    x_t = torch.randn(1, 1, 8, 8)
    predicted = load_denoiser(tmp_path / "model.json", device="cpu").predict_noise(x_t, 20)
    assert_same_up_to_rounding(predicted, unet.eval()(x_t, 20, None).sample)


def test_pointer_moves_with_its_tree_and_notices_changed_weights(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.parent, moved)
    assert torch.equal(predict(load_denoiser(moved / "model.json", device="cpu")), predict(load_denoiser(trained)))
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"the weights changed \(SHA-256 .*, but .*model\.json names .*; delete"):
        load_denoiser(moved / "model.json", device="cpu")


def test_bundled_denoiser_is_found_by_name(trained: Path, tmp_path: Path, images_config: ImagesConfig) -> None:
    shutil.copytree(trained.parent, tmp_path / "resources" / "models" / "faces")
    config = DenoiserConfig(source="bundled", location="faces")
    output = tmp_path / "results" / "models" / "faces" / "model.json"
    import_denoiser(config, output, root=tmp_path, images=images_config)
    assert read_json(output)["location"] == "../../../resources/models/faces"
    assert torch.equal(predict(load_denoiser(output, device="cpu")), predict(load_denoiser(trained, device="cpu")))
    with pytest.raises(ModelError, match=r"no bundled denoiser 'cats'.*which has faces"):
        import_denoiser(DenoiserConfig(source="bundled", location="cats"), output, root=tmp_path)


def test_bundle_is_half_the_size_and_predicts_the_same(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resources" / "models" / "faces"
    bundle_denoiser(trained, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"unet", "tokens", "classes.json", "scheduler", "history.csv", "provenance.json", "SHA256SUMS"}
    output = tmp_path / "model.json"
    import_denoiser(DenoiserConfig(source="bundled", location="faces"), output, root=tmp_path)
    bundled, original = load_denoiser(output, device="cpu"), load_denoiser(trained, device="cpu")
    assert_same_up_to_rounding(predict(bundled), predict(original), dtype="float16", roundings=8)


def test_untrained_source_is_written_with_the_names_of_the_study(
    tmp_path: Path, stores: dict[str, Path], images_config: ImagesConfig
) -> None:
    config = DenoiserConfig(source="untrained", architecture=TINY)
    for name in ("a", "b"):
        output = tmp_path / name / "model.json"
        import_denoiser(config, output, root=tmp_path, images=images_config, datasets=stores)
    first, second = (load_denoiser(tmp_path / name / "model.json", device="cpu") for name in ("a", "b"))
    assert torch.equal(predict(first), predict(second))
    assert first.domains == ("real", "synthetic")
    assert "glasses" in first.attributes


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_unconditional(tmp_path / "m")
    with pytest.raises(ModelError, match=r"1 x 8 x 8 .* gives 1 x 32 x 32; set images\.channels 1 and images\.size 8"):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path, images=ImagesConfig())
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((1, 16, 8), "only square images are studied.*sample_shape: .1, 8, 8. .*set images.size 8; one that takes"),
        ((3, 8, 48), "only square images are studied.*sample_shape: .3, 8, 8. "),
        ((4, 64, 64), "images have 1 channel or 3; where it denoises the latents of a pipeline, study that one"),
    ],
)
def test_a_denoiser_of_images_that_nobody_can_set_gets_advice_that_fits(shape, advice) -> None:
    """It was told to set `size` to its height, and then the same again, or `channels` to what is not allowed."""
    with pytest.raises(ModelError, match=advice) as error:
        check_size(shape, ImagesConfig(), Path("net.py"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "DiTTransformer2DModel"},
            "DiTTransformer2DModel is not supported; .*which take an image and a timestep",
        ),
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}, "cross_attention_dim 768 .* text"),
        ({"class_embed_type": "identity"}, "conditioned on classes in a way that is not supported"),
        (
            {"_class_name": "UNet2DConditionModel", "cross_attention_dim": None, "addition_embed_type": "text"},
            "needs the further input addition_embed_type = 'text', which is not supported; expected an uncond",
        ),
        ({"sample_size": None}, "sample_size is missing"),
        ({"out_channels": 3}, "1 channels in and 3 out"),
    ],
)
def test_unsupported_networks_are_named_with_the_reason(tmp_path: Path, change: dict, message: str) -> None:
    write_unconditional(tmp_path / "m")
    config = tmp_path / "m" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelError, match=message) as caught:
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_unsupported_schedules_and_autoencoders_are_named_with_the_reason(tmp_path: Path) -> None:
    write_unconditional(tmp_path / "m")
    scheduler = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(ModelError, match=r"FlowMatchEulerDiscreteScheduler is not supported.*betas of DDPM"):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    scheduler.unlink()
    with pytest.raises(
        ModelError, match=r"no scheduler_config\.json .*; the noise schedule it was trained with is needed"
    ):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    (tmp_path / "m" / "vqvae").mkdir()
    with pytest.raises(
        ModelError, match=r"works on the codes of an autoencoder \(vqvae/\), which .* as `source: pipeline`"
    ):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            "is no configuration but a pointer of Git LFS",
        ),
        (b"<!DOCTYPE html><html>", r"is no configuration but a web page \(HTML\)"),
        (b"", "is empty, cut off or otherwise no JSON"),
        (b'{"_class_name": "UNet2D', "is empty, cut off or otherwise no JSON"),
        (b"\xff\xfe\x00", "is empty, cut off or otherwise no JSON"),
        (b"[1, 2]", "holds a JSON list, not an object of settings"),
    ],
)
def test_a_configuration_that_was_not_downloaded_whole_is_named(
    file: str, content: bytes, what: str, tmp_path: Path
) -> None:
    write_unconditional(tmp_path / "m")
    (tmp_path / "m" / file).write_bytes(content)
    with pytest.raises(ModelError, match=f"{file}: {what}") as caught:
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    assert "delete it" not in str(caught.value)


def test_a_configuration_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    write_unconditional(tmp_path / "m")
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(ModelError, match=r"cannot be read \(Permission denied\); check the path and who may read it"):
        find_layout(tmp_path / "m")


def test_a_configuration_of_another_width_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    write_unconditional(tmp_path / "m")
    config = tmp_path / "m" / "unet" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"block_out_channels": [2 * n for n in content["block_out_channels"]]}))
    with pytest.raises(
        ModelError, match=r"its weights have other shapes than the network that its config\.json describes"
    ):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)


def test_damaged_weights_are_one_clear_line(tmp_path: Path) -> None:
    write_unconditional(tmp_path / "m")
    weights = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(ModelError, match=r"cannot be read|no weight file"):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)


def test_a_directory_without_a_network_tells_what_it_holds(tmp_path: Path) -> None:
    write_unconditional(tmp_path / "m", subfolder="denoiser")
    message = (
        r"m: neither unet/config\.json nor config\.json is there \(found denoiser, scheduler\); give .* `subfolder`"
    )
    with pytest.raises(ModelError, match=message):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)


def test_weights_that_predict_nothing_finite_are_refused(tmp_path: Path) -> None:
    unet = write_unconditional(tmp_path / "m")
    with torch.no_grad():
        unet.conv_out.bias.fill_(torch.nan)
    unet.save_pretrained(tmp_path / "m" / "unet")
    with pytest.raises(
        ModelError, match="m: predicts NaN or infinity for an empty image; its weights are damaged, get"
    ):
        import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    assert not (tmp_path / "model.json").exists()


def test_what_is_trained_is_not_imported_and_what_is_imported_is_not_bundled(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="models: a denoiser with source train is trained, not imported; call train_d"
    ):
        import_denoiser(DenoiserConfig(source="train"), tmp_path / "model.json", root=tmp_path)
    write_unconditional(tmp_path / "m")
    import_denoiser(foreign(str(tmp_path / "m")), tmp_path / "model.json", root=tmp_path)
    with pytest.raises(
        ModelError, match=r"model\.json: only a denoiser with our conditioning tokens can be bundled; give"
    ):
        bundle_denoiser(tmp_path / "model.json", tmp_path / "bundle")


def test_a_pointer_that_lacks_something_is_to_be_made_anew(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"kind": "diffusers"}')
    with pytest.raises(
        ModelError, match=r"model\.json: lacks location, sha256; delete it and let the workflow make it"
    ):
        load_denoiser(tmp_path / "model.json")


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "no body/nothing"])
def test_a_model_that_the_hub_does_not_have_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no model can have is refused by the library before the network is asked."""
    import huggingface_hub

    missing = huggingface_hub.errors.RepositoryNotFoundError

    def not_found(*_: object, **__: object) -> None:
        raise missing.__new__(missing)  # its arguments are an answer of the network

    if " " not in name:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", not_found)
    with pytest.raises(
        ModelError, match=rf"models: the hub has no model '{name}' at revision main, .*; check location"
    ):
        import_denoiser(foreign(name), tmp_path / "model.json", root=tmp_path)


def test_a_download_that_breaks_off_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space\nleft")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(
        ModelError, match=r"^models: 'some/model' could not be downloaded \(no space left\); try again, or"
    ):
        import_denoiser(foreign("some/model"), tmp_path / "model.json", root=tmp_path)


def test_hub_model_without_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"hub cannot be reached.*in the local cache") as caught:
        import_denoiser(foreign("nobody/nothing-of-this-name"), tmp_path / "model.json", root=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["./gone", "/gone/too", "gone", "a/b/c"])
def test_location_that_is_neither_directory_nor_hub_id_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(ModelError, match="is no directory, and no hub id"):
        import_denoiser(foreign(location), tmp_path / "model.json", root=tmp_path)


def test_missing_pointer_and_missing_device_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing\.json: cannot be read"):
        load_denoiser(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="'quantum' is no device"):
        resolve_device("quantum")
    with pytest.raises(ConfigError, match="'cuda:99' is not on this machine"):
        resolve_device("cuda:99")
