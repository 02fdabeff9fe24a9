"""Attribution patching against finite differences, exact ablation, completeness, and a network that is linear."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_network import linear_denoiser
from random_denoisers import REFERENCES, RUNTIME, TIMESTEPS, tiny_denoiser
from torch import Tensor

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.config.analysis import AblationConfig
from diffmech.errors import ConfigError
from diffmech.interventions.ablation import ablate_targets
from diffmech.interventions.agreement import (
    COEFFICIENTS,
    agreement,
    attribution_patching,
    changes_of_loss,
    drawn_heads,
    exact_effects,
)
from diffmech.interventions.attribution import attribute_heads, denoising_loss, progress_towards
from diffmech.interventions.counterfactuals import other_sample
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import (
    HeadIntervention,
    PatchHead,
    ReferenceOutputs,
    ScaleHead,
    ZeroHead,
    replace_heads,
)
from diffmech.interventions.recording import predict, record_heads
from diffmech.interventions.reference import ReferenceStore, collect_reference, store_of
from diffmech.interventions.replay import LatentFiles, Passes, open_latent_files
from diffmech.interventions.targets import single_heads
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.prompted import PromptCondition, PromptedDenoiser
from diffmech.testing import assert_same_up_to_rounding, tiny_model

METHODS = ("zero", "mean", "resample", "uniform", "patch")
SOURCES = [2, 0, 1]


def double_denoiser(*, smooth: bool = False) -> Denoiser:
    """A denoiser in float64; `smooth` has attention that is nearly uniform, so that few steps integrate its loss."""
    denoiser = tiny_denoiser(5)
    for name, weight in denoiser.module.named_parameters():
        if smooth and ("to_q" in name or "to_k" in name):
            weight.div_(6)
    denoiser.module.double()
    assert denoiser.tokens is not None
    denoiser.tokens.double()
    return denoiser


def some_passes(n: int = 3, value: float = 0.3, shape: tuple[int, ...] = (1, 8, 8)) -> Passes:
    x_t, noise = torch.randn(2, n, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = Condition(torch.arange(n) % 2, torch.full((n, 1), value, dtype=torch.float64))
    return Passes(300, tuple(range(n)), x_t, noise, known)


def references(denoiser: Denoiser, sites: list[AttentionSite], passes: Passes) -> ReferenceOutputs:
    """The outputs of other images, as bank and as the recorded pass that patches read."""
    _, bank = record_heads(denoiser, sites, replace(passes, x_t=passes.x_t.flip(2) * 1.3))
    return ReferenceOutputs(300, {site: outputs.mean(0) for site, outputs in bank.items()}, bank, {"source": bank})


def loss_with(
    denoiser: Denoiser,
    sites: list[AttentionSite],
    passes: Passes,
    interventions: list[list[HeadIntervention]],
    reference: ReferenceOutputs | None = None,
) -> Tensor:
    plan = AblationPlan(interventions, sites, reference=reference)
    with torch.no_grad(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
        predicted = predict(denoiser, passes)
    assert passes.noise is not None
    return (predicted - passes.noise).square().mean((1, 2, 3))


@pytest.mark.parametrize("method", ["zero", "resample", "patch"])
def test_estimates_agree_with_finite_differences(sites: list[AttentionSite], method: str) -> None:
    denoiser, passes = double_denoiser(), some_passes()
    reference = references(denoiser, sites, passes)
    found = attribute_heads(denoiser, sites, passes, method=method, reference=reference, sources=SOURCES)
    step = 2.0**-10  # a dose that float32 holds exactly
    for site in sites:
        for head in (1, 6):
            ends = []
            for dose in (step, -step):
                head_id = HeadId(site.name, head)
                rows: list[list[HeadIntervention]] = [
                    [ScaleHead(head_id, dose) if method == "zero" else PatchHead(head_id, "source", dose, row=source)]
                    for source in SOURCES
                ]
                ends.append(loss_with(denoiser, sites, passes, rows, reference))
            slope = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(found[site.name][:, head], slope, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_integrated_gradients_of_a_site_add_up_to_ablating_all_of_its_heads(
    sites: list[AttentionSite], method: str
) -> None:
    denoiser, passes = double_denoiser(smooth=True), some_passes()
    reference = references(denoiser, sites, passes)
    found = attribute_heads(denoiser, sites, passes, method=method, reference=reference, sources=SOURCES, steps=8)
    clean = loss_with(denoiser, sites, passes, [[]] * 3)
    for site in sites:
        rows = [[intervention(method, site, h, source) for h in range(site.heads)] for source in SOURCES]
        change = loss_with(denoiser, sites, passes, rows, reference) - clean
        torch.testing.assert_close(found[site.name].sum(1), change, rtol=3e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_integrated_gradients_along_the_joint_path_add_up_to_ablating_everything(
    sites: list[AttentionSite], method: str
) -> None:
    denoiser, passes = double_denoiser(smooth=True), some_passes()
    reference = references(denoiser, sites, passes)
    found = attribute_heads(
        denoiser, sites, passes, method=method, reference=reference, sources=SOURCES, steps=8, path="joint"
    )
    rows = [[intervention(method, site, h, source) for site in sites for h in range(8)] for source in SOURCES]
    change = loss_with(denoiser, sites, passes, rows, reference) - loss_with(denoiser, sites, passes, [[]] * 3)
    torch.testing.assert_close(torch.cat(list(found.values()), 1).sum(1), change, rtol=3e-3, atol=1e-6)


def intervention(method: str, site: AttentionSite, head: int, source: int) -> HeadIntervention:
    if method == "patch":
        return PatchHead(HeadId(site.name, head), "source", row=source)
    return replace_heads(method, [HeadId(site.name, head)], source=source)[0]


def test_in_a_linear_network_a_linear_loss_is_attributed_exactly() -> None:
    denoiser, passes = linear_denoiser(), some_passes(shape=(1, 4, 4))
    sites = find_sites(denoiser.module)
    clean, other = predict(denoiser, passes), predict(denoiser, other_sample(passes))
    loss = progress_towards(clean, other)
    found = attribute_heads(denoiser, sites, passes, method="zero", loss=loss)
    for site in sites:
        for head in range(2):
            plan = AblationPlan([[ZeroHead(HeadId(site.name, head))]] * 3, sites)
            with torch.no_grad(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
                exact = loss(predict(denoiser, passes))
            torch.testing.assert_close(found[site.name][:, head], exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("known_noise", [True, False])
def test_in_a_linear_network_slope_and_curvature_are_the_whole_change_of_the_loss(known_noise: bool) -> None:
    """The mean over 500 draws of random signs is within five of its standard errors, each at most sqrt(2 / 500)."""
    denoiser, passes = linear_denoiser(), some_passes(shape=(1, 4, 4))
    sites = find_sites(denoiser.module)
    clean = predict(denoiser, passes)
    target = passes.noise if known_noise else clean
    assert target is not None
    given = passes if known_noise else replace(passes, noise=None)
    found = attribute_heads(denoiser, sites, given, method="zero", probes=500)
    loss = denoising_loss(target)
    for site in sites:
        for head in range(2):
            plan = AblationPlan([[ZeroHead(HeadId(site.name, head))]] * 3, sites)
            with torch.no_grad(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
                ablated = predict(denoiser, passes)
            curvature = (ablated - clean).square().mean((1, 2, 3))
            exact = loss(ablated) - loss(clean)
            assert ((found[site.name][:, head] - exact).abs() < 5 * np.sqrt(2 / 500) * curvature).all()


def test_the_signs_of_probes_belong_to_samples_not_to_batches(sites: list[AttentionSite]) -> None:
    denoiser, passes = double_denoiser(), some_passes()
    together = attribute_heads(denoiser, sites, passes, method="zero", probes=2)
    alone = attribute_heads(denoiser, sites, passes.rows(torch.tensor([1])), method="zero", probes=2)
    other = attribute_heads(denoiser, sites, passes, method="zero", probes=2, seed=1)
    for site in sites:
        assert_same_up_to_rounding(together[site.name][1:2], alone[site.name])
        assert not torch.allclose(together[site.name], other[site.name])


def test_a_dead_head_is_attributed_exactly_nothing(sites: list[AttentionSite]) -> None:
    deaf = double_denoiser()
    deaf.module.get_submodule(sites[0].module_path).to_out[0].weight[:, 2:4] = 0
    for steps, probes in ((0, 0), (2, 0), (0, 1)):
        found = attribute_heads(deaf, sites, some_passes(), method="zero", steps=steps, probes=probes)[sites[0].name]
        assert (found[:, 1] == 0).all()
        assert (found[:, 0] != 0).all()


def test_samples_do_not_see_each_other(sites: list[AttentionSite]) -> None:
    denoiser, passes = double_denoiser(), some_passes()
    together = attribute_heads(denoiser, sites, passes, method="uniform")
    alone = attribute_heads(denoiser, sites, passes.rows(torch.tensor([1])), method="uniform")
    for site in sites:
        assert_same_up_to_rounding(together[site.name][1:2], alone[site.name])


def test_watching_for_gradients_leaves_the_model_as_it_was(sites: list[AttentionSite]) -> None:
    denoiser, passes = double_denoiser(), some_passes()
    before = predict(denoiser, passes)
    attribute_heads(denoiser, sites, passes, method="zero", steps=1, path="joint")
    assert torch.equal(predict(denoiser, passes), before)
    assert all(weight.grad is None and not weight.requires_grad for weight in denoiser.module.parameters())


@pytest.fixture(scope="module")
def study(denoiser: Denoiser, latents: dict[str, list[Path]]) -> tuple[LatentFiles, ReferenceStore]:
    files = {name: open_latent_files(paths) for name, paths in latents.items()}
    tree = collect_reference(files, denoiser, reference_ids=REFERENCES, runtime=RUNTIME)
    return files["real"], store_of(tree)


@pytest.mark.parametrize("method", ["mean", "resample"])
def test_estimates_come_with_exact_effects_of_drawn_heads_and_their_correlations(
    denoiser: Denoiser, sites: list[AttentionSite], study: tuple[LatentFiles, ReferenceStore], method: str
) -> None:
    files, reference = study
    found = attribution_patching(
        denoiser,
        sites,
        files,
        reference,
        samples=range(5),
        timesteps=TIMESTEPS,
        method=method,
        exact_heads=7,
        seed=3,
        runtime=RUNTIME.model_copy(update={"batch_size": 2}),
    )
    assert dict(found.sizes) == {"sample": 5, "timestep": 2, "head": 48}
    known = found["exact"].notnull().all(("sample", "timestep"))
    assert found["head"].values[known.values].tolist() == [str(head) for head in drawn_heads(sites, 7, seed=3)]
    assert found["exact"].notnull().sum() == 7 * 5 * 2
    store = ablate_targets(
        denoiser,
        sites,
        files,
        reference,
        single_heads(sites),
        samples=range(5),
        timesteps=TIMESTEPS,
        ablation=AblationConfig(methods=[method]),
        seed=3,
        runtime=RUNTIME,
    )
    every = changes_of_loss(store, method).transpose("sample", "timestep", "head")
    # differences of losses, which are as large as this
    scale = float(store["mse_clean"].max())
    assert_same_up_to_rounding(found["exact"].values[:, :, known], every.values[:, :, known], scale=scale)
    drawn, full = found["estimate"].values[:, :, known], every.values[:, :, known]
    expected = np.corrcoef(drawn.mean(0).ravel(), full.mean(0).ravel())[0, 1]
    assert float(found["pearson"]) == pytest.approx(expected, abs=1e-4)
    assert float(found["spearman"]) > 0.5
    given = attribution_patching(
        denoiser,
        sites,
        files,
        reference,
        samples=range(5),
        timesteps=TIMESTEPS,
        method=method,
        exact=every,
        steps=3,
        seed=3,
        runtime=RUNTIME,
    )
    assert given["exact"].notnull().all()
    assert float(given["pearson"]) > 0.5
    assert all(np.isfinite(given[name]) for name in COEFFICIENTS)


def test_agreement_is_that_of_the_known_cells() -> None:
    source = np.random.default_rng(0)
    estimate = source.normal(size=(4, 2, 5))
    exact = np.exp(estimate)
    exact[:, :, 3:] = np.nan
    exact[2, 1, 0] = np.nan
    found = agreement(estimate, exact)
    assert found["cells"] == 6
    assert found["passes"] == 4 * 2 * 3 - 1
    assert found["spearman_per_pass"] == pytest.approx(1)
    assert found["pearson_per_pass"] < 1
    assert np.isnan(agreement(estimate, np.full_like(estimate, np.nan))["pearson"])
    assert agreement(estimate, 2 * estimate + 1)["pearson"] == pytest.approx(1)


def test_prompted_denoisers_are_attributed_too() -> None:
    module = tiny_model("sd1").double().requires_grad_(False)
    denoiser = PromptedDenoiser(module, {"num_train_timesteps": 1000}, (3, 16, 16))
    source = torch.Generator().manual_seed(0)
    x_t, noise = torch.randn(2, 2, 4, 16, 16, generator=source, dtype=torch.float64)
    text = torch.randn(2, 7, 24, generator=source, dtype=torch.float64)
    passes = Passes(300, (0, 1), x_t, noise, PromptCondition({"encoder_hidden_states": text}, {}, 2, 300.0, False))
    sites = find_sites(module)
    found = attribute_heads(denoiser, sites, passes, method="zero")
    head = HeadId("mid.0.cross", 1)
    up, down = (loss_with(denoiser, sites, passes, [[ScaleHead(head, dose)]] * 2) for dose in (2.0**-10, -(2.0**-10)))
    torch.testing.assert_close(found["mid.0.cross"][:, 1], (up - down) / 2.0**-9, rtol=1e-3, atol=1e-12)
    # On a sampling trajectory the noise is unknown: the change of the prediction takes the place of the loss.
    unknown = replace(passes, noise=None)
    with pytest.raises(ConfigError, match="on a sampling trajectory the noise is unknown"):
        attribute_heads(denoiser, sites, unknown, method="zero")
    found = attribute_heads(denoiser, sites, unknown, method="zero", steps=8)
    site = next(site for site in sites if site.name == "mid.0.cross")
    rows: list[list[HeadIntervention]] = [[ZeroHead(HeadId(site.name, h)) for h in range(site.heads)]] * 2
    change = loss_with(denoiser, sites, replace(passes, noise=predict(denoiser, passes)), rows)
    torch.testing.assert_close(found[site.name].sum(1), change, rtol=1e-3, atol=1e-12)


def test_what_cannot_be_attributed_is_refused(
    denoiser: Denoiser, sites: list[AttentionSite], study: tuple[LatentFiles, ReferenceStore]
) -> None:
    passes = study[0].read(100, [0, 1])
    with pytest.raises(ConfigError, match="'scale' is not a method of attribution; expected one of zero, mean"):
        attribute_heads(denoiser, sites, passes, method="scale")
    with pytest.raises(ConfigError, match="takes steps >= 0 along the path site or joint, found -1 along 'site'"):
        attribute_heads(denoiser, sites, passes, method="zero", steps=-1)
    for wrong in ({"probes": -1}, {"probes": 1, "steps": 1}, {"probes": 1, "loss": denoising_loss(passes.x_t)}):
        with pytest.raises(ConfigError, match=r"probes, found -?1, are for the curvature"):
            attribute_heads(denoiser, sites, passes, method="zero", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="resample needs the row of its source for each sample"):
        attribute_heads(denoiser, sites, passes, method="resample")
    store = ablate_targets(
        denoiser,
        sites,
        *study,
        single_heads(sites)[:1],
        samples=[0],
        timesteps=[100],
        ablation=AblationConfig(methods=["zero"]),
        seed=0,
        runtime=RUNTIME,
    )
    with pytest.raises(ConfigError, match=r"heads were ablated by zero, not by mean; add it to ablation\.methods"):
        changes_of_loss(store, "mean")
    with pytest.raises(ConfigError, match=r"nearest: down1\.0\.self\.h0"):
        exact_effects(
            denoiser, sites, *study, [HeadId("down1.0.self", 8)], [0], [100], method="zero", seed=0, runtime=RUNTIME
        )


def test_losses_are_one_number_per_sample() -> None:
    images = torch.arange(12.0).view(3, 1, 2, 2)
    assert_same_up_to_rounding(denoising_loss(torch.zeros(3, 1, 2, 2))(images), images.square().mean((1, 2, 3)))
    loss = progress_towards(images, images + 2)
    torch.testing.assert_close(
        torch.stack([loss(images), loss(images + 2), loss(images + 1)])[:, 0], torch.tensor([0, 1, 0.5])
    )
