"""Paths between heads, against a linear network whose every path is worked out by hand."""

import pytest
import torch
from linear_network import FixedAttention, linear_denoiser
from torch import Tensor

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.errors import ConfigError
from diffmech.interventions.attribution import Loss, denoising_loss
from diffmech.interventions.heads import MeanHead, ReferenceOutputs, ResampleHead, ZeroHead
from diffmech.interventions.paths import path_effects, paths_between
from diffmech.interventions.recording import predict, record_heads
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.testing import assert_same_up_to_rounding


def some_passes(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Passes:
    x_t, noise = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return Passes(300, (0, 1, 2), x_t, noise, Condition(torch.zeros(3, dtype=torch.long), torch.full((3, 1), 0.3)))


def reading(direction: Tensor) -> Loss:
    """A linear loss: the prediction along one direction."""
    return lambda predicted: predicted.flatten(1) @ direction


def test_every_path_of_a_linear_network_is_exact() -> None:
    denoiser, passes = linear_denoiser(), some_passes((1, 4, 4), torch.float64)
    direction = torch.randn(16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x = passes.x_t.flatten(1)
    blocks = [block["attn1"] for block in denoiser.module.blocks]  # type: ignore[union-attr, index]
    (p1, w1), (p2, w2) = ((block.attention(), block.write) for block in blocks if isinstance(block, FixedAttention))
    sites = find_sites(denoiser.module)
    for sender in range(2):
        lost = -w1[sender] * x @ p1[sender].T  # what the residual stream loses of the sender
        onward = [w2[head] * lost @ p2[head].T for head in range(2)]
        found = path_effects(denoiser, sites, passes, ZeroHead(HeadId(sites[0].name, sender)), loss=reading(direction))
        assert found.receivers == (HeadId(sites[1].name, 0), HeadId(sites[1].name, 1))
        torch.testing.assert_close(found.direct, lost @ direction, rtol=1e-10, atol=1e-12)
        for head in range(2):
            torch.testing.assert_close(found.mediated[head], onward[head] @ direction, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.total, (lost + sum(onward)) @ direction, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.residual, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_head_of_the_last_site_has_only_its_direct_effect(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    passes = some_passes((1, 8, 8))
    assert passes.noise is not None
    last = HeadId("up0.1.cross", 3)
    found = path_effects(denoiser, sites, passes, ZeroHead(last), loss=denoising_loss(passes.noise))
    assert found.receivers == ()
    assert torch.equal(found.total, found.direct)
    assert torch.equal(found.residual, torch.zeros(3))


def test_the_parts_add_up_to_the_total_and_their_residual(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    passes = some_passes((1, 8, 8))
    assert passes.noise is not None
    _, bank = record_heads(denoiser, sites, passes)
    reference = ReferenceOutputs(300, {site: outputs.mean(0) for site, outputs in bank.items()}, bank)
    sender = MeanHead(HeadId("down1.0.self", 2))
    found = path_effects(denoiser, sites, passes, sender, loss=denoising_loss(passes.noise), reference=reference)
    assert len(found.receivers) == 5 * 8
    torch.testing.assert_close(found.direct + found.mediated.sum(0) + found.residual, found.total)
    assert (found.mediated != 0).any()


def test_a_dead_sender_has_no_effect_along_any_path(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    passes = some_passes((1, 8, 8))
    _, outputs = record_heads(denoiser, sites, passes)
    same = ReferenceOutputs(300, {site: each[0] for site, each in outputs.items()}, {})
    twins = passes.rows(torch.tensor([0, 0, 0]))
    loss = denoising_loss(predict(denoiser, twins) + 1)
    found = path_effects(denoiser, sites, twins, MeanHead(HeadId("down1.0.self", 2)), loss=loss, reference=same)
    for effect in (found.total, found.direct, found.mediated):
        assert (effect == 0).all()


def test_paths_that_cannot_be_are_refused(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    passes, sender = some_passes((1, 8, 8)), ZeroHead(HeadId("down1.0.self", 2))
    loss = denoising_loss(passes.x_t)
    with pytest.raises(ConfigError, match="is both the sender and a receiver"):
        path_effects(denoiser, sites, passes, sender, loss=loss, receivers=[sender.head])
    with pytest.raises(ConfigError, match=r"nearest: up0\.1\.self\.h0"):
        path_effects(denoiser, sites, passes, sender, loss=loss, receivers=[HeadId("up0.1.self", 9)])


def test_many_senders_in_one_batch_have_the_paths_that_each_has_alone(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    passes = some_passes((1, 8, 8))
    assert passes.noise is not None
    loss = denoising_loss(passes.noise)
    heads = [HeadId("down1.0.self", 2), HeadId("down1.0.cross", 0), HeadId("up0.0.self", 1), HeadId("up0.1.cross", 3)]
    senders = [[ZeroHead(head)] * 3 for head in heads]
    for batch_size in (5, 64):
        found = paths_between(
            denoiser, sites, passes, senders, loss=loss, receivers=heads, reference=None, batch_size=batch_size
        )
        for place, (own, effects) in enumerate(zip(heads, found, strict=True)):
            later = [head for head in heads[place + 1 :] if head.site != own.site]
            assert effects.receivers == tuple(later)
            alone = path_effects(denoiser, sites, passes, ZeroHead(own), loss=loss, receivers=later)
            for name in ("total", "direct", "mediated"):
                # Effects are differences of losses of about 1.
                assert_same_up_to_rounding(getattr(effects, name), getattr(alone, name), scale=1, roundings=64)
        assert (found[0].mediated != 0).all()


def test_a_sender_may_take_another_replacement_for_each_sample(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    passes = some_passes((1, 8, 8))
    assert passes.noise is not None
    _, bank = record_heads(denoiser, sites, passes)
    reference, head = ReferenceOutputs(300, {}, bank), HeadId("down1.0.self", 2)
    (found,) = paths_between(
        denoiser,
        sites,
        passes,
        [[ResampleHead(head, source) for source in range(3)]],
        loss=denoising_loss(passes.noise),
        reference=reference,
    )
    # each sample is given its own output back
    for effect in (found.total, found.direct, found.mediated):
        assert (effect == 0).all()
