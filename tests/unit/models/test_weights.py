"""A file of weights is read, or named as what it is; a prefix of all names is taken off, and nothing else is."""

import gzip
import logging
import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import nn

from diffmech.config.models import DenoiserConfig
from diffmech.errors import ModelError
from diffmech.models.importing import import_denoiser
from diffmech.models.weights import read_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def refused(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_weights(network(), file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert "weights_only" not in message  # the advice of torch to load unsafely
    return message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html><head>", r"is a web page \(HTML\); download the file itself"),
        (b"\n  <html lang='en'>", r"is a web page \(HTML\)"),
        (b"\xef\xbb\xbf<!doctype HTML>", r"is a web page \(HTML\)"),
        (LFS, r"is a pointer of Git LFS, .*; run git lfs pull"),
        (b"/annex/objects/MD5E-s42--1.pt\n", r"is a pointer of git-annex"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", r"is an XML document, such as the error of a download"),
        (b'{"error": "not found"}', r"is a JSON text"),
        (gzip.compress(b"weights", mtime=0), r"is compressed by gzip; unpack it first"),
        (b"\x89HDF\r\n\x1a\n", r"is an HDF5 file"),
        (b"", r"is an empty file; download it again"),
    ],
)
def test_what_bears_the_name_of_weights_and_is_none_is_named(
    content: bytes, what: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    assert re.search(f"holds no weights but {what}", refused(file))


def test_a_file_under_the_name_of_another_format_says_which_name_it_should_have(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.safetensors")
    assert "is a file of torch.save under the name of another format; rename it to .pt" in refused(
        tmp_path / "w.safetensors"
    )
    save_file(network().state_dict(), tmp_path / "w.pt")
    assert "rename it to .safetensors" in refused(tmp_path / "w.pt")


def test_objects_beside_tensors_are_not_loaded_and_no_one_is_told_to(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pt")
    assert "holds more than tensors" in refused(tmp_path / "w.pt")
    torch.save({"weights": network().state_dict(), "path": Path("x")}, tmp_path / "path.pt")
    assert "save model.state_dict() and no more" in refused(tmp_path / "path.pt")


def test_a_file_that_was_cut_off_is_said_to_be_damaged(tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        file = tmp_path / name
        if file.suffix == ".pt":
            torch.save(network().state_dict(), file)
        else:
            save_file(network().state_dict(), file)
        file.write_bytes(file.read_bytes()[:-40])
        assert "so it is damaged, cut off or of another kind; get it again" in refused(file)


@pytest.mark.parametrize("prefix", ["net.", "module.", "model.", "_orig_mod.", "module._orig_mod.", "ema.online."])
def test_a_prefix_of_all_names_is_taken_off_and_told(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = network()
    torch.save({f"{prefix}{name}": value + 1 for name, value in own.state_dict().items()}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        read_weights(own, tmp_path / "w.pt")
    assert torch.equal(own[0].weight, network()[0].weight + 1)
    assert f"all names of its weights begin with '{prefix}', which is taken off" in caplog.text


def test_names_of_the_class_are_left_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrapped = nn.ModuleDict({"net": network()})
    torch.save(wrapped.state_dict(), tmp_path / "w.pt")
    read_weights(wrapped, tmp_path / "w.pt")
    assert not caplog.text


def test_a_prefix_is_not_taken_off_where_the_rest_does_not_fit(tmp_path: Path) -> None:
    state = {f"net.{name}": value for name, value in network().state_dict().items()}
    torch.save({**state, "net.0.weight": torch.ones(9, 9)}, tmp_path / "shape.pt")
    assert re.search(
        r"weights do not fit Sequential, which has 7: .*; those of the file begin with 'net\.': save the state_dict",
        refused(tmp_path / "shape.pt"),
    )
    torch.save({**state, "other.weight": torch.ones(1)}, tmp_path / "more.pt")
    assert "those of the file begin with 'net.'" in refused(tmp_path / "more.pt")


def test_a_class_that_wraps_what_was_saved_is_told_so(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"; those of the class begin with 'net\.': save the state_dict of the class"):
        read_weights(nn.ModuleDict({"net": network()}), tmp_path / "w.pt")


def test_each_weight_that_does_not_fit_is_counted_once(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({"1.weight": torch.ones(7), "1.bias": state["1.bias"], "head": torch.ones(1)}, tmp_path / "w.pt")
    assert re.search(
        r"its weights do not fit Sequential, which has 7: 5 are missing, first 0\.weight, "
        r"1 are not of the class, first head, "
        r"1 have another shape: 1\.weight is 7, expected 3",
        refused(tmp_path / "w.pt"),
    )


@pytest.mark.parametrize(("kind", "what"), [(torch.complex64, "complex numbers"), (torch.int8, "integers")])
def test_weights_of_another_kind_of_number_are_not_cast(kind: torch.dtype, what: str, tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(
        {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()},
        tmp_path / "w.pt",
    )
    assert f"6 of its weights are {what}, first 0.weight, where Sequential has real numbers" in refused(
        tmp_path / "w.pt"
    )
    torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in state.items()}, tmp_path / "w.pt"
    )
    read_weights(network(), tmp_path / "w.pt")


def test_a_diffusers_directory_whose_weights_are_a_pointer_says_so(tmp_path: Path) -> None:
    UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(tmp_path / "unet")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(LFS)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler", "num_train_timesteps": 100}')
    with pytest.raises(ModelError, match=r"model\.safetensors: holds no weights but is a pointer of Git LFS"):
        import_denoiser(
            DenoiserConfig(source="diffusers", location=str(tmp_path)), tmp_path / "m" / "model.json", root=tmp_path
        )
