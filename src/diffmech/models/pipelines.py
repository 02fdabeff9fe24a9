"""Loading a diffusers pipeline that generates images from prompts, and its denoiser alone.

The denoiser is the pipeline's `unet` or `transformer`. To observe recorded passes it is all that is loaded: neither
text encoders nor the autoencoder are read.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from diffmech.artifacts import file_sha256, provenance, read_json, write_json
from diffmech.config.models import DenoiserConfig
from diffmech.errors import ConfigError, ModelError
from diffmech.models.load import as_dtype, check_unchanged
from diffmech.models.prompted import DTYPES, PromptedDenoiser, noised_argument
from diffmech.models.schedules import with_betas
from diffmech.models.storage import WEIGHT_SUFFIXES, files_sha256, pointed_directory, read_pointer, relative_location
from diffmech.training.device import resolve_device
from diffmech.training.seeds import seeded

KIND = "pipeline"
COMPONENTS = ("unet", "transformer")
# Classes of diffusers whose `image` only looks optional.
NEED_IMAGE = re.compile("Img2Img|ImageToImage|Inpaint|ControlNet|Adapter|Pix2Pix|Upscale|Depth2Img|Edit")
# What is studied must not be replaced by a black picture.
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
# Other forms of the same weights, which lie beside those that are read.
UNREAD = re.compile(r"[.-](fp16|bf16|non_ema)[.-]")
INDEX = "model_index.json"
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}


def import_pipeline(config: DenoiserConfig, output_json: Path, directory: Path, *, root: Path, size: int) -> None:
    """Write the pointer to the pipeline in `directory`, whose images are studied at `size` pixels.

    Raises ModelError where it is no pipeline, or one that does not generate images from prompts or classes.
    """
    index, component = read_index(directory)
    pipeline_class = getattr(diffusers, str(index["_class_name"]), None)
    if pipeline_class is None:
        raise ModelError(
            f"{directory}: its pipeline {index['_class_name']} is not in diffusers {diffusers.__version__}; "
            "install the version it was made for"
        )
    asked = inspect.signature(pipeline_class.__call__).parameters
    if not {"prompt", "class_labels"} & set(asked):
        raise ModelError(
            f"{directory}: {index['_class_name']} takes neither prompts nor class labels; "
            "expected a pipeline that generates images from texts or classes, such as StableDiffusionPipeline"
        )
    needs_image = "image" in asked and (
        asked["image"].default is inspect.Parameter.empty or NEED_IMAGE.search(pipeline_class.__name__)
    )
    if needs_image:
        raise ModelError(
            f"{directory}: {index['_class_name']} needs an image to start from; expected one that goes from text to "
            "image, such as StableDiffusionPipeline"
        )
    denoiser = load_component(directory, component, dtype=config.dtype, device="cpu")
    scheduler = read_json(directory / "scheduler" / "scheduler_config.json")
    write_json(
        output_json,
        {
            "kind": KIND,
            "pipeline": index["_class_name"],
            "component": component,
            "location": relative_location(directory, output_json, root),
            "dtype": config.dtype,
            "sha256": component_sha256(directory / component),
            "parts": {name: part_sha256(directory / name) for name in _parts(directory, index) if name != component},
            "index": file_sha256(directory / INDEX),
            "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
            "attributes": [],
            "domains": [],
            "sample_shape": [3, size, size],
            "timesteps": int(scheduler.get("num_train_timesteps", 1000)),
            "prediction_type": prediction_type(scheduler),
            "scheduler": scheduler,
            "source": config.source,
            "provenance": json.loads(provenance()),
        },
    )


def load_prompted(
    pointer: dict[str, Any], model_json: Path, *, device: str = "auto", untrained_seed: int | None = None
) -> PromptedDenoiser:
    """Return the denoiser of the pipeline that `pointer` names, as `load_denoiser` does."""
    directory, component = pointed_directory(pointer, model_json), str(pointer["component"])
    if untrained_seed is None:
        check_unchanged(pointer, model_json, found=component_sha256(directory / component), where=directory)
    module = load_component(directory, component, dtype=pointer["dtype"], device=device, untrained_seed=untrained_seed)
    channels, height, width = pointer["sample_shape"]
    return PromptedDenoiser(
        module=module,
        scheduler=pointer["scheduler"],
        sample_shape=(channels, height, width),
        sample_argument=noised_argument(module),
    )


def load_component(
    directory: Path, component: str, *, dtype: str, device: str, untrained_seed: int | None = None
) -> nn.Module:
    """Return the denoiser of a pipeline directory, frozen, in evaluation mode. Raises ModelError."""
    folder, target = directory / component, resolve_device(device)
    name = str(read_json(folder / "config.json").get("_class_name"))
    network_class = getattr(diffusers, name, None)
    if network_class is None:
        raise ModelError(f"{folder}: {name} is not in diffusers {diffusers.__version__}; install the version it needs")
    if untrained_seed is not None:
        with seeded(untrained_seed):
            fresh = network_class.from_config(network_class.load_config(str(folder), local_files_only=True))
        # past the method of diffusers, which warns of layers to keep in float32 even where there are none
        module = nn.Module.to(fresh, target, DTYPES[dtype])
    else:
        try:
            module = network_class.from_pretrained(
                str(folder), local_files_only=True, low_cpu_mem_usage=False, **as_dtype(DTYPES[dtype])
            )
        except Exception as error:  # diffusers, safetensors and pickle each raise their own
            raise ModelError(
                f"{folder}: the weights cannot be read ({_line(error)}); get the directory again"
            ) from error
        module = module.to(target)  # not above: too little memory is no damage of the file
    return module.eval().requires_grad_(False)


def load_pipeline(
    model_json: Path, *, scheduler: str | None, device: str, denoiser: PromptedDenoiser | None = None
) -> Any:
    """Return the whole pipeline behind `model_json`, with the sampler `scheduler` in place of its own if given.

    With `denoiser` it samples by that very network, whose weights are not read again: what is done to these shows in
    its images. Raises ModelError where a part is missing or changed since the import, and ConfigError where the sampler
    does not fit the denoiser.
    """
    pointer = read_pointer(Path(model_json))
    directory = pointed_directory(pointer, Path(model_json))
    if denoiser is None:
        found = component_sha256(directory / pointer["component"])
        check_unchanged(pointer, Path(model_json), found=found, where=directory / pointer["component"])
    if "index" in pointer and (directory / INDEX).is_file():
        unchanged = {"sha256": pointer["index"]}
        check_unchanged(unchanged, Path(model_json), found=file_sha256(directory / INDEX), where=directory, what=INDEX)
    for name, expected in pointer.get("parts", {}).items():
        if not (directory / name).is_dir():
            continue  # said by diffusers
        found = part_sha256(directory / name)
        check_unchanged({"sha256": expected}, Path(model_json), found=found, where=directory / name, what="a file")
    own = {} if denoiser is None else {pointer["component"]: denoiser.module}
    try:
        pipeline = getattr(diffusers, pointer["pipeline"]).from_pretrained(
            str(directory),
            local_files_only=True,
            low_cpu_mem_usage=False,
            **as_dtype(DTYPES[pointer["dtype"]]),
            **_unchecked(directory),
            **own,
        )
    except Exception as error:
        raise ModelError(
            f"{directory}: the pipeline {pointer['pipeline']} cannot be loaded ({_line(error)}); text encoders need "
            "`pip install 'diffmech[pipelines]'`, and all parts of model_index.json must be there"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = fitting_scheduler(pipeline.scheduler, scheduler, str(directory))
    return pipeline.to(resolve_device(device))


def fitting_scheduler(own: Any, name: str, where: str) -> Any:
    """Return the sampler `name` with the settings of the pipeline's `own`. Raises ConfigError where they do not fit."""
    flow = is_flow(described(own))
    if flow != (name == "flow_euler"):
        kind = "flow matching" if flow else "a diffusion with betas"
        fit = ["flow_euler"] if flow else [known for known in SAMPLERS if known != "flow_euler"]
        raise ConfigError(
            f"sampling.scheduler: {name} does not fit {where}, whose denoiser was trained by {kind} "
            f"({type(own).__name__}); give {' or '.join(fit)}, or null for its own"
        )
    sampler = getattr(diffusers, SAMPLERS[name])
    try:
        return sampler.from_config(own.config)
    except NotImplementedError:  # a beta schedule that only its own scheduler knows by name
        return sampler.from_config(with_betas(own.config, own))


