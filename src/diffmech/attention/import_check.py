"""What must hold of a denoiser before anything is computed with it, tried once where it is imported. Ours.

Every attention call of a pass is understood; an image gets the same prediction, and every head of it the same output,
alone and beside others; and the tokens of self-attention stand where the grid of the image says. What was measured is
kept with the model.
"""

import math
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.artifacts import read_json, write_json
from diffmech.attention.calls import AttentionCall
from diffmech.attention.extra_tokens import extra_ranges
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.prompted import PromptedDenoiser
from diffmech.randomness import generator

BATCH = 8
# How far a prediction, or what a head writes, may depend on the batch, of its largest value: rounding gives 1e-6 in
# float32 and 1e-2 where half precision is used; statistics over a batch give more than a tenth.
TOLERANCE, LOW_TOLERANCE = 1e-3, 5e-2
# What is added to a quarter of an image to see which tokens hear of it, in standard deviations of its noise.
NUDGE = 2.0
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))
# By how much of what quarters hear the right order must lead all orders on average, and may be behind the best one.
LEAST_LEAD, MOST_LAG = 0.02, 0.1
# How much patterns over tokens must correlate that are of the same tokens, and of how many there are patterns.
LEAST_ALIKE, LEAST_TOKENS = 0.25, 4


def check_imported(model_json: Path) -> None:
    """Check the denoiser behind `model_json` and write what was measured into it, as `checked`.

    The denoiser of a pipeline has no pass without its prompts: there the first pass that is stored shows its attention.
    """
    pointer = read_json(model_json)
    denoiser = load_denoiser(model_json, device="cpu")
    if not isinstance(denoiser, PromptedDenoiser):
        where = pointer.get("implementation", {}).get("file") or pointer["location"]
        write_json(model_json, {**pointer, "checked": check_denoiser(denoiser, f"{model_json.parent.name} ({where})")})


def check_denoiser(denoiser: Denoiser, where: object) -> dict[str, Any]:
    """Return what was measured: the calls of a pass, what has no softmax, keys without a place, the batch's influence.

    Raises ModelError, in one line that starts with `where`, for whatever does not hold.
    """
    images, timestep = _images(denoiser), denoiser.timesteps // 2
    of_one, of_all = _Kept(1), _Kept(1 + len(QUARTERS))
    alone: list[Tensor] = []
    report = check_tappable(
        denoiser.module, lambda: alone.append(denoiser.predict_noise(images[:1], timestep)[0]), of_one
    )
    try:
        report.require_all()
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    try:
        with torch.no_grad(), AttentionTap(denoiser.module, [of_all], sites=report.sites) as tap:
            together = denoiser.predict_noise(images, timestep)[0]
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    if tap.calls != list(report.tapped):
        raise ModelError(f"{where}: one image makes other attention calls than {BATCH}; let each be treated by itself")
    low = any(outputs.dtype in (torch.float16, torch.bfloat16) for outputs in of_one.outputs.values())
    tolerance = LOW_TOLERANCE if low else TOLERANCE
    measured = _difference(together, alone[0])
    for name, outputs in of_all.outputs.items():
        apart = _difference(outputs, of_one.outputs[name])
        if apart > LOW_TOLERANCE and measured <= tolerance:
            raise ModelError(
                f"{where}: at {name} the heads of an image among {BATCH} are not those of the image alone (they differ "
                f"by {apart:.2g} of their size): its batch axis does not hold images first; bring query, key and value "
                "to (sample, head, token, channel)"
            )
    if not measured <= tolerance:
        raise ModelError(
            f"{where}: the prediction of an image depends on the others in its batch (by {measured:.2g} of its size; "
            f"at most {tolerance:g}): statistics over a batch, as of BatchNorm without running statistics, or random "
            "numbers; its results would depend on runtime.batch_size, so let it treat each image by itself"
        )
    try:
        ranges = extra_ranges(
            denoiser.module,
            lambda: denoiser.predict_noise(images[:1], timestep),
            report.sites,
            of_all.tokens,
            denoiser.has_grid,
        )
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    places = {name: ranges[name].of_image("key") if name in ranges else slice(None) for name in of_all.values}
    values = {name: found[:, :, places[name]] for name, found in of_all.values.items()}
    try:
        heard_by = places_heard(denoiser, values)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    # By number of tokens, which of them earlier attention heard by: those that it mixed may hear of everything.
    mixed: dict[int, np.ndarray] = {}
    for name, found in values.items():
        changes = changes_of_tokens(found)
        if agreement(changes) < LEAST_ALIKE:
            raise ModelError(
                f"{where}: what {name} has as heads hears of different places of the image in the same tokens: windows "
                "or groups of tokens stand where heads are expected, which are not studied; bring query, key and value "
                "to (sample, head, token, channel) with all tokens of an image, and a mask"
            )
        if name not in heard_by:
            continue
        lead, lag = lead_of_places(heard_by[name])
        pattern = changes.mean(axis=1)
        known = mixed.get(found.shape[2])
        alike = known is not None and float(np.mean(_correlations(pattern, known))) >= LEAST_ALIKE
        if (lead < LEAST_LEAD and not alike) or lag > MOST_LAG:
            raise ModelError(
                f"{where}: the tokens of {name} do not stand row by row on the image: what changes in one quarter of "
                f"it is not heard most by the tokens of that quarter (lead {lead:.2g}, behind another order by "
                f"{lag:.2g}); attention over channels, tokens in another order, or a smaller grid and tokens without a "
                "place"
            )
        mixed.setdefault(found.shape[2], pattern)
    return {
        "attention_calls": len(report.sites),
        "attention_left_out": report.linear,
        "extra_tokens": {name: sum(found.extra) for name, found in ranges.items()},
        # To the power of ten, so that the same model gives the same file on another machine.
        "batch_difference_below": 10.0 ** math.ceil(math.log10(measured)) if measured else 0.0,
    }


