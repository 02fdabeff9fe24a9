"""What changes over a training, as functions of the step alone: the learning rate and the decay of the average."""

import math
from typing import Protocol

WARM_UP = 0.1  # share of the steps in which the learning rate rises


class Settings(Protocol):
    """What a section of config.yaml says of any training: `precision` is float32, bfloat16 or auto, `ema_decay` that of
    the averaged weights, 0 = no average."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...


def learning_rate(step: int, settings: Settings) -> float:
    """Return the learning rate of `step`: half a cosine up from 1/25 of the peak, half a cosine down to nothing."""
    rise = max(1, round(WARM_UP * settings.steps))
    if step < rise:
        share = (1 - math.cos(math.pi * step / rise)) / 2
        return settings.learning_rate * (1 + 24 * share) / 25
    share = (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise))) / 2
    return settings.learning_rate * share


def averaging_decay(step: int, settings: Settings) -> float:
    """Return the decay of the averaged weights at `step` (from 0): it grows towards `ema_decay`, so the start is
    forgotten."""
    return min(settings.ema_decay, (1 + step) / (10 + step))
