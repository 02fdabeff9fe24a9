"""The loop of a training with a network that is no denoiser: killed anywhere it ends in the same bits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from diffmech.config.analysis import RuntimeConfig
from diffmech.errors import ModelError
from diffmech.tables import number
from diffmech.training.checkpoint import FILE
from diffmech.training.loop import Run
from diffmech.training.seeds import draws_of, seeded
from diffmech.training.tables import history_table

CPU = torch.device("cpu")
PATH = "results/linear/history.csv"
HISTORY = history_table(
    "linear_history", PATH, "How it went.", source="ours", distance=number("mean squared distance of the points", "1")
)


@dataclass(frozen=True)
class Settings:
    steps: int = 9
    learning_rate: float = 0.05
    ema_decay: float = 0.9
    precision: str = "float32"
    seed: int = 0


class LinearAutoencoder(Run):
    """Four numbers through two, with a normalisation that counts its batches and a dropout that draws."""

    section = "linear"

    def __init__(self, settings: Settings) -> None:
        with seeded(settings.seed):
            self.network = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.3), nn.Linear(2, 4))
        self.dies_at = -1
        super().__init__((self.network,), settings, CPU)

    def losses(self, step: int) -> dict[str, Tensor]:
        if step == self.dies_at:
            raise KeyboardInterrupt
        points = torch.randn(8, 4, generator=draws_of(self.settings.seed, step))
        with self.mixed_precision():
            distance = (self.network(points).float() - points).square().mean()
        return {"loss": distance + self.network[0].weight.square().sum(), "distance": distance}

    def tensors(self) -> list[Tensor]:
        return [tensor.clone() for tensor in (*self.weights, *self.averaged, *self.buffers)]


def runtime(seconds: float = 1e-9) -> RuntimeConfig:
    return RuntimeConfig(device="cpu", progress=False, checkpoint_seconds=seconds)


def finished(folder: Path, settings: Settings, *deaths: int) -> LinearAutoencoder:
    """Train in `folder`, each process but the last killed in one of the steps `deaths`."""
    for death in deaths:
        run = LinearAutoencoder(settings)
        run.dies_at = death
        with pytest.raises(KeyboardInterrupt):
            run.finish(folder, "key", runtime())
    run = LinearAutoencoder(settings)
    run.finish(folder, "key", runtime())
    return run


def same_bits(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_at_any_step_it_ends_in_the_same_bits(precision: str, tmp_path: Path) -> None:
    settings = Settings(precision=precision)
    whole = finished(tmp_path / "whole", settings)
    assert len(whole.buffers) == 3
    for step in range(settings.steps):
        resumed = finished(tmp_path / str(step), settings, step)
        assert same_bits(resumed.tensors(), whole.tensors()), step
    often = finished(tmp_path / "often", settings, 2, 5, 8)
    assert same_bits(often.tensors(), whole.tensors())
    rows = [[{**row, "seconds": 0} for row in run.progress.history] for run in (often, whole)]
    assert rows[0] == rows[1]


def test_killed_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, save = finished(tmp_path / "whole", Settings()), torch.save

    def dying(content: dict, path: Path) -> None:
        if content["progress"]["step"] == 5:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(content, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", dying)
        finished(tmp_path / "killed", Settings())
    assert torch.load(tmp_path / "killed" / FILE)["progress"]["step"] == 4
    assert same_bits(finished(tmp_path / "killed", Settings()).tensors(), whole.tensors())


def test_what_a_network_draws_belongs_to_the_step_and_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(7)
    first = finished(tmp_path / "first", Settings())
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    torch.manual_seed(8)
    assert same_bits(finished(tmp_path / "second", Settings()).tensors(), first.tensors())
    assert not same_bits(finished(tmp_path / "other", Settings(seed=1)).tensors(), first.tensors())


@pytest.mark.parametrize(
    ("spoil", "what"),
    [(lambda loss: loss * torch.nan, "loss is nan"), (lambda loss: (loss - loss.detach()).sqrt(), "gradient is")],
)
def test_divergence_is_one_line_and_leaves_the_last_good_checkpoint(
    spoil: Callable[[Tensor], Tensor], what: str, tmp_path: Path
) -> None:
    class Diverging(LinearAutoencoder):
        def losses(self, step: int) -> dict[str, Tensor]:
            found = super().losses(step)
            return {**found, "loss": spoil(found["loss"])} if step == 4 else found

    run = Diverging(Settings())
    with pytest.raises(
        ModelError, match=rf"^training diverged: the {what}.* at step 5; lower linear\.learning"
    ) as error:
        run.finish(tmp_path, "key", runtime())
    assert "\n" not in str(error.value)
    kept = torch.load(tmp_path / FILE)
    assert kept["progress"]["step"] == 4
    assert all(tensor.isfinite().all() for tensors in kept["state"].values() for tensor in tensors)
    # it is that of a training that did not diverge
    whole = finished(tmp_path / "whole", Settings())
    assert same_bits(finished(tmp_path, Settings()).tensors(), whole.tensors())


def test_the_loss_falls_and_the_history_tells_its_parts(tmp_path: Path) -> None:
    run = LinearAutoencoder(Settings(steps=400))
    run.finish(tmp_path, "key", runtime(seconds=60))
    run.write_history(HISTORY, tmp_path / "history.csv")
    history = HISTORY.read(tmp_path / "history.csv")
    assert history["step"].tolist() == list(range(2, 401, 2))
    assert history["loss"].tail(20).mean() < 0.9 * history["loss"].head(20).mean()
    assert (history["distance"] <= history["loss"]).all()
    assert pd.read_csv(tmp_path / "history.csv").columns.tolist() == list(HISTORY.columns)
    record = run.record()
    assert (record["steps"], record["device"], record["precision"]) == (400, "cpu", "float32")
    assert record["final_loss"] == pytest.approx(history["loss"].tail(20).mean(), rel=1e-5)


def test_weights_without_a_gradient_stay_and_without_averaging_the_average_is_the_last(tmp_path: Path) -> None:
    run = LinearAutoencoder(Settings(ema_decay=0))
    assert same_bits(run.averaged, run.weights)
    run.finish(tmp_path, "key", runtime())
    assert same_bits(run.averaged, run.weights)

    class Frozen(LinearAutoencoder):
        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            self.network[0].requires_grad_(False)
            Run.__init__(self, (self.network,), settings, CPU)

    frozen = Frozen(Settings())
    before = frozen.network[0].weight.clone()
    frozen.finish(tmp_path / "frozen", "key", runtime())
    assert torch.equal(frozen.network[0].weight, before)
    assert len(frozen.weights) == len(run.weights) - 2
