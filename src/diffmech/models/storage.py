"""How a denoiser lies on disk: a plain diffusers directory, and `model.json`, the pointer every other part reads.

The pointer names the directory relative to itself where both lie in one tree, so that a clone can be moved, and holds
the SHA-256 of the weights, so that weights that changed behind it are noticed.
"""

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import save_file
from torch import nn

from diffmech.artifacts import folder_of, provenance, read_json, write_json
from diffmech.config.images import ImagesConfig
from diffmech.errors import ModelError
from diffmech.models.schedules import noise_schedule
from diffmech.models.tokens import AttributeTokens
from diffmech.models.weights import pretended

WEIGHT_SUFFIXES = (".safetensors", ".bin")
SUPPORTED = ("UNet2DModel", "UNet2DConditionModel")
CLASSES = "classes.json"


@dataclass(frozen=True)
class Layout:
    """The parts of a diffusers directory; `tokens` is None for a network without our conditioning tokens, and `classes`
    names those that it is conditioned on."""

    directory: Path
    unet: Path
    scheduler: Path
    tokens: Path | None
    config: dict[str, Any]
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`unet_condition_tokens`, `unet_classes` or `unet_unconditional`."""
        if self.tokens is not None:
            return "unet_condition_tokens"
        return "unet_classes" if self.classes else "unet_unconditional"

    @property
    def subfolder(self) -> str:
        """The folder of the network inside the directory, empty where it is the directory itself."""
        return "" if self.unet == self.directory else self.unet.relative_to(self.directory).as_posix()


def save_denoiser(
    directory: Path,
    unet: nn.Module,
    tokens: AttributeTokens | None,
    scheduler: DDPMScheduler,
    *,
    classes: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a plain diffusers directory (`unet/`, `tokens/`, `classes.json`, `scheduler/`); float16 halves it and is
    read as float32.

    The files are the same for every network, and those of the way in which it is not told hold nothing: where the
    files of a rule change with its settings, Snakemake has no record of the new ones, and runs nothing.
    """
    parts: dict[str, nn.Module] = {"unet": unet} if tokens is None else {"unet": unet, "tokens": tokens}
    write_json(directory / CLASSES, {"names": list(classes)})
    if tokens is None:
        write_json(directory / "tokens" / "config.json", {})
        save_file({}, directory / "tokens" / "diffusion_pytorch_model.safetensors")
    for name, module in parts.items():
        copied: Any = copy.deepcopy(module)
        # past the method of diffusers, which warns of layers to keep in float32 even where there are none
        nn.Module.to(copied, "cpu", dtype)
        copied.save_pretrained(directory / name, safe_serialization=True)
    scheduler.save_pretrained(directory / "scheduler")


@contextmanager
def publishing(directory: Path) -> Iterator[Path]:
    """Yield an empty folder; what was put in it moves into `directory` on success, and vanishes on failure.

    An old pointer in `directory` is removed first and the new one is written last, so a pointer always means whole
    weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unfinished.", dir=directory))
    try:
        yield temporary
        (directory / "model.json").unlink(missing_ok=True)
        for part in sorted(temporary.iterdir()):
            destination = directory / part.name
            if destination.is_dir():
                shutil.rmtree(destination)
            part.replace(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_layout(directory: Path, subfolder: str = "unet") -> Layout:
    """Return where the parts of a denoiser lie. Raises ModelError for a network that cannot be studied, saying why."""
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory; expected a diffusers directory with {subfolder}/config.json")
    unet = directory / subfolder if (directory / subfolder / "config.json").is_file() else directory
    if not (unet / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())) or "nothing"
        raise ModelError(
            f"{directory}: neither {subfolder}/config.json nor config.json is there (found {found}); "
            "give a diffusers directory, and `subfolder` where the network lies elsewhere"
        )
    config = _read_given(unet / "config.json")
    tokens = _tokens(directory)
    _check_supported(unet, config, with_tokens=tokens is not None)
    for autoencoder in ("vae", "vqvae", "movq"):
        if (directory / autoencoder).is_dir():
            raise ModelError(
                f"{directory}: works on the codes of an autoencoder ({autoencoder}/), which is not supported, since "
                "heads are compared with edges and parts in pixels; expected a network that denoises pixels, or the"
                " whole pipeline as `source: pipeline`"
            )
    scheduler = next(
        (folder for folder in (directory / "scheduler", unet, directory) if _has_scheduler(folder)),
        None,
    )
    if scheduler is None:
        raise ModelError(
            f"{directory}: no scheduler_config.json in scheduler/ or beside the network; the noise schedule it was "
            "trained with is needed: add the one of its pipeline"
        )
    return Layout(directory, unet, scheduler, tokens, config, _classes(directory, config))


def _tokens(directory: Path) -> Path | None:
    """Return the folder of our conditioning tokens; one whose config.json is an empty object holds none."""
    config = directory / "tokens" / "config.json"
    return config.parent if config.is_file() and _read_given(config) else None


def _classes(directory: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes of a network, their numbers where no file names them; empty where it has none."""
    count = config.get("num_class_embeds") or 0
    if not count or not (directory / CLASSES).is_file():
        return tuple(map(str, range(count)))
    names = _read_given(directory / CLASSES).get("names")
    if not isinstance(names, list) or len(set(map(str, names))) not in (count, count - 1) or not names:
        raise ModelError(
            f'{directory / CLASSES}: expected {{"names": [...]}} with {count} different names, one per class '
            f"embedding of the network, or {count - 1} where its last one stands for no class; found {names!r}"
        )
    return tuple(map(str, names))


