"""Taking a denoiser that exists: bundled with the project, a diffusers directory, a model of the Hugging Face hub, or,
as the null study, an architecture with random weights. All that is written is the pointer `model.json`."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from diffmech.artifacts import file_sha256
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.data.synthetic_faces import NAMES
from diffmech.errors import ConfigError, ModelError
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.load import count_parameters, load_denoiser, load_layout
from diffmech.models.storage import (
    check_size,
    find_layout,
    pointed_directory,
    publishing,
    read_pointer,
    save_denoiser,
    write_pointer,
)
from diffmech.training.images import describe_stores

SHIPPED = "SHA256SUMS"  # beside bundled weights, as sha256sum writes it
HUB_SECONDS = 5.0  # to wait for the hub to answer before the local cache is tried


def import_denoiser(
    config: DenoiserConfig,
    output_json: Path,
    *,
    root: Path,
    images: ImagesConfig | None = None,
    datasets: Mapping[str, Path] | None = None,
) -> None:
    """Write the pointer to the denoiser of `config`, once it has been loaded and has predicted something finite.

    `root` is the project, in which `resources/models` lies. With `images` the size of the images is checked against
    what the network was made for. `datasets` (domain -> store) gives an untrained network its domains and attributes,
    as training would, else they are those of training.domain_shares and of drawn faces; its weights are written beside
    `output_json`. Raises ModelError, in one line, for what is missing or not supported.
    """
    output_json, root = Path(output_json), Path(root)
    if config.source == "train":
        raise ConfigError("models: a denoiser with source train is trained, not imported; call train_denoiser")
    if config.source == "untrained":
        directory = _write_untrained(config, output_json.parent, images, datasets or {})
    elif config.source == "pipeline":
        from diffmech.models.pipelines import import_pipeline

        directory = _diffusers(str(config.location), config, root)
        import_pipeline(config, output_json, directory, root=root, size=(images or ImagesConfig()).size)
        return
    elif config.source == "custom":
        from diffmech.models.implementation import import_custom

        import_custom(config, output_json, root=root, images=images)
        return
    elif config.source == "planted":
        from diffmech.planted.denoiser import import_planted

        import_planted(config.planted, output_json, images=images or ImagesConfig())
        return
    elif config.source == "bundled":
        directory = _bundled(str(config.location), root)
    else:
        directory = _diffusers(str(config.location), config, root)
    layout = find_layout(directory, config.subfolder)
    denoiser = load_layout(layout, device="cpu")
    if images is not None:
        check_size(denoiser.sample_shape, images, directory)
    with torch.no_grad():
        ends = torch.tensor([0, denoiser.timesteps - 1])
        finite = denoiser.predict_noise(torch.zeros(2, *denoiser.sample_shape), ends).isfinite().all()
    if not finite:
        raise ModelError(
            f"{directory}: predicts NaN or infinity for an empty image; its weights are damaged, get them again"
        )
    write_pointer(output_json, layout, parameters=count_parameters(denoiser), source=config.source, root=root)


def bundle_denoiser(model_json: Path, directory: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write the denoiser of `model_json`, with its history and provenance, as a directory to bundle (float16)."""
    beside = pointed_directory(read_pointer(Path(model_json)), Path(model_json))
    denoiser = load_denoiser(Path(model_json), device="cpu")
    if denoiser.tokens is None:
        raise ModelError(
            f"{model_json}: only a denoiser with our conditioning tokens can be bundled; give one of source train"
        )
    with publishing(Path(directory)) as temporary:
        save_denoiser(temporary, denoiser.module, denoiser.tokens, denoiser.scheduler, dtype=dtype)
        for name in ("history.csv", "provenance.json"):
            if (beside / name).is_file():
                shutil.copyfile(beside / name, temporary / name)
        weights = sorted(file.relative_to(temporary).as_posix() for file in temporary.rglob("*.safetensors"))
        lines = [f"{file_sha256(temporary / file)}  {file}\n" for file in weights]
        (temporary / SHIPPED).write_text("".join(lines), encoding="utf-8")