def described(scheduler: Any) -> dict[str, Any]:
    """Return the config of a scheduler with its class, as its file has it."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler config is one of flow matching (Lipman et al. 2023), which has no betas."""
    return "FlowMatch" in str(scheduler.get("_class_name", "")) or bool(scheduler.get("use_flow_sigmas"))


def prediction_type(scheduler: Any) -> str:
    """Return what the network of a scheduler config predicts: epsilon, v_prediction, sample or velocity."""
    return "velocity" if is_flow(scheduler) else str(scheduler.get("prediction_type", "epsilon"))


def read_index(directory: Path) -> tuple[dict[str, Any], str]:
    """Return model_index.json and the name of the denoiser's folder. Raises ModelError where there is none."""
    if not (directory / INDEX).is_file():
        raise ModelError(
            f"{directory}: no model_index.json; expected the directory of a whole diffusers pipeline "
            "(a denoiser alone is `source: diffusers`)"
        )
    index = read_json(directory / INDEX)
    component = next((name for name in COMPONENTS if (directory / name / "config.json").is_file()), None)
    if component is None:
        raise ModelError(f"{directory}: has neither {' nor '.join(f'{name}/config.json' for name in COMPONENTS)}")
    return index, component


def component_sha256(folder: Path) -> str:
    """Return the SHA-256 of the denoiser's weight files, in the order of their names."""
    if not any(file.suffix in WEIGHT_SUFFIXES for file in folder.glob("*")):
        raise ModelError(f"{folder}: no weights ({' or '.join(WEIGHT_SUFFIXES)}); get the whole directory again")
    return _sha256(folder, WEIGHT_SUFFIXES)


def part_sha256(folder: Path) -> str:
    """Return the SHA-256 of the files that a text encoder, a tokenizer or an autoencoder is read from, by name."""
    return _sha256(folder, (*WEIGHT_SUFFIXES, ".json", ".txt", ".model"))


def _sha256(folder: Path, suffixes: tuple[str, ...]) -> str:
    every = sorted(file for file in folder.glob("*") if file.suffix in suffixes)
    if gone := [file for file in every if file.is_symlink() and not file.exists()]:
        raise ModelError(f"{gone[0]}: is a link to a file that is gone; get the whole directory again")
    read = [file for file in every if not UNREAD.search(file.name)] or every
    return files_sha256(file for file in read if file.is_file())


def _parts(directory: Path, index: dict[str, Any]) -> list[str]:
    """Return the folders that `load_pipeline` reads, by name."""
    return sorted(name for name in index if name not in LEFT_OUT and (directory / name).is_dir())


def _unchecked(directory: Path) -> dict[str, None]:
    """Return the optional parts that are left out, each as None."""
    index = read_json(directory / INDEX)
    return {name: None for name in LEFT_OUT if name in index}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
