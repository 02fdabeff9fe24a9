"""One pass with different interventions per row equals as many passes with one, and leaves no trace."""

import pytest
import torch
from random_denoisers import tiny_denoiser
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, ReferenceOutputs, UniformAttention, ZeroHead, replace_heads
from diffmech.interventions.prefix import SharedPrefix
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.testing import assert_same_up_to_rounding

METHODS = ("zero", "mean", "resample", "uniform")


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def condition(n: int) -> Condition:
    return Condition(torch.arange(n) % 2, torch.full((n, 1), 0.3))


def every_head(sites: list[AttentionSite]) -> list[HeadId]:
    return [HeadId(site.name, head) for site in sites for head in range(site.heads)]


def reference(denoiser: Denoiser, sites: list[AttentionSite], timestep: int = 300) -> ReferenceOutputs:
    """Return the outputs of five other images."""
    bank: dict[str, Tensor] = {}

    def keep(call: AttentionCall) -> None:
        bank[call.site.name] = call.output.clone()

    with torch.no_grad(), AttentionTap(denoiser.module, observers=[keep], sites=sites):
        denoiser.predict_noise(images(5, seed=9), timestep, condition(5))
    return ReferenceOutputs(timestep, {name: outputs.mean(0) for name, outputs in bank.items()}, bank)


def ablated(
    denoiser: Denoiser,
    sites: list[AttentionSite],
    x_t: Tensor,
    rows: list[tuple[HeadIntervention, ...]],
    known: Condition | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the predicted noise and the distance off."""
    plan = AblationPlan(rows, sites, reference=reference(denoiser, sites))
    with torch.no_grad(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
        predicted = denoiser.predict_noise(x_t, 300, known or condition(len(x_t)))
    return predicted, plan.distance_off()


def test_ablating_nothing_changes_no_bit(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    predicted, distance = ablated(denoiser, sites, images(3), [(), (), ()])
    assert torch.equal(predicted, denoiser.predict_noise(images(3), 300, condition(3)))
    assert torch.equal(distance, torch.zeros(3))


def test_a_row_without_interventions_stays_clean_beside_ablated_rows(
    denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    heads = every_head(sites)
    predicted, distance = ablated(denoiser, sites, images(3), [replace_heads("zero", heads), (), ()])
    clean = denoiser.predict_noise(images(3), 300, condition(3))
    assert torch.equal(predicted[1:], clean[1:])
    assert not torch.allclose(predicted[0], clean[0])
    assert distance.tolist() == pytest.approx([1, 0, 0])


def test_a_batch_of_ablations_equals_them_one_at_a_time(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    heads = every_head(sites)
    rows = [replace_heads(method, heads[k : k + 7], source=k % 5) for k in (0, 5, 20) for method in METHODS]
    rows.append((ZeroHead(heads[0]), UniformAttention(heads[1]), *replace_heads("mean", heads[30:32])))
    x_t, known = images(len(rows)), condition(len(rows))
    together, distance = ablated(denoiser, sites, x_t, rows)
    for row, interventions in enumerate(rows):
        alone, off = ablated(denoiser, sites, x_t[row : row + 1], [interventions], known.rows(slice(row, row + 1)))
        assert_same_up_to_rounding(together[row : row + 1], alone)
        assert_same_up_to_rounding(distance[row : row + 1], off)


def test_zero_ablation_equals_an_output_projection_that_ignores_the_head(sites: list[AttentionSite]) -> None:
    edited = tiny_denoiser(5)
    site, width = sites[0], 2
    module = edited.module.get_submodule(site.module_path)
    by_tap, _ = ablated(edited, sites, images(2), [(ZeroHead(HeadId(site.name, 3)),)] * 2)
    module.to_out[0].weight[:, 3 * width : 4 * width] = 0
    by_weights = edited.predict_noise(images(2), 300, condition(2))
    assert_same_up_to_rounding(by_tap, by_weights)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_nothing_reads_has_no_effect_at_all(sites: list[AttentionSite], method: str) -> None:
    deaf = tiny_denoiser(5)
    for site in sites[:2]:
        deaf.module.get_submodule(site.module_path).to_out[0].weight[:, 2:4] = 0
    heads = [HeadId(site.name, 1) for site in sites[:2]]
    predicted, distance = ablated(deaf, sites, images(4), [replace_heads(method, heads, source=2)] * 4)
    assert torch.equal(predicted, deaf.predict_noise(images(4), 300, condition(4)))
    assert (distance > 0).all()


def test_mean_ablation_of_a_constant_head_changes_nothing(sites: list[AttentionSite]) -> None:
    constant = tiny_denoiser(5)
    # Values without weights are the same for every image, position and timestep: here all zero.
    constant.module.get_submodule(sites[0].module_path).to_v.weight[4:6] = 0
    head = HeadId(sites[0].name, 2)
    predicted, distance = ablated(constant, sites, images(3), [replace_heads("mean", [head])] * 3)
    torch.testing.assert_close(predicted, constant.predict_noise(images(3), 300, condition(3)), atol=0, rtol=0)
    assert torch.equal(distance, torch.zeros(3))


def test_nothing_is_left_of_the_tap_even_after_an_error(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    clean = denoiser.predict_noise(images(2), 300, condition(2))
    rows = [replace_heads("zero", every_head(sites))] * 2
    with pytest.raises(ValueError, match=r"the plan has 2 rows, the batch at .* has 3"):
        ablated(denoiser, sites, images(3), rows)
    assert torch.equal(denoiser.predict_noise(images(2), 300, condition(2)), clean)
    for module in denoiser.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_heads_that_do_not_exist_or_stand_twice_are_refused(sites: list[AttentionSite]) -> None:
    with pytest.raises(ConfigError, match=r"no head matches 'down1\.0\.self\.h08'.*nearest: down1\.0\.self\.h0"):
        AblationPlan([[ZeroHead(HeadId("down1.0.self", 8))]], sites)
    head = HeadId("down1.0.self", 1)
    with pytest.raises(ConfigError, match="row 0 replaces a head twice"):
        AblationPlan([[ZeroHead(head), UniformAttention(head)]], sites)


@pytest.mark.parametrize("position", range(6))
def test_a_pass_that_starts_at_its_first_site_equals_the_whole_pass(
    denoiser: Denoiser, sites: list[AttentionSite], position: int
) -> None:
    x_t, known = images(4), condition(4)
    prefix = SharedPrefix(denoiser.module, sites, lambda n: denoiser.predict_noise(images(n), 300, condition(n)))
    with torch.no_grad(), prefix.recording():
        denoiser.predict_noise(x_t, 300, known)
    chosen = torch.tensor([2, 0, 2, 3])
    site = next(site for site in sites if site.name == prefix.order[position])
    rows = [replace_heads("zero", [HeadId(site.name, head)]) for head in range(4)]
    gathered = Condition(known.domain[chosen], known.values[chosen])
    whole, _ = ablated(denoiser, sites, x_t[chosen], rows, gathered)
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, i, o, path=path: ran.append(path))
        for path, module in denoiser.module.named_modules()
        if path.endswith("resnets.0.conv1")
    ]
    with prefix.replaying(site.name, chosen):
        replayed, _ = ablated_again(denoiser, sites, x_t[chosen], rows, gathered)
    for handle in handles:
        handle.remove()
    assert_same_up_to_rounding(replayed, whole)
    # The first residual layer feeds every site, and so is never run again.
    assert "down_blocks.0.resnets.0.conv1" not in ran
    assert all("forward" not in vars(module) for module in denoiser.module.modules())


@pytest.mark.parametrize("position", range(6))
def test_the_attention_of_the_first_site_is_not_computed_again(
    denoiser: Denoiser, sites: list[AttentionSite], position: int
) -> None:
    prefix = SharedPrefix(denoiser.module, sites, lambda n: denoiser.predict_noise(images(n), 300, condition(n)))
    with torch.no_grad(), prefix.recording():
        denoiser.predict_noise(images(4), 300, condition(4))
    site = next(site for site in sites if site.name == prefix.order[position])
    projections = [denoiser.module.get_submodule(f"{site.module_path}.{name}") for name in ("to_q", "to_k", "to_v")]
    seen: list[AttentionCall] = []
    rows = torch.tensor([2, 0, 2, 3])
    with AttentionCounter() as counter, prefix.replaying(site.name, rows), torch.no_grad():
        with AttentionTap(denoiser.module, observers=[seen.append], sites=sites):
            denoiser.predict_noise(images(4)[rows], 300, condition(4).rows(rows))
        assert all("forward" in vars(projection) for projection in projections)
    later = prefix.order[position + 1 :]
    assert counter.calls == len(later)
    # observers see the reused attention as any other
    assert [call.site.name for call in seen] == [site.name, *later]


class AttentionCounter(TorchFunctionMode):
    """Counts the attention that is computed."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def test_a_site_that_attends_twice_is_run_again() -> None:
    """Its second attention may depend on its first, which is what is replaced."""

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 2
            self.to_q = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                q = self.to_q(x).unflatten(-1, (2, 2)).transpose(1, 2)
                x = torch.nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
            return x

    model = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 4), "attn1": Twice()})
    sites = find_sites(model)

    def run(x: Tensor) -> Tensor:
        found: Tensor = model["attn1"](model["first"](x))
        return found

    prefix = SharedPrefix(model, sites, lambda n: run(torch.ones(n, 3, 4)))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), prefix.recording():
        clean = run(x)
    with torch.no_grad(), AttentionCounter() as counter, prefix.replaying(sites[0].name, torch.arange(2)):
        assert torch.equal(run(torch.zeros_like(x)), clean)
    assert counter.calls == 2


