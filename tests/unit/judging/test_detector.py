"""A detector of the user's own: what it is given, what it may answer, and one line for everything else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from diffmech.config.judging import DetectorConfig, JudgesConfig
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import ModelError
from diffmech.judging import panel as judging
from diffmech.judging.detector import BATCH
from diffmech.judging.judge import Judge
from diffmech.judging.panel import Panel, open_panel
from diffmech.testing import assert_same_up_to_rounding

BRIGHT = "def bright(images):\n    return (images.mean(dim=(1, 2, 3))[:, None] + 1) / 2\n"


def detecting(folder: Path, text: str, *names: str, function: str = "bright") -> Panel:
    """Return the panel of a detector whose file says `text`, without a trained judge."""
    (folder / "own.py").write_text(text)
    detector = DetectorConfig(function=f"own.py:{function}", attributes=list(names or ("brightness",)))
    return open_panel(JudgesConfig(detector=detector), None, device="cpu", section="concepts.judges", root=folder)


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_detector_of_a_closed_form_is_asked_as_it_stands(tmp_path: Path) -> None:
    panel = detecting(tmp_path, BRIGHT)
    assert (panel.attributes, panel.judge, panel.accuracy) == (("brightness",), "own.py:bright", {})
    assert panel.absent[0].startswith("Frechet and kernel distance: no trained judge gives features")
    assert len(panel.absent) == 1  # attributes are judged
    images = pictures(2 * BATCH + 3)
    expected = (images.numpy().mean(axis=(1, 2, 3), dtype=np.float64)[:, None] + 1) / 2
    assert_same_up_to_rounding(panel.probabilities(images), expected)


def test_a_detector_may_answer_in_numpy_and_changes_no_image(tmp_path: Path) -> None:
    text = "def bright(images):\n    images[:] = 1\n    return images.numpy()[:, :2, 0, 0] > 0\n"
    images = pictures(3)
    np.testing.assert_array_equal(detecting(tmp_path, text, "one", "two").probabilities(images), np.ones((3, 2)))
    assert torch.equal(images, pictures(3))


def test_a_detector_stands_beside_the_trained_judge_and_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 2)).requires_grad_(False)
    judge = Judge(network, ("hat", "smile"), np.array([0.9, 0.8]))
    monkeypatch.setattr(judging, "read_judge", lambda path, device: judge)
    (tmp_path / "own.py").write_text(BRIGHT)
    detector = {"function": "own.py:bright", "attributes": ["smile"]}

    def panel(**keys: object) -> Panel:
        config = ResamplingConfig.model_validate({"detector": detector, **keys})
        return open_panel(config, "judge", device="cpu", root=tmp_path)

    both, alone, images = panel(), panel(attributes=[]), pictures(4)
    assert (both.attributes, both.accuracy) == (("hat", "smile"), {"hat": 0.9})
    assert both.judge == "the trained judge and own.py:bright"
    hat, smile = both.probabilities(images).T
    assert_same_up_to_rounding(hat, torch.sigmoid(network(images))[:, 0])
    np.testing.assert_array_equal(smile, alone.probabilities(images)[:, 0])
    assert (alone.attributes, alone.accuracy, alone.absent) == (("smile",), {}, ())
    assert both.features is not None
    assert alone.features is not None  # those of judges.features


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return images.mean(dim=(1, 2, 3))", r"returned shape \(2,\) for 2 images; expected .* \(2, 1\), of bright"),
        ("return images.mean(dim=(1, 2, 3))[:, None] * float('nan')", "returned NaN or infinity for brightness"),
        ("return 3 * images[:, :1, 0, 0].sign()", "3 for brightness, which is no probability; return numbers from 0"),
        ("return 'yes'", "returned a str that holds no numbers; expected probabilities"),
        ("return None", r"returned a NoneType that holds no numbers|returned shape \(\) for 2 images"),
        ("return images.mean().backward()", r"own\.py, line 3: RuntimeError: .*does not require grad"),
        ("raise KeyError('no such layer')", r"own\.py, line 3: KeyError: 'no such layer'; mend it there"),
        ("return torch.rand(len(images), 1)", "the same image among others; let it draw no random numbers"),
        ("return torch.softmax(images.mean(dim=(1, 2, 3))[:, None], dim=0)", "judge every image by itself"),
    ],
)
def test_answers_that_are_no_verdicts_are_refused_in_one_line(tmp_path: Path, body: str, line: str) -> None:
    panel = detecting(tmp_path, f"import torch\ndef bright(images):\n    {body}\n")
    with pytest.raises(ModelError, match=line) as caught:
        panel.probabilities(pictures(2).abs())
    assert "\n" not in str(caught.value)
    assert "own.py" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "function", "line"),
    [
        (BRIGHT, "brght", r"own\.py: has no function brght; nearest: bright$"),
        ("", "bright", "has no function bright; nearest: none, it has no function"),
        ("bright = 0.5\n", "bright", "bright is a float, which cannot be called; name a function of images"),
        ("def bright(images:\n", "bright", r"own\.py, line 1: SyntaxError"),
        ("import nothing_of_this_name\n", "bright", r"own\.py, line 1: ModuleNotFoundError"),
    ],
)
def test_files_without_the_function_are_refused_in_one_line(
    tmp_path: Path, text: str, function: str, line: str
) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        detecting(tmp_path, text, function=function)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    config = JudgesConfig(detector=DetectorConfig(function="gone.py:bright", attributes=["brightness"]))
    with pytest.raises(ModelError, match=r"^concepts\.judges\.detector\.function: 'gone\.py:bright': no such file \(l"):
        open_panel(config, None, device="cpu", section="concepts.judges", root=tmp_path)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"detector": {"function": "own.py", "attributes": ["a"]}}, "'own.py'; expected one like detectors/mine.py:d"),
        (
            {"detector": {"function": "own.py:f", "attributes": ["a", "a"]}},
            "attributes of a detector must differ, found a, a",
        ),
        (
            {"detector": {"function": "own.py:f", "attributes": ["hat"]}, "attributes": ["hat"]},
            "hat has two judges, the detector and another one",
        ),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(keys: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        JudgesConfig.model_validate(keys)


def test_the_trained_judge_is_needed_unless_nothing_is_left_for_it() -> None:
    detector = {"function": "own.py:f", "attributes": ["a"]}
    inception = {"features": "inception", "inception": "i.pt"}
    needed = [
        JudgesConfig.model_validate({"detector": detector, **keys}).trained_judge
        for keys in ({}, {"attributes": []}, inception, {**inception, "attributes": []})
    ]
    assert needed == [True, True, True, False]
