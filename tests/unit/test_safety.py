"""What comes from outside is data: no file is run as code but one that config.yaml names as code."""

import ast
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmech.config.models import DenoiserConfig
from diffmech.data.preparation import read_image
from diffmech.errors import DataError, ModelError, StoreError
from diffmech.judging.judge import read_judge
from diffmech.models.importing import import_denoiser
from diffmech.models.weights import read_weights
from diffmech.training.checkpoint import FILE, Progress, load_checkpoint

ROOT = Path(__file__).parents[2]
# Calls that could run what a file holds, and the words without which they do.
RUNNING = {
    "eval": "",
    "exec": "",
    "compile": "",
    "__import__": "",
    "exec_module": "",
    "system": "",
    "unpack_archive": "",
    "extract": "",
    "extractall": "",
    "torch.load": "weights_only=True",
    "jit.load": "",
    "np.load": "allow_pickle=False",
    "yaml.load": "",
    "read_pickle": "",
}
# Where config.yaml names the code itself: a class or detector of the user's, the TorchScript of the Inception network.
NAMED_IN_CONFIG = {("models/own_module.py", "exec_module"), ("judging/panel.py", "jit.load")}
OF_OTHERS = {"eval", "compile"}  # methods of networks and of patterns
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile"}
OF_ERRORS = {"training/checkpoint.py"}  # imports pickle for the error that torch raises


def calls(text: str) -> Iterator[tuple[str, str]]:
    """Yield the calls in `text` that could run what a file holds, by name, and how they are written."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            for kind, needed in RUNNING.items():
                method = isinstance(node.func, ast.Attribute) and node.func.attr == kind and kind not in OF_OTHERS
                written = ast.unparse(node)
                if (name == kind or (name.endswith(f".{kind}") and "." in kind) or method) and (
                    not needed or needed not in written
                ):
                    yield kind, written


def modules(text: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found & MODULES


def sources() -> dict[str, str]:
    package = ROOT / "src" / "diffmech"
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    scripts = {file.name: file for file in (ROOT / "workflow_scripts").glob("*.py")}
    return {name: file.read_text(encoding="utf-8") for name, file in {**files, **scripts}.items()}


def test_nothing_that_is_read_is_run():
    found = {(name, kind) for name, text in sources().items() for kind, _ in calls(text)}
    assert found == NAMED_IN_CONFIG
    assert {name for name, text in sources().items() if modules(text)} == OF_ERRORS
    assert not [name for name, text in sources().items() if "trust_remote_code=True" in text]


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file)",
        "numpy.load(file, allow_pickle=True) if 0 else np.load(file, allow_pickle=True)",
        "archive.extractall(folder)",
        "spec.loader.exec_module(module)",
        "os.system(words)",
        "pd.read_pickle(file)",
    ],
)
def test_a_call_that_would_is_seen(line):
    assert list(calls(line))


@pytest.mark.parametrize("line", ["net.eval()", "torch.load(f, weights_only=True)", "np.load(f, allow_pickle=False)"])
def test_a_call_that_would_not_is_none(line):
    assert not list(calls(line))


class Bomb:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder / "went-off"),)


@pytest.fixture
def bomb(tmp_path):
    """Writes a pickle of the bomb, raw or as torch saves it, and checks at the end that it never went off."""

    def write(path: Path, how: str = "torch") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == "torch":
            torch.save({"weight": Bomb(tmp_path)}, path)
        else:
            path.write_bytes(pickle.dumps(Bomb(tmp_path)))
        return path

    yield write
    assert not (tmp_path / "went-off").exists()


def test_the_bomb_goes_off_where_it_is_run(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path)))
    assert (tmp_path / "went-off").exists()


@pytest.mark.parametrize("how", ["torch", "raw"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_refused_by_name(bomb, tmp_path, name, how):
    with pytest.raises(ModelError, match=name) as caught:
        read_weights(torch.nn.Linear(2, 2), bomb(tmp_path / name, how))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["torch", "raw"])
def test_a_pickle_in_a_directory_of_diffusers_is_refused_by_name(bomb, tmp_path, how):
    bundled = ROOT / "resources" / "models" / "faces"
    for part in ("unet/config.json", "tokens/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / "own" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / part).write_bytes((bundled / part).read_bytes())
    for part in ("unet", "tokens"):
        bomb(tmp_path / "own" / part / "diffusion_pytorch_model.bin", how)
    config = DenoiserConfig(source="diffusers", location=str(tmp_path / "own"))
    with pytest.raises(ModelError, match=r"own/unet.*the weights cannot be read") as caught:
        import_denoiser(config, tmp_path / "model.json", root=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["torch", "raw"])
def test_a_pickle_in_the_place_of_a_judge_or_a_checkpoint_is_refused_by_name(bomb, tmp_path, how):
    with pytest.raises(StoreError, match=r"judge\.safetensors: holds no judge"):
        read_judge(bomb(tmp_path / "judge.safetensors", how))
    bomb(tmp_path / FILE, how)
    optimiser = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
    progress, told = load_checkpoint(tmp_path, "key", {}, optimiser, torch.device("cpu"))
    assert progress is None or isinstance(progress, Progress)
    assert "is not a whole checkpoint" in told


def test_an_array_of_objects_in_the_place_of_an_image_is_refused(bomb, tmp_path):
    np.save(tmp_path / "image.npy", np.array([Bomb(tmp_path)], dtype=object))
    with pytest.raises(DataError, match=r"cannot be read as a \.npy array"):
        read_image(tmp_path / "image.npy")
    bomb(tmp_path / "other.npy", "raw")
    with pytest.raises(DataError, match=r"cannot be read as a \.npy array"):
        read_image(tmp_path / "other.npy")
