"""What must hold of a denoiser before anything is computed with it, tried once where it is imported. Ours.

Every attention call of a pass is understood; an image gets the same prediction, and every head of it the same output,
alone and beside others; heads read the same tokens; and the tokens of self-attention stand where the grid of the image
says. What was measured is kept with the model.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmech.artifacts import read_json, write_json
from diffmech.attention.answering import answered
from diffmech.attention.calls import AttentionCall, Observer
from diffmech.attention.extra_tokens import extra_ranges
from diffmech.attention.hearing import DRAWS, Heard, Hearing, Stripes, mixed_images, stripes_of
from diffmech.attention.maps import Maps, is_given, noted_maps, several
from diffmech.attention.places import (
    LEAST_ANSWER,
    LEAST_EVIDENCE,
    PLACED,
    answer,
    correlation,
    evident,
    heads_apart,
    out_of_place,
    told_of_places,
)
from diffmech.attention.ranges import Dim
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.batches import out_of_memory
from diffmech.errors import DiffmechError, ModelError
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.prompted import PromptedDenoiser

# How far a prediction, or what a head writes, may depend on the batch, of its largest value: rounding gives 1e-6 in
# float32 and 1e-2 where half precision is used; statistics over a batch give more than a tenth.
TOLERANCE, LOW_TOLERANCE = 1e-3, 5e-2
# So few places behind many layers hear of everything: where a module is given the map of just these, they need not tell
# where they stand, or half as surely (by 1.9 standard errors at least in U-Nets that were tried). Of channels, each is
# as long as there are places.
FEW_PLACES, SOME_PLACES = 4, 16
# The tokens of queries and values, as numbers of tokens and ranges name them.
DIMS: dict[str, Dim] = {"query": "query", "value": "key"}


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
    draws = [mixed_images(denoiser.sample_shape, draw).to(denoiser.device) for draw in range(DRAWS)]
    images, timestep = draws[0], denoiser.timesteps // 2
    stripes = stripes_of(*denoiser.sample_shape[1:])
    of_one, of_all, hearing = _Outputs(), _Outputs(), Hearing()
    alone: list[Tensor] = []
    together: list[Tensor] = []
    try:
        with noted_maps(denoiser.module) as maps:
            report = check_tappable(
                denoiser.module, lambda: alone.append(denoiser.predict_noise(images[:1], timestep)[0]), of_one
            )
        report.require_all()
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except Exception as error:
        if isinstance(error, DiffmechError) or out_of_memory(error):
            raise
        raise ModelError(
            f"{where}: a pass fails when it is watched ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
            "; tensors of classes of their own, as CausalBias, cannot be made in it: use plain ones"
        ) from error
    for each in draws:
        observers: list[Observer] = [hearing] if together else [of_all, hearing]
        try:
            with torch.no_grad(), AttentionTap(denoiser.module, observers, sites=report.sites) as tap:
                together.append(denoiser.predict_noise(each, timestep)[0])
        except ModelError as error:
            _check_batch(where, _difference(denoiser.predict_noise(images, timestep)[0], alone[0]), LOW_TOLERANCE)
            raise ModelError(f"{where}: {error}") from error
        if tap.calls != list(report.tapped):
            raise ModelError(
                f"{where}: one image makes other attention calls than {len(each)}; let each be treated by itself"
            )
    low = any(outputs.dtype in (torch.float16, torch.bfloat16) for outputs in of_one.outputs.values())
    tolerance = LOW_TOLERANCE if low else TOLERANCE
    measured = _difference(together[0], alone[0])
    for name, outputs in of_all.outputs.items():
        apart = _difference(outputs, of_one.outputs[name])
        if apart > LOW_TOLERANCE and measured <= tolerance:
            raise ModelError(
                f"{where}: at {name} the heads of an image among {len(images)} are not those of the image alone (they "
                f"differ by {apart:.2g} of their size): its batch axis does not hold images first; bring query, key "
                "and value to (sample, head, token, channel)"
            )
    _check_batch(where, measured, tolerance)
    sites = list(report.sites)
    own = {name: tokens for name, tokens in hearing.tokens.items() if hearing.kinds[name] == "self"}
    try:
        ranges = extra_ranges(
            denoiser.module, lambda: denoiser.predict_noise(images[:1], timestep), sites, own, denoiser.has_grid
        )
        paths = {site.name: site.module_path for site in sites}
        for name, heard in hearing.heard.items():
            _check_rows(name, several(maps, paths[name]))
            places = _places_of_map(denoiser, name, own.get(name, (0, 1)), maps, paths[name])
            if places and places <= FEW_PLACES and places != of_one.outputs[name].shape[-1]:
                continue
            _check_heads(name, heard)
            if name in own:
                counts = dict(zip(DIMS, own[name], strict=True))
                image = {
                    part: ranges[name].of_image(dim) if name in ranges else slice(0, counts[part])
                    for part, dim in DIMS.items()
                }
                least = LEAST_EVIDENCE / 2 if places and places <= SOME_PLACES else LEAST_EVIDENCE
                told = {part: heard[part].of(image[part]) for part in DIMS}
                if not _check_places(denoiser, name, told, stripes, least):
                    _check_answers(denoiser, name, *answered(denoiser, sites, name, image["query"], stripes, draws))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    return {
        "attention_calls": len(report.sites),
        "attention_left_out": report.linear,
        "extra_tokens": {name: sum(found.extra) for name, found in ranges.items()},
        # To the power of ten, so that the same model gives the same file on another machine.
        "batch_difference_below": 10.0 ** math.ceil(math.log10(measured)) if measured else 0.0,
    }


class _Outputs:
    """Observer that keeps what heads write of the first image."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}

    def observe(self, call: AttentionCall) -> None:
        self.outputs[call.site.name] = call.output[0].clone()


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    size = float(expected.double().abs().max())
    return float((found.double() - expected.double()).abs().max()) / size if size else 0.0