def _images(denoiser: Denoiser) -> Tensor:
    """Return an image of noise, the same with each quarter nudged, and others."""
    noise = [generator(0, "import", image).standard_normal(denoiser.sample_shape) for image in range(BATCH)]
    images = torch.from_numpy(np.stack(noise).astype(np.float32))
    height, width = denoiser.sample_shape[1:]
    for row, (y, x) in enumerate(QUARTERS, start=1):
        images[row] = images[0]
        images[row, :, _half(y, height), _half(x, width)] += NUDGE
    return images.to(denoiser.device)


class _Kept:
    """Observer that keeps what heads write of the first image, and the values of self-attention of the first `rows`."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.outputs: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.tokens: dict[str, tuple[int, int]] = {}  # queries and keys of self-attention

    def observe(self, call: AttentionCall) -> None:
        self.outputs[call.site.name] = call.output[0].clone()
        if call.site.kind == "self":
            self.tokens[call.site.name] = call.query.shape[-2], call.key.shape[-2]
            self.values[call.site.name] = call.value[: self.rows].float()


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    size = float(expected.double().abs().max())
    return float((found.double() - expected.double()).abs().max()) / size if size else 0.0


def places_heard(
    denoiser: Denoiser, values: Mapping[str, Float[Tensor, "image head token channel"]]
) -> dict[str, Float[np.ndarray, "changed heard"]]:
    """Return how much the values of each quarter of the tokens change with each quarter of the image.

    `values` are those of an image and of itself with each quarter changed, by site; what comes back is of sites with at
    least 2 x 2 tokens.
    """
    heard: dict[str, np.ndarray] = {}
    for name, found in values.items():
        rows, columns = denoiser.site_grid(name, found.shape[2])
        if min(rows, columns) < 2:
            continue
        change = (found[1:] - found[:1]).square().sum((1, 3)).sqrt().unflatten(1, (rows, columns)).cpu().numpy()
        quarters = [change[:, _half(y, rows), _half(x, columns)].mean(axis=(1, 2)) for y, x in QUARTERS]
        heard[name] = np.stack(quarters, axis=1)
    return heard


def changes_of_tokens(values: Float[Tensor, "image head token channel"]) -> Float[np.ndarray, "change head token"]:
    """Return how much each token hears of each change of the image, of mean 0 and length 1 over tokens.

    The first image is the unchanged one.
    """
    change = (values[1:] - values[:1]).double().square().sum(-1).sqrt().cpu().numpy()
    change -= change.mean(axis=-1, keepdims=True)
    return np.asarray(change / np.maximum(np.linalg.norm(change, axis=-1, keepdims=True), np.finfo(np.float64).tiny))


def agreement(changes: Float[np.ndarray, "change head token"]) -> float:
    """Return the mean correlation between heads of what their tokens hear; 1 of a single head.

    All heads read the same tokens, so that they hear of a change in the same ones, whatever they do with them (0.4 to
    1 were seen); windows in the place of heads do not (-0.1 to 0.1).
    """
    loud = np.linalg.norm(changes, axis=-1).min(axis=0) > 0.5  # of heads that hear nothing at all there is no pattern
    if loud.sum() < 2 or changes.shape[2] < LEAST_TOKENS:
        return 1.0
    count = int(loud.sum())
    together = np.square(changes[:, loud].sum(axis=1)).sum(axis=-1)
    return float(np.mean((together - count) / (count * (count - 1))))


def _correlations(a: Float[np.ndarray, "change token"], b: Float[np.ndarray, "change token"]) -> np.ndarray:
    """Return the correlation of patterns of mean 0 for each change."""
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(size, np.finfo(np.float64).tiny))


def lead_of_places(heard: Float[np.ndarray, "changed heard"]) -> tuple[float, float]:
    """Return by how much quarters hear of their own quarter more than orders do on average, and less than the best.

    Both are shares of all that is heard, each quarter's own loudness taken out.
    """
    loud = heard / np.maximum(heard.mean(axis=0, keepdims=True), np.finfo(np.float64).tiny)
    shares = loud / np.maximum(loud.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    places = np.arange(len(shares))
    orders = np.array([shares[places, order].mean() for order in permutations(places)])
    return float(orders[0] - orders.mean()), float(orders.max() - orders[0])


def _half(which: int, length: int) -> slice:
    """Return the first or second half of an axis; a middle one of an odd length belongs to neither."""
    return slice(0, length // 2) if which == 0 else slice(length - length // 2, length)
