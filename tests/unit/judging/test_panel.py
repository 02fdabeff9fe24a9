"""Who looks at the images: the trained judge, a CLIP model from a folder, an Inception of one's own."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from diffmech.config.judging import JudgesConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import ConfigError, ModelError
from diffmech.judging import panel as judging
from diffmech.judging.judge import Judge
from diffmech.judging.panel import open_panel
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PAIRS = {"hat": ["a hat", "no hat"], "same": ["a face", "a face"]}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights: pictures of 24 pixels, words spelled out letter by letter."""
    folder = tmp_path_factory.mktemp("clip")
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "vocab.json").write_text(str(vocabulary).replace("'", '"'))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = CLIPTextConfig(
        **sizes,
        vocab_size=len(pieces),
        max_position_embeddings=16,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    vision = CLIPVisionConfig(**sizes, image_size=24, patch_size=8)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    return folder


def pictures(count: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_clip_gives_features_and_zero_shot_attributes(clip_folder: Path) -> None:
    config = ResamplingConfig(features="clip", clip=str(clip_folder), text_attributes=PAIRS)
    panel = open_panel(config, None, device="cpu")
    assert (panel.attributes, panel.absent, panel.accuracy) == (("hat", "same"), (), {})
    assert panel.features is not None
    features = panel.features(pictures(5))
    assert features.shape == (5, 12)
    assert_same_up_to_rounding(np.linalg.norm(features, axis=1), np.ones(len(features)))
    seen = panel.probabilities(pictures(5))
    assert ((seen[:, 0] > 0) & (seen[:, 0] < 1) & (seen[:, 0] != 0.5)).all()
    np.testing.assert_array_equal(seen[:, 1], 0.5)  # two equal texts say nothing


def test_zero_shot_probability_is_the_softmax_over_the_pair_of_texts(clip_folder: Path) -> None:
    config = ResamplingConfig(features="clip", clip=str(clip_folder), text_attributes=PAIRS)
    images = torch.nn.functional.interpolate(pictures(3), (24, 24), mode="bicubic", antialias=True).clamp(-1, 1)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(PAIRS["hat"], padding=True, return_tensors="pt")
    mean, spread = torch.tensor(judging.CLIP_MEAN), torch.tensor(judging.CLIP_SPREAD)
    pixels = ((images + 1) / 2 - mean[:, None, None]) / spread[:, None, None]
    with torch.no_grad():
        expected = model(**tokens, pixel_values=pixels).logits_per_image.softmax(-1)[:, 0]
    found = open_panel(config, None, device="cpu").probabilities(pictures(3))[:, 0]
    assert_same_up_to_rounding(found, expected, roundings=ROUNDINGS_OF_MANY_PASSES)


def test_grey_images_are_looked_at_in_three_channels(clip_folder: Path) -> None:
    panel = open_panel(ResamplingConfig(features="clip", clip=str(clip_folder)), None, device="cpu")
    assert panel.features is not None
    grey = pictures(2, 1)
    assert_same_up_to_rounding(panel.features(grey), panel.features(grey.expand(-1, 3, -1, -1)))
    assert panel.attributes == ()
    assert panel.absent[0].startswith("attributes: nothing judges them; prompts name no attributes")


class Means(nn.Module):
    """Stands for an Inception: gets bytes, gives features or class scores."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        means = images.float().mean(dim=[2, 3])
        return means if return_features else means[:, :1]


class Plain(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=[2, 3])


@pytest.mark.parametrize("network", [Means(), Plain()])
def test_an_inception_gets_bytes_and_gives_features(network: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "inception.pt")
    config = ResamplingConfig(features="inception", inception=str(tmp_path / "inception.pt"))
    panel = open_panel(config, None, device="cpu")
    assert panel.features is not None
    np.testing.assert_array_equal(panel.features(torch.ones(2, 1, 4, 4)), np.full((2, 3), 255))


def test_the_trained_judge_reads_its_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    judge = Judge(network, ("hat", "smile"), np.array([0.9, 0.8]))
    monkeypatch.setattr(judging, "read_judge", lambda path, device: judge)
    images = torch.randn(3, 1, 4, 4)
    panel = open_panel(ResamplingConfig(attributes=["smile"]), "judge", device="cpu")
    assert (panel.attributes, panel.accuracy) == (("smile",), {"smile": 0.8})
    assert panel.features is not None
    features = panel.features(images)
    assert_same_up_to_rounding(features, network[:2](images).detach())
    expected = torch.sigmoid(network(images))[:, 1:].detach()
    assert_same_up_to_rounding(panel.probabilities(images), expected)
    with pytest.raises(ConfigError, match=r"^resampling\.attributes: the judge does not know 'wings', only hat, smile"):
        open_panel(ResamplingConfig(attributes=["wings"]), "judge", device="cpu")
    with pytest.raises(ConfigError, match=r"^concepts\.judges\.attributes: the judge does not know 'wings'"):
        open_panel(JudgesConfig(attributes=["wings"]), "judge", device="cpu", section="concepts.judges")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"features": "clip", "clip": "/no/such/folder"},
            r"resampling\.clip: /no/such/folder cannot be read as a CLIP",
        ),
        ({"features": "inception", "inception": "/no/such.pt"}, r"/no/such\.pt cannot be read as TorchScript"),
    ],
)
def test_what_cannot_be_read_is_answered_with_one_line(changes: dict[str, str], line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        open_panel(ResamplingConfig(**changes), None, device="cpu")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_clip_model_without_its_library_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"resampling\.clip: some/clip needs the library transformers; pip install 'diffmech\[pipelines\]'"
    with pytest.raises(ModelError, match=message):
        open_panel(ResamplingConfig(features="clip", clip="some/clip"), None, device="cpu")


def test_an_inception_of_another_shape_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Identity()).save(tmp_path / "identity.pt")
    panel = open_panel(
        ResamplingConfig(features="inception", inception=str(tmp_path / "identity.pt")), None, device="cpu"
    )
    assert panel.features is not None
    with pytest.raises(ModelError, match=r"returns \(2, 3, 4, 4\); expected \(image, feature\)"):
        panel.features(torch.zeros(2, 1, 4, 4))
