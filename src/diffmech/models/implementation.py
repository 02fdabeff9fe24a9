"""A denoiser of the user's own: any torch module in a file that predicts noise. Ours.

The file is run in its own folder, so that it may import what lies beside it. The SHA-256 of the pointer covers the
code (`workflow.own_code`), the arguments of the class and the weights, so that an edit of any of them is noticed.
"""

import difflib
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from diffmech.artifacts import folder_of, provenance, read_json, write_json
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser, Forward
from diffmech.models.eager import check_kind, input_dtype, uncompiled
from diffmech.models.load import check_unchanged, count_parameters
from diffmech.models.own_module import blaming, locate, looked, run
from diffmech.models.schedules import noise_schedule
from diffmech.models.storage import check_size, publishing, relative_location
from diffmech.models.weights import read_weights
from diffmech.training.device import resolve_device
from diffmech.training.seeds import seeded
from diffmech.workflow.own_code import OwnCode, code_digest


class OwnDenoiser(Protocol):
    """What a torch module needs in order to be studied: a forward; everything else is optional.

    `forward(x_t, timestep)` gets noised images (sample, channel, y, x) in about [-1, 1] and integer timesteps
    (sample,), and returns the predicted noise (or v, or the clean image, as schedule.prediction_type says) in the shape
    of `x_t`: a tensor, a tuple that starts with it, or an object that has it as `sample`. A module that has
    `attributes` or `domains`, two sequences of names, is conditional: its forward gets a `Condition` as third argument,
    whose `domain` (sample,) indexes `domains` (-1 = unknown) and whose `values` (sample, attribute) follow
    `attributes`, in [0, 1] (NaN = unknown).
    """

    def forward(self, x_t: Tensor, timestep: Tensor, *condition: Condition) -> Any:
        """Return the prediction for `x_t`."""


def import_custom(config: DenoiserConfig, output_json: Path, *, root: Path, images: ImagesConfig | None) -> None:
    """Write the pointer to a class of the user's own, once it was built and gave an output that fits.

    Its schedule is written beside the pointer. Raises ModelError, in one line, for everything that does not fit.
    """
    code = locate(str(config.implementation), root, key="models: implementation", kind="Class")
    weights = None if config.weights is None else _file(config.weights, "weights", root)
    if config.sample_shape is None and images is None:
        raise ModelError(f"{code.file}: the size of its images is not known; give sample_shape: [channels, y, x]")
    shape = config.sample_shape or [images.channels, images.size, images.size]  # type: ignore[union-attr]
    if images is not None:
        check_size(shape, images, code.file)
    with publishing(output_json.parent) as temporary:
        _schedule(config, root).save_pretrained(temporary / "scheduler")
    pointer = {
        "kind": "custom",
        "location": ".",
        "implementation": {
            "file": relative_location(code.file, output_json, root),
            "folder": relative_location(code.folder, output_json, root),
            "module": code.module,
            "class": code.name,
        },
        "arguments": config.arguments,
        "weights": None if weights is None else relative_location(weights, output_json, root),
        "seed": config.training.seed,
        "sample_shape": list(shape),
        "sha256": _sha256(code, config.arguments, weights),
        "source": config.source,
    }
    denoiser = load_custom(pointer, output_json, device="cpu")
    _try(denoiser, code)
    _check_random(code, config.arguments, shape)
    found = {
        "parameters": count_parameters(denoiser),
        "attributes": list(denoiser.attributes),
        "domains": list(denoiser.domains),
        "timesteps": denoiser.timesteps,
        "prediction_type": denoiser.prediction_type,
        "provenance": json.loads(provenance()),
    }
    write_json(output_json, pointer | found)


def load_custom(
    pointer: dict[str, Any], model_json: Path, *, device: str = "auto", untrained_seed: int | None = None
) -> Denoiser:
    """Return the denoiser of a class of the user's own, as `load_denoiser` does.

    Without weight file its random weights depend on the seed of the pointer.
    """
    target, folder = resolve_device(device), folder_of(model_json)
    own = pointer["implementation"]
    file, base = (Path(os.path.normpath(folder / own[key])) for key in ("file", "folder"))
    code = OwnCode(file, base, own["module"], own["class"])
    weights = None if pointer["weights"] is None else Path(os.path.normpath(folder / pointer["weights"]))
    needed = [file, weights] if weights is not None and untrained_seed is None else [file]
    for each in needed:
        if not each.is_file():
            raise ModelError(f"{each}: is gone, and {model_json} was made from it; put it back, or name another one")
    if untrained_seed is None:
        found = _sha256(code, pointer["arguments"], weights)
        check_unchanged(pointer, model_json, found=found, where=code.file, what="the code or the weights")
    seed = pointer["seed"] if untrained_seed is None else untrained_seed
    uncompiled()
    module = build(code, pointer["arguments"], seed, pointer["sample_shape"])
    if weights is not None and untrained_seed is None:
        read_weights(module, weights)
    # Not to another precision: half and complex weights are the model's own arithmetic.
    module.to(target).eval().requires_grad_(False)
    scheduler = DDPMScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    shape = tuple(int(length) for length in pointer["sample_shape"])
    attributes, domains = (_names(module, name, code) for name in ("attributes", "domains"))
    forward = _forward(module, code, conditional=bool(attributes or domains))
    return Denoiser(module, scheduler, shape, None, attributes, domains, forward)  # type: ignore[arg-type]