def test_weights_lie_channels_last_for_a_while_only(denoiser: Denoiser) -> None:
    convolution = denoiser.module.get_submodule("down_blocks.0.resnets.0.conv1")
    before, pointers = denoiser.predict_noise(images(3), 300, condition(3)), convolution.weight.data_ptr()
    with channels_last(denoiser.module):
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        within = denoiser.predict_noise(images(3), 300, condition(3))
    assert_same_up_to_rounding(within, before)
    assert convolution.weight.data_ptr() == pointers
    assert torch.equal(denoiser.predict_noise(images(3), 300, condition(3)), before)


def ablated_again(
    denoiser: Denoiser,
    sites: list[AttentionSite],
    x_t: Tensor,
    rows: list[tuple[HeadIntervention, ...]],
    known: Condition,
) -> tuple[Tensor, Tensor]:
    """As `ablated`, without a reference, whose own pass must not be replayed."""
    plan = AblationPlan(rows, sites)
    with torch.no_grad(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
        return denoiser.predict_noise(x_t, 300, known), plan.distance_off()


def test_the_order_of_sites_is_the_order_in_which_they_run(denoiser: Denoiser, sites: list[AttentionSite]) -> None:
    prefix = SharedPrefix(denoiser.module, sites, lambda n: denoiser.predict_noise(images(n), 300, condition(n)))
    expected = [f"{layer}.{kind}" for layer in ("down1.0", "up0.0", "up0.1") for kind in ("self", "cross")]
    assert prefix.order == expected
