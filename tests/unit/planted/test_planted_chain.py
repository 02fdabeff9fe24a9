"""A head that only another one reads: path patching finds this edge, and no other."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.config.models import PlantedCircuit, PlantedRole
from diffmech.interventions.attribution import denoising_loss
from diffmech.interventions.heads import ZeroHead
from diffmech.interventions.paths import PathEffects, path_effects
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.planted.images import draw_images
from diffmech.planted.network import PlantedDenoiser
from diffmech.planted.roles import build_network, shuffled_layers
from diffmech.testing import assert_same_up_to_rounding

SIZE, TIMESTEP, IMAGES = 20, 60, 6
CHAINED = PlantedCircuit(
    layers=[
        ["edge", "texture", "semantic", "writer", "local", "dead_sink"],
        ["mirror", "global", "uniform", "positional", "pair_first", "pair_second", "dead_local", "reader"],
    ],
    images=64,
)


@pytest.fixture(scope="module")
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(1000, beta_schedule="linear", prediction_type="sample")


@pytest.fixture(scope="module")
def network(scheduler: DDPMScheduler) -> PlantedDenoiser:
    return build_network(CHAINED, SIZE, scheduler.alphas_cumprod)


@pytest.fixture(scope="module")
def denoiser(network: PlantedDenoiser, scheduler: DDPMScheduler) -> Denoiser:
    def forward(x_t: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        predicted: torch.Tensor = network(x_t, timestep)
        return predicted

    return Denoiser(network, scheduler, (1, SIZE, SIZE), forward=forward)


@pytest.fixture(scope="module")
def passes(scheduler: DDPMScheduler) -> Passes:
    drawn, _, _ = draw_images(range(500, 500 + IMAGES), 0, SIZE, symmetric=True)
    images = torch.tensor(drawn, dtype=torch.float32)[:, None]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    share = float(scheduler.alphas_cumprod[TIMESTEP])
    x_t = share**0.5 * images + (1 - share) ** 0.5 * noise
    return Passes(TIMESTEP, tuple(range(IMAGES)), x_t, noise, Condition.null(IMAGES, 0))


def role_of(sites: list[AttentionSite]) -> dict[HeadId, PlantedRole]:
    layers = shuffled_layers(CHAINED)
    return {
        HeadId(site.name, head): role
        for site, layer in zip(sites, layers, strict=True)
        for head, role in enumerate(layer)
    }


def test_of_all_paths_only_that_from_writer_to_reader_carries_anything(denoiser: Denoiser, passes: Passes) -> None:
    sites = find_sites(denoiser.module)
    roles = role_of(sites)
    assert passes.noise is not None
    found: dict[PlantedRole, PathEffects] = {}
    for head, role in roles.items():
        if head.site == sites[0].name:
            found[role] = path_effects(denoiser, sites, passes, ZeroHead(head), loss=denoising_loss(passes.noise))
    edges = {
        (sender, roles[receiver])
        for sender, effects in found.items()
        for receiver, mediated in zip(effects.receivers, effects.mediated, strict=True)
        if mediated.abs().max() > 1e-6 * effects.total.abs().max()
    }
    assert edges == {("writer", "reader")}
    writer = found["writer"]
    assert writer.total.abs().max() > 0.01
    # Effects are differences of losses of about 1.
    assert_same_up_to_rounding(writer.mediated.sum(0), writer.total, scale=1, roundings=32)
    assert writer.direct.abs().max() < 1e-6
    # what others tell reaches the output by itself
    assert_same_up_to_rounding(found["local"].direct, found["local"].total, scale=1, roundings=32)


def test_without_either_end_the_chain_tells_nothing(denoiser: Denoiser, passes: Passes) -> None:
    sites = find_sites(denoiser.module)
    heads = {role: head for head, role in role_of(sites).items()}
    assert passes.noise is not None
    loss = denoising_loss(passes.noise)
    writer, reader = (
        path_effects(denoiser, sites, passes, ZeroHead(heads[role]), loss=loss, receivers=[]).total
        for role in ("writer", "reader")
    )
    assert_same_up_to_rounding(writer, reader, scale=1, roundings=32)  # differences of losses of about 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([["reader"], ["writer"]], "writer before reader"),
        ([["writer"], ["local"]], "writer before reader"),
        ([["writer", "reader"]], "writer before reader"),
        ([["writer", "sink"], ["reader"]], "sink and writer"),
    ],
)
def test_a_chain_that_is_none_is_refused(layers: list[list[PlantedRole]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlantedCircuit(layers=layers)