def _has_scheduler(folder: Path) -> bool:
    return (folder / "scheduler_config.json").is_file()


def _check_supported(unet: Path, config: dict[str, Any], *, with_tokens: bool) -> None:
    name = config.get("_class_name", "a network without a class name")
    if name not in SUPPORTED:
        raise ModelError(
            f"{unet / 'config.json'}: {name} is not supported; expected {' or '.join(SUPPORTED)}, "
            "which take an image and a timestep and need no other input"
        )
    if name == "UNet2DConditionModel" and not with_tokens:
        width = config.get("cross_attention_dim", 1280)
        # diffusers builds a network without cross-attention from a None per level
        if any(each is not None for each in (width if isinstance(width, list) else [width])):
            raise ModelError(
                f"{unet / 'config.json'}: a UNet2DConditionModel with cross_attention_dim {width} and no tokens/ "
                "beside it is conditioned on text, which is not supported, since the images of a study have no "
                "captions; expected an unconditional network, or the whole pipeline as `source: pipeline`"
            )
        for extra in ("addition_embed_type", "encoder_hid_dim_type"):
            if config.get(extra):
                raise ModelError(
                    f"{unet / 'config.json'}: needs the further input {extra} = {config[extra]!r}, which is not "
                    "supported; expected an unconditional network"
                )
    for classes in ("class_embed_type", "num_class_embeds"):
        if config.get(classes) and not (name == "UNet2DModel" and classes == "num_class_embeds"):
            raise ModelError(
                f"{unet / 'config.json'}: is conditioned on classes in a way that is not supported ({classes} = "
                f"{config[classes]!r}); expected a UNet2DModel with num_class_embeds, or an unconditional network"
            )


def read_scheduler(layout: Layout) -> DDPMScheduler:
    """Return the noise schedule. Raises ModelError for one that is not described by the betas of DDPM."""
    path = layout.scheduler / "scheduler_config.json"
    return noise_schedule(path, _read_given(path))


