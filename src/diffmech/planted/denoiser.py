"""The planted denoiser as one that can be studied: built and written once, then loaded from its pointer. Ours."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import load_file, save_file

from diffmech.artifacts import file_sha256, provenance, write_json
from diffmech.attention.sites import HeadId, find_sites
from diffmech.config.images import ImagesConfig
from diffmech.config.models import PlantedCircuit
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import check_unchanged, count_parameters
from diffmech.models.storage import folder_of, publishing
from diffmech.planted.images import check_form
from diffmech.planted.network import PlantedDenoiser
from diffmech.planted.roles import LEVELS, build_network, shuffled_layers
from diffmech.training.device import resolve_device
from diffmech.training.seeds import seeded

WEIGHTS = "planted.safetensors"
TIMESTEPS = 1000


def import_planted(circuit: PlantedCircuit, output_json: Path, *, images: ImagesConfig) -> None:
    """Build the denoiser of `circuit` for `images`, and write it and its pointer, which names the role of every head.

    Raises ModelError where `images` are not as planted images are.
    """
    check_form(images, ModelError)
    scheduler = DDPMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear", prediction_type="sample")
    network = build_network(circuit, images.size, scheduler.alphas_cumprod)
    layers = shuffled_layers(circuit)
    with publishing(output_json.parent) as temporary:
        scheduler.save_pretrained(temporary / "scheduler")
        save_file(network.state_dict(), temporary / WEIGHTS)
    sites = find_sites(network)
    roles = {
        str(HeadId(site.name, head)): role
        for site, layer in zip(sites, layers, strict=True)
        for head, role in enumerate(layer)
    }
    write_json(
        output_json,
        {
            "kind": "planted",
            "location": ".",
            "sha256": file_sha256(output_json.parent / WEIGHTS),
            "heads": [len(layer) for layer in layers],
            "roles": roles,
            "parameters": count_parameters(_denoiser(network, scheduler)),
            "attributes": [],
            "domains": [],
            "sample_shape": [1, images.size, images.size],
            "timesteps": TIMESTEPS,
            "prediction_type": "sample",
            "source": "planted",
            "provenance": json.loads(provenance(planted=circuit.canonical())),
        },
    )


def load_planted(
    pointer: dict[str, Any], model_json: Path, *, device: str = "auto", untrained_seed: int | None = None
) -> Denoiser:
    """Return the planted denoiser of `pointer`, as `load_denoiser` does; untrained, nothing in it is built by hand."""
    target, folder = resolve_device(device), folder_of(model_json)
    file = folder / WEIGHTS
    with seeded(0 if untrained_seed is None else untrained_seed):
        relay = "writer" in pointer["roles"].values()
        network = PlantedDenoiser(int(pointer["sample_shape"][-1]), pointer["heads"], list(LEVELS), relay=relay)
    if untrained_seed is None:
        if not file.is_file():
            raise ModelError(f"{file}: is gone; delete {model_json} and let the workflow make it anew")
        check_unchanged(pointer, model_json, found=file_sha256(file), where=file)
        network.load_state_dict(load_file(file))
    scheduler = DDPMScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    return _denoiser(network.to(target).eval().requires_grad_(False), scheduler)


def _denoiser(network: PlantedDenoiser, scheduler: DDPMScheduler) -> Denoiser:
    def forward(x_t: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        predicted: torch.Tensor = network(x_t, timestep)
        return predicted

    return Denoiser(network, scheduler, (1, network.size, network.size), forward=forward)
