"""Loading a denoiser from its pointer `model.json`, trained or with fresh random weights.

Each kind of denoiser has one loader, a function that is found by name, so that only what it needs is imported:
`loader(pointer, model_json, device=device, untrained_seed=untrained_seed) -> Denoiser`. It compares the SHA-256 of the
pointer with what it finds (`check_unchanged`) unless `untrained_seed` is given, as then no weights are read.
"""

import importlib
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from diffmech.errors import ModelError
from diffmech.models.classes import told_none
from diffmech.models.denoiser import Denoiser
from diffmech.models.eager import watchable
from diffmech.models.storage import (
    WEIGHT_SUFFIXES,
    Layout,
    find_layout,
    pointed_directory,
    read_pointer,
    read_scheduler,
    sample_shape,
    weights_sha256,
)
from diffmech.models.tokens import AttributeTokens
from diffmech.models.weights import pretended
from diffmech.training.device import resolve_device
from diffmech.training.seeds import seeded

# Inside the package, and without its name: rules track the loader of the kind they load, not those of all kinds.
LOADERS = {
    "unet_condition_tokens": "models.load:load_directory",
    "unet_classes": "models.load:load_directory",
    "unet_unconditional": "models.load:load_directory",
    "custom": "models.implementation:load_custom",
    "pipeline": "models.pipelines:load_prompted",
    "planted": "planted.denoiser:load_planted",
}


def load_denoiser(model_json: Path, *, device: str = "auto", untrained_seed: int | None = None) -> Denoiser:
    """Return the denoiser that `model_json` points to, in float32 and evaluation mode, its weights frozen.

    With `untrained_seed` the same architecture gets fresh weights from that seed and no weight file is read: the null
    of every claim about what training put there. Raises ModelError or StoreError when it cannot be loaded, ConfigError
    for a device that is not there.
    """
    watchable()
    pointer = read_pointer(Path(model_json))
    if pointer["kind"] not in LOADERS:
        raise ModelError(
            f"{model_json}: kind {pointer['kind']!r} is none of {', '.join(LOADERS)}; "
            "delete it and let the workflow make it anew"
        )
    module, _, function = LOADERS[pointer["kind"]].partition(":")
    load = getattr(importlib.import_module(f"diffmech.{module}"), function)
    loaded: Denoiser = load(pointer, Path(model_json), device=device, untrained_seed=untrained_seed)
    return loaded


def load_directory(
    pointer: dict[str, Any], model_json: Path, *, device: str = "auto", untrained_seed: int | None = None
) -> Denoiser:
    """Return the denoiser of the diffusers directory that `pointer` names, as `load_denoiser` does."""
    layout = find_layout(pointed_directory(pointer, model_json), pointer.get("subfolder") or "unet")
    if untrained_seed is None:
        check_unchanged(pointer, model_json, found=weights_sha256(layout), where=layout.directory)
    return load_layout(layout, device=device, untrained_seed=untrained_seed)


def check_unchanged(
    pointer: dict[str, Any], model_json: Path, *, found: str, where: Path, what: str = "the weights"
) -> None:
    """Raise ModelError where the SHA-256 `found` of `what` at `where` is not the one of `pointer`."""
    if found != pointer["sha256"]:
        raise ModelError(
            f"{where}: {what} changed (SHA-256 {found[:12]}..., but {model_json} names "
            f"{str(pointer['sha256'])[:12]}...); delete {model_json} and let the workflow make it anew"
        )


def load_layout(layout: Layout, *, device: str = "auto", untrained_seed: int | None = None) -> Denoiser:
    """Return the denoiser of a diffusers directory, as `load_denoiser` does."""
    target = resolve_device(device)
    unet_class = getattr(diffusers, layout.config["_class_name"])
    shape, scheduler = sample_shape(layout), read_scheduler(layout)
    if untrained_seed is None:
        unet = _read_weights(unet_class, layout.unet)
        tokens = None if layout.tokens is None else _read_weights(AttributeTokens, layout.tokens)
    else:
        with seeded(untrained_seed):
            unet = _from_config(unet_class, layout.unet)
            tokens = None if layout.tokens is None else _from_config(AttributeTokens, layout.tokens)
    for module in (unet, tokens):
        if module is not None:
            module.to(target).eval().requires_grad_(False)
    if layout.classes:
        told_none(unet, len(layout.classes))
        return Denoiser(unet, scheduler, shape, attributes=layout.classes, classes=True)
    names = ((), ()) if tokens is None else (tuple(tokens.config.attributes), tuple(tokens.config.domains))
    return Denoiser(unet, scheduler, shape, tokens, *names)


def as_dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the keyword of diffusers' `from_pretrained` for weights in `dtype`: before 0.40 it was `torch_dtype`."""
    major, minor = map(int, diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 40) else "torch_dtype": dtype}


def count_parameters(denoiser: Denoiser) -> int:
    """Return the number of weights of the network and its tokens."""
    modules = [denoiser.module] + ([denoiser.tokens] if denoiser.tokens is not None else [])
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _read_weights(module_class: Any, folder: Path) -> Any:
    try:
        module, info = module_class.from_pretrained(
            str(folder),
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            **as_dtype(torch.float32),
        )
    except Exception as error:  # diffusers, safetensors and pickle each raise their own
        for file in sorted(folder.iterdir()):
            if file.suffix in WEIGHT_SUFFIXES and (what := pretended(file)):
                raise ModelError(f"{file}: holds no weights but is {what}") from error
        if any(sign in str(error) for sign in ("size mismatch", "mismatched", "shape")):
            raise ModelError(
                f"{folder}: its weights have other shapes than the network that its config.json describes; the two do "
                "not belong together: get both from one place"
            ) from error
        raise ModelError(
            f"{folder}: the weights cannot be read ({type(error).__name__}); get the whole directory again"
        ) from error
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} weights are missing or of another shape, first {wrong[0]}; config.json and the "
            "weight file do not belong together"
        )
    return module


def _from_config(module_class: Any, folder: Path) -> nn.Module:
    return module_class.from_config(module_class.load_config(str(folder), local_files_only=True))