def _read_given(path: Path) -> dict[str, Any]:
    """Return a JSON object of the user's. Raises ModelError, saying what the file is instead."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path and who may read it") from error
    except ValueError as error:  # of JSON and of UTF-8
        if path.stat().st_size and (what := pretended(path)) and not what.startswith("a JSON"):
            raise ModelError(f"{path}: is no configuration but {what}") from error
        raise ModelError(
            f"{path}: is empty, cut off or otherwise no JSON ({error}); get the whole directory again"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: holds a JSON {type(content).__name__}, not an object of settings; get the whole directory again"
        )
    return content


def check_size(shape: Sequence[int], images: ImagesConfig, where: Path) -> None:
    """Raise ModelError where the denoiser at `where`, of images of `shape` (channel, y, x), does not fit `images`."""
    channels, height, width = shape
    if (channels, height, width) == (images.channels, images.size, images.size):
        return
    found = f"{where}: denoises {channels} x {height} x {width} (channels, height, width), but "
    if channels not in (1, 3):
        raise ModelError(
            f"{found}images have 1 channel or 3; where it denoises the latents of a pipeline, study that one (source: "
            "pipeline)"
        )
    if height != width:
        raise ModelError(
            f"{found}only square images are studied, cut from the middle of each (`crop`); where the network takes "
            f"squares too, say so (sample_shape: [{channels}, {min(height, width)}, {min(height, width)}] of source "
            f"custom, sample_size: {min(height, width)} in the config.json of a diffusers directory) and set "
            f"images.size {min(height, width)}; one that takes nothing else cannot be studied"
        )
    raise ModelError(
        f"{found}`images` gives {images.channels} x {images.size} x {images.size}; set images.channels {channels} and "
        f"images.size {height}"
    )


def sample_shape(layout: Layout) -> tuple[int, int, int]:
    """Return `(channel, y, x)` of the images. Raises ModelError where the network does not say it."""
    size = layout.config.get("sample_size")
    if size is None:
        raise ModelError(
            f"{layout.unet / 'config.json'}: sample_size is missing; write the side of its images in pixels there"
        )
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    channels = int(layout.config.get("in_channels", 3))
    produced = int(layout.config.get("out_channels", channels))
    if produced not in (channels, 2 * channels):
        raise ModelError(
            f"{layout.unet / 'config.json'}: {channels} channels in and {produced} out; expected as many out, "
            "or twice as many where the variance is predicted too"
        )
    return channels, height, width


def weights_sha256(layout: Layout) -> str:
    """Return the SHA-256 of all weight files of the network and its tokens, in the order of their names."""
    return files_sha256(weight_files(layout))


def files_sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of names and contents of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weight_files(layout: Layout) -> list[Path]:
    """Return the weight files of the network and its tokens. Raises ModelError where the network has none."""
    folders = [layout.unet] + ([layout.tokens] if layout.tokens is not None else [])
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in WEIGHT_SUFFIXES]
    if not any(file.parent == layout.unet for file in files):
        raise ModelError(f"{layout.unet}: no weight file (*.safetensors or *.bin); get the whole directory again")
    return files


def write_pointer(output_json: Path, layout: Layout, *, parameters: int, source: str, root: Path | None = None) -> None:
    """Write the pointer `model.json` to the denoiser in `layout`.

    The directory is named relative to the pointer where both lie under `root` or the pointer lies in it, absolutely
    elsewhere.
    """
    names, scheduler = _names(layout), read_scheduler(layout)
    content = {
        "kind": layout.kind,
        "location": relative_location(layout.directory, output_json, root),
        "subfolder": layout.subfolder,
        "sha256": weights_sha256(layout),
        "parameters": parameters,
        "attributes": list(names[0]),
        "domains": list(names[1]),
        "sample_shape": list(sample_shape(layout)),
        "timesteps": int(scheduler.config["num_train_timesteps"]),
        "prediction_type": str(scheduler.config["prediction_type"]),
        "source": source,
        "provenance": json.loads(provenance()),
    }
    write_json(output_json, content)


def read_pointer(model_json: Path) -> dict[str, Any]:
    """Return the content of `model.json`. Raises StoreError where it cannot be read, ModelError where it lacks
    something."""
    pointer = read_json(model_json)
    missing = {"location", "sha256", "kind"} - set(pointer if isinstance(pointer, dict) else ())
    if missing:
        raise ModelError(
            f"{model_json}: lacks {', '.join(sorted(missing))}; delete it and let the workflow make it anew"
        )
    return dict(pointer)


def pointed_directory(pointer: dict[str, Any], model_json: Path) -> Path:
    """Return the directory that `pointer`, the content of `model_json`, names."""
    return Path(os.path.normpath(folder_of(model_json) / pointer["location"]))


def _names(layout: Layout) -> tuple[Sequence[str], Sequence[str]]:
    if layout.tokens is None:
        return layout.classes, ()
    config = read_json(layout.tokens / "config.json")
    return config["attributes"], config["domains"]


def relative_location(directory: Path, output_json: Path, root: Path | None) -> str:
    """Return how the pointer `output_json` names `directory`: relative where both lie in one tree, else whole."""
    directory, folder = directory.resolve(), folder_of(output_json)
    inside = directory.is_relative_to(folder)
    if root is not None:
        tree = root.resolve()
        inside = inside or (directory.is_relative_to(tree) and folder.is_relative_to(tree))
    return Path(os.path.relpath(directory, folder)).as_posix() if inside else directory.as_posix()