def _check_batch(where: object, measured: float, tolerance: float) -> None:
    if not measured <= tolerance:
        raise ModelError(
            f"{where}: the prediction of an image depends on the others in its batch (by {measured:.2g} of its size; "
            f"at most {tolerance:g}): statistics over a batch, as of BatchNorm without running statistics, attention "
            "whose batch and token axes are mistaken for each other (batch_first), or random numbers; its results "
            "would depend on runtime.batch_size, so let it treat each image by itself"
        )


def _check_rows(name: str, found: tuple[str, int] | None) -> None:
    if found is not None:
        raise ModelError(
            f"{name} runs within {found[0]}, which is given {found[1]} maps of each image in its batch axis: windows, "
            "frames or passes of guidance, which are not studied in one call; make them one by one"
        )


def _places_of_map(denoiser: Denoiser, name: str, tokens: tuple[int, int], maps: Maps, path: str) -> int:
    """Return how many places a call has whose module is given the map of just these; 0 of others."""
    queries, keys = tokens
    mapped = queries == keys and denoiser.has_grid(queries) and is_given(maps, path, *denoiser.site_grid(name, queries))
    return queries if mapped else 0


def _check_heads(name: str, heard: Mapping[str, Heard]) -> None:
    part = heads_apart(heard)
    if part is not None:
        raise ModelError(
            f"what {name} has as heads hears of different places of the image in the same tokens (by {part}): windows "
            "or groups of tokens stand where heads are expected, which are not studied; bring query, key and value to "
            "(sample, head, token, channel) with all tokens of an image, and a mask"
        )


def _check_places(
    denoiser: Denoiser, name: str, heard: Mapping[str, Heard], stripes: list[Stripes], least: float
) -> bool:
    """Return whether the queries of the image tell where they stand, or none need to as values hear of everything.

    `least` is how sure that must be. Raises ModelError unless the values stand row by row on the image and the
    queries may.
    """
    found = {}
    for part, what in (("value", "tokens"), ("query", "queries")):
        tokens = heard[part].from_first.shape[-1]
        told = told_of_places(heard[part], stripes, *denoiser.site_grid(name, tokens))
        found[part] = evident(told, tokens, least), correlation(told)
        why = out_of_place(told, tokens)
        if part == "value" and not found[part][0]:
            why = f"what they hear of does not tell where they stand (correlation {correlation(told):.2g})"
        if why is not None:
            raise ModelError(
                f"the {what} of {name} do not stand row by row on the image: {why}; attention over channels, tokens in "
                "another order or chosen by their content, or a smaller grid and tokens without a place; or other "
                "tokens than the image's, of which the module that attends says is_cross_attention = True"
            )
    return found["query"][0] or found["value"][1] < PLACED


def _check_answers(denoiser: Denoiser, name: str, changed: Heard, stripes: list[Stripes]) -> None:
    """Raise ModelError unless what queries bring that tell nothing of their place goes to where they stand."""
    if answer(told_of_places(changed, stripes, *denoiser.sample_shape[1:])) < LEAST_ANSWER:
        raise ModelError(
            f"neither what the queries of {name} hear of the image nor where their outputs go tells that they stand "
            "row by row on it: queries in another order, or learned queries, of which the module that attends says "
            "is_cross_attention = True"
        )