def _bundled(name: str, root: Path) -> Path:
    models = root / "resources" / "models"
    if not (models / name).is_dir():
        known = sorted(p.name for p in models.iterdir() if p.is_dir()) if models.is_dir() else []
        raise ModelError(
            f"models: no bundled denoiser {name!r} in {models}, which has {', '.join(known) or 'none'}; "
            "name one of them, or use source: train"
        )
    _check_as_shipped(models / name)
    return models / name


def _check_as_shipped(directory: Path) -> None:
    """Raise ModelError where a weight file is not the one that the list beside it names."""
    listed = directory / SHIPPED
    for line in listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else ():
        expected, _, file = line.partition("  ")
        if (found := file_sha256(directory / file)) != expected:
            raise ModelError(
                f"{directory / file}: is not the file that was shipped (SHA-256 {found[:12]}..., expected "
                f"{expected[:12]}...); get it again, for instance by git checkout"
            )


def _diffusers(location: str, config: DenoiserConfig, root: Path) -> Path:
    for candidate in (Path(location).expanduser(), root / location):
        if candidate.is_dir():
            return candidate
    if location.startswith((".", "/", "~")) or location.count("/") != 1:
        raise ModelError(
            f"models: {location!r} is no directory, and no hub id of the form owner/name; give a diffusers directory"
        )
    return _download(location, config)


def _patterns(config: DenoiserConfig) -> tuple[list[str], list[str]]:
    """Return which files of a hub model are wanted, and which of them are not: other formats of the same weights."""
    if config.source == "pipeline":
        wanted = ["model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model"]
        return wanted, ["*.fp16.*", "*.bf16.*", "*.non_ema.*", "*safety_checker*"]
    folders = [config.subfolder, "scheduler", "tokens"]  # names of classes lie above them
    in_folders = [f"{folder}/{name}" for folder in folders for name in ("*.json", "*.safetensors", "*.bin")]
    return ["*.json", "diffusion_pytorch_model*", *in_folders], []


def _download(hub_id: str, config: DenoiserConfig) -> Path:
    """Return the local copy of a hub model; without network within seconds, from the cache or with one clear line."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted, unwanted = _patterns(config)
    reason = ""
    try:
        HfApi().model_info(hub_id, revision=config.revision, timeout=HUB_SECONDS)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"models: the hub has no model {hub_id!r} at revision {config.revision or 'main'}, "
            "or it is private; check location and revision, or run: hf auth login"
        ) from error
    except Exception as error:  # no name resolution, no route, a proxy's answer: all mean that the hub is not reached
        reason = type(error).__name__
    try:
        folder = snapshot_download(
            hub_id,
            revision=config.revision,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
            local_files_only=bool(reason),
            etag_timeout=HUB_SECONDS,
        )
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"models: {hub_id!r} is no directory here, the hub cannot be reached ({reason or 'connection lost'}) "
            "and no copy is in the local cache; connect to the network, or download it elsewhere and give its directory"
        ) from error
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise ModelError(
            f"models: {hub_id!r} could not be downloaded ({why}); try again, or give a directory"
        ) from error
    return Path(folder)


def _write_untrained(
    config: DenoiserConfig, folder: Path, images: ImagesConfig | None, datasets: Mapping[str, Path]
) -> Path:
    images = images or ImagesConfig()
    attributes = describe_stores(datasets).attributes if datasets else NAMES
    domains = tuple(datasets) or tuple(config.training.domain_shares)
    shape = (images.channels, images.size, images.size)
    unet, tokens = build_model(config.architecture, shape, attributes, domains, config.training.seed)
    with publishing(folder) as temporary:
        classes = attributes if tokens is None else ()
        save_denoiser(temporary, unet, tokens, build_scheduler(config.architecture), classes=classes)
    return folder