def build(code: OwnCode, arguments: Mapping[str, Any], seed: int, shape: Sequence[int]) -> nn.Module:
    """Return the module of the class in `code`, its weights drawn from torch's generator under `seed`.

    Lazy modules learn their sizes from one pass of an image of `shape`.
    """
    with blaming(code):
        content = run(code)
    found = getattr(content, code.name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        if found is not None:
            what = f"a {type(found).__name__}" if not isinstance(found, type) else "a class"
            raise ModelError(f"{code.file}: {code.name} is {what} that is no torch.nn.Module; let it inherit from it")
        classes = [name for name, value in vars(content).items() if isinstance(value, type)]
        near = difflib.get_close_matches(code.name, classes, n=3, cutoff=0.0)
        raise ModelError(
            f"{code.file}: has no class {code.name}; nearest: {', '.join(near) or 'none, it has no class'}"
        )
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{code.file}: {code.name}{inspect.signature(found)} does not accept arguments "
            f"{dict(arguments)} ({error}); mend models.<name>.arguments"
        ) from error
    with seeded(seed), blaming(code):
        module = found(**arguments)
        check_kind(module, code.file)
        if any(isinstance(each, UninitializedParameter) for each in module.parameters()):
            _pass_of_zeros(module, code, shape)
    if next(module.parameters(), None) is None:
        raise ModelError(f"{code.file}: {code.name} has no parameters; expected a network that predicts noise")
    return module


def _pass_of_zeros(module: nn.Module, code: OwnCode, shape: Sequence[int]) -> None:
    names = [_names(module, name, code) for name in ("attributes", "domains")]
    forward = _forward(module, code, conditional=any(names))
    with torch.no_grad():
        forward(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long), Condition.null(1, len(names[0])))


def _forward(module: nn.Module, code: OwnCode, *, conditional: bool) -> Forward:
    accepted = inspect.signature(module.forward)
    try:
        accepted.bind(*["x_t", "timestep", "condition"][: 3 if conditional else 2])
    except TypeError as error:
        expected = (
            "(x_t, timestep, condition), since it has attributes or domains" if conditional else "(x_t, timestep)"
        )
        raise ModelError(
            f"{code.file}: {code.name}.forward is {accepted}, expected {expected} ({error}); docs/own-model.md"
        ) from error

    dtype = input_dtype(module)

    def forward(x_t: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        given = x_t.to(dtype)
        output = module(given, timestep, condition) if conditional else module(given, timestep)
        if isinstance(output, tuple | list) and output:
            output = output[0]
        found = getattr(output, "sample", output) if not isinstance(output, Tensor) else output
        batch, channels, *size = x_t.shape
        # twice the channels: the variance is predicted too
        if not isinstance(found, Tensor) or found.shape not in ((batch, channels, *size), (batch, 2 * channels, *size)):
            what = (
                f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            )
            raise ModelError(
                f"{code.file}: {code.name}.forward returned {what} for images of shape {tuple(x_t.shape)}; expected "
                "the predicted noise in that shape"
            )
        return found.to(x_t.dtype)

    return forward


def _try(denoiser: Denoiser, code: OwnCode) -> None:
    x_t = torch.linspace(-1, 1, 2 * torch.Size(denoiser.sample_shape).numel()).reshape(2, *denoiser.sample_shape)
    with torch.no_grad(), blaming(code):
        first, again = (denoiser.predict_noise(x_t, torch.tensor([0, denoiser.timesteps - 1])) for _ in range(2))
    if not first.isfinite().all():
        raise ModelError(
            f"{code.file}: {code.name} predicts NaN or infinity; check its weights, and that it handles every "
            f"timestep from 0 to {denoiser.timesteps - 1}" + (" and unknown conditions" if denoiser.conditional else "")
        )
    if not torch.equal(first, again):
        raise ModelError(
            f"{code.file}: {code.name} answers the same images differently each time; let it draw no random numbers "
            "in evaluation mode"
        )


def _check_random(code: OwnCode, arguments: Mapping[str, Any], shape: Sequence[int]) -> None:
    first, second = (build(code, arguments, seed, shape).state_dict() for seed in (0, 1))
    if all(torch.equal(value, second[name]) for name, value in first.items()):
        raise ModelError(
            f"{code.file}: {code.name} has the same weights under every seed, so there is no untrained copy to compare "
            "with; read trained weights by models.<name>.weights and not in the class"
        )


def _schedule(config: DenoiserConfig, root: Path) -> DDPMScheduler:
    schedule = config.schedule
    if schedule.config is None:
        return DDPMScheduler(
            num_train_timesteps=schedule.timesteps,
            beta_schedule=schedule.beta_schedule,
            prediction_type=schedule.prediction_type,
        )
    directory = next(
        (each for each in (Path(schedule.config).expanduser(), root / schedule.config) if each.is_dir()), None
    )
    file = directory / "scheduler_config.json" if directory else _file(schedule.config, "schedule.config", root)
    return noise_schedule(file, read_json(file))


def _file(name: str, key: str, root: Path) -> Path:
    for path in (Path(name).expanduser(), root / name):
        if path.is_file():
            return path.resolve()
    raise ModelError(f"models: {key} {name!r}: no such file ({looked(root)}); check the path")


def _names(module: nn.Module, key: str, code: OwnCode) -> tuple[str, ...]:
    names = getattr(module, key, ())
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{code.file}: {code.name}.{key} is {names!r}; expected a list of names")
    return tuple(names)


def _sha256(code: OwnCode, arguments: Mapping[str, Any], weights: Path | None) -> str:
    digest = hashlib.sha256(f"{code_digest(code)} {json.dumps(arguments, sort_keys=True)}".encode())
    if weights is not None:
        with weights.open("rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()
