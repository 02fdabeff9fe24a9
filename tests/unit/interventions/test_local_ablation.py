"""The store of ablated passes: true against single passes, and the same however the work is cut."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from random_denoisers import REFERENCES, RUNTIME, TIMESTEPS, tiny_denoiser, write_latents

from diffmech.artifacts import open_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, head_ids
from diffmech.attention.tap import AttentionTap
from diffmech.config.analysis import AblationConfig
from diffmech.errors import ConfigError, ModelError, StoreError
from diffmech.interventions.ablation import ablate_heads, ablate_targets
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import replace_heads
from diffmech.interventions.reference import (
    ReferenceStore,
    collect_reference,
    open_reference,
    reference_outputs,
    store_of,
)
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.targets import HeadSpan, Target
from diffmech.models.denoiser import Denoiser
from diffmech.testing import assert_same_up_to_rounding


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, model_json: Path, latents: dict[str, list[Path]]) -> list[Path]:
    """One reference store per block."""
    folder = tmp_path_factory.mktemp("reference")
    paths = [folder / f"{timestep}.reference.zarr.zip" for timestep in TIMESTEPS]
    for index, path in enumerate(paths):
        blocks = {domain: [stores[index]] for domain, stores in latents.items()}
        reference_outputs(blocks, model_json, path, reference_ids=REFERENCES, runtime=RUNTIME)
    return paths


def ablate(
    tmp_path: Path,
    latents: list[Path],
    model_json: Path,
    reference: list[Path],
    group: str = "layers",
    **options: object,
) -> xr.Dataset:
    output = tmp_path / "ablation.zarr.zip"
    batch_size = options.pop("batch_size", RUNTIME.batch_size)
    runtime = RUNTIME.model_copy(update={"batch_size": batch_size})
    ablate_heads(latents, model_json, reference, output, group=group, seed=0, runtime=runtime, **options)  # type: ignore[arg-type]
    return open_store(output).to_dataset().load()


def write_mechanisms(path: Path, sites: list[AttentionSite]) -> Path:
    """Two mechanisms: one that moves from layer to layer between the phases, one of the first phase only."""
    rows = [(head_ids(sites[0])[k], 0, 400, "self-1") for k in (0, 3)]
    rows += [(head_ids(sites[2])[k], 401, 999, "self-1") for k in (1, 2, 5)]
    rows += [(head_ids(sites[1])[4], 0, 400, "cross-1")]
    pd.DataFrame(rows, columns=["head", "phase_first", "phase_last", "mechanism"]).to_csv(path, index=False)
    return path


def test_reference_means_and_bank_are_the_clean_outputs_of_the_domain_s_reference_images(
    reference: list[Path], latents: dict[str, list[Path]], denoiser: Denoiser, sites: list[AttentionSite]
) -> None:
    store = open_reference(reference)
    assert store.rows == tuple((domain, sample) for domain in ("real", "synthetic") for sample in REFERENCES)
    seen: dict[str, torch.Tensor] = {}

    def keep(call: AttentionCall) -> None:
        seen[call.site.name] = call.output.clone()

    passes = open_latent_files(latents["synthetic"]).read(700, [8])
    with torch.no_grad(), AttentionTap(denoiser.module, observers=[keep], sites=sites):
        denoiser.predict_noise(passes.x_t, 700, passes.condition)
    found = store.at(700, sites, "synthetic")
    for site in sites:
        assert_same_up_to_rounding(found.bank[site.name][2:3], seen[site.name])
        assert_same_up_to_rounding(found.mean[site.name], found.bank[site.name].mean(0))
        both = torch.cat([store.at(700, sites, domain).bank[site.name] for domain in store.domains])
        assert_same_up_to_rounding(found.pooled[site.name], both.mean(0))
        norm = both.norm(dim=-1).mean(dim=(0, 2))
        assert [store.norms(700, sites)[HeadId(site.name, h)] for h in range(8)] == pytest.approx(norm.tolist())


def test_an_image_is_resampled_from_another_one_of_its_own_domain() -> None:
    store = ReferenceStore({}, tuple((domain, sample) for domain in ("real", "synthetic") for sample in range(4)))
    for domain in store.domains:
        own = [row for row in store.rows if row[0] == domain]
        sources = [store.resample_source(domain, sample, seed=0) for sample in range(200)]
        assert all(own[source][1] != sample for sample, source in enumerate(sources))
        assert set(sources) == set(range(4))
    with pytest.raises(StoreError, match="hold no image but 0 to resample from"):
        ReferenceStore({}, (("real", 0), ("synthetic", 0))).resample_source("real", 0, seed=0)
    with pytest.raises(StoreError, match="hold no domain painted, only real, synthetic"):
        store.resample_source("painted", 0, seed=0)


def test_every_number_equals_a_single_pass_from_its_start(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    denoiser: Denoiser,
    sites: list[AttentionSite],
) -> None:
    table = write_mechanisms(tmp_path / "heads.csv", sites)
    data = ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", heads_csv=table, ablation=ablation)
    store, files = open_reference(reference), open_latent_files(latents["real"])
    for target, method, sample, timestep in [
        ("self-1", "mean", 0, 100),
        ("self-1", "resample", 5, 700),
        ("cross-1", "uniform", 4, 100),
        ("self-1~control007", "mean", 2, 700),
    ]:
        cell = data.sel({"target": target, "method": method, "sample": sample, "timestep": timestep})
        heads = [HeadId.parse(head) for head in str(cell["members"].values).split()]
        source = store.resample_source("real", sample, 0)
        outputs = store.at(timestep, sites, "real")
        plan = AblationPlan([replace_heads(method, heads, source=source)], sites, reference=outputs)
        passes = files.read(timestep, [sample])
        with torch.no_grad():
            clean = denoiser.predict_noise(passes.x_t, timestep, passes.condition)
            with AttentionTap(denoiser.module, interventions=[plan], sites=sites):
                changed = denoiser.predict_noise(passes.x_t, timestep, passes.condition)
        mse_clean, mse = (float(((eps - passes.noise) ** 2).mean()) for eps in (clean, changed))
        shift = float(((changed - clean) ** 2).sum() / (clean**2).sum())
        assert float(cell["mse_clean"]) == pytest.approx(mse_clean, rel=1e-5)
        assert float(cell["mse_ablated"]) == pytest.approx(mse, rel=1e-5)
        assert float(cell["shift"]) == pytest.approx(shift, rel=1e-4)
        assert float(cell["distance_off"]) == pytest.approx(float(plan.distance_off()[0]), rel=1e-4)
        assert mse != mse_clean


def test_results_depend_neither_on_batches_nor_on_shards_nor_on_reuse(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
) -> None:
    stores = latents["synthetic"]
    whole = ablate(tmp_path, stores, model_json, reference, ablation=ablation)
    small = ablate(tmp_path, stores, model_json, reference, ablation=ablation, batch_size=5)
    shards = [
        ablate(tmp_path, stores, model_json, reference, ablation=ablation, sample_ids=ids)
        for ids in ([0, 1], [2, 3, 4, 5, 50, 51])
    ]
    for name in ("mse_clean", "mse_ablated", "shift", "distance_off"):
        joined = np.concatenate([shard[name].values for shard in shards], axis=0 if name == "mse_clean" else 2)
        # A shift is the square of a difference of predictions: its rounding is that of the root.
        scale = float(np.abs(whole[name]).max()) ** (0.5 if name == "shift" else 1)
        assert_same_up_to_rounding(small[name], whole[name], scale=scale)
        assert_same_up_to_rounding(joined, whole[name], scale=scale)


def test_reusing_what_ran_before_the_first_head_changes_no_result(
    latents: dict[str, list[Path]],
    denoiser: Denoiser,
    sites: list[AttentionSite],
    ablation: AblationConfig,
    reference: list[Path],
) -> None:
    files, store = open_latent_files(latents["real"]), open_reference(reference)
    targets = [Target(site.name, (HeadSpan(HeadId(site.name, 2), 0, 999),)) for site in sites]
    fast, slow = (
        ablate_targets(
            denoiser, sites, files, store, targets, samples=[0, 1, 2], timesteps=[100], ablation=ablation, seed=0,
            runtime=RUNTIME, reuse_prefix=reuse,
        )
        for reuse in (True, False)
    )  # fmt: skip
    assert_same_up_to_rounding(fast["mse_ablated"], slow["mse_ablated"])
    np.testing.assert_allclose(fast["shift"], slow["shift"], rtol=1e-4, atol=1e-9)


def test_the_clean_pass_of_a_batch_is_computed_once_for_all_its_ablations(
    latents: dict[str, list[Path]],
    denoiser: Denoiser,
    sites: list[AttentionSite],
    ablation: AblationConfig,
    reference: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    predict = Denoiser.predict_noise

    def counted(self: Denoiser, x_t: torch.Tensor, *given: object) -> torch.Tensor:
        rows.append(len(x_t))
        return predict(self, x_t, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "predict_noise", counted)
    runtime = RUNTIME.model_copy(update={"batch_size": 8})
    targets = [Target(str(HeadId(sites[0].name, h)), (HeadSpan(HeadId(sites[0].name, h), 0, 999),)) for h in range(8)]
    ablate_targets(
        denoiser, sites, open_latent_files(latents["real"]), open_reference(reference), targets,
        samples=[0, 1, 2, 3], timesteps=[100, 700], ablation=ablation.model_copy(update={"methods": ["zero", "mean"]}),
        seed=0, runtime=runtime,
    )  # fmt: skip
    # two trials of two and three images; then at each of two timesteps a clean pass, and 8 heads x 2 methods x 4 images
    assert rows == [2, 3] + 2 * (1 + 8 * 2 * 4 // 8) * [8]


def test_heads_that_nothing_reads_have_exactly_no_effect(
    latents: dict[str, list[Path]], sites: list[AttentionSite], ablation: AblationConfig
) -> None:
    deaf = tiny_denoiser(5)
    for site in sites:
        deaf.module.get_submodule(site.module_path).to_out[0].weight[:, 2:4] = 0
    files = {domain: open_latent_files(stores) for domain, stores in latents.items()}
    tree = collect_reference(files, deaf, reference_ids=REFERENCES, runtime=RUNTIME)
    store = store_of(tree)
    targets = [
        Target(str(HeadId(site.name, h)), (HeadSpan(HeadId(site.name, h), 0, 999),)) for site in sites for h in (1, 2)
    ]
    data = ablate_targets(
        deaf, sites, files["real"], store, targets, samples=list(range(6)), timesteps=[100, 700], ablation=ablation,
        seed=0, runtime=RUNTIME,
    )  # fmt: skip
    silent = data.isel(target=slice(0, None, 2))
    assert (silent["mse_ablated"] == silent["mse_clean"]).all()
    assert (silent["shift"] == 0).all()
    assert (data.isel(target=slice(1, None, 2))["shift"] > 0).all()


def test_outside_the_window_and_outside_its_phase_nothing_is_ablated(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    sites: list[AttentionSite],
) -> None:
    early = ablation.model_copy(update={"window": (0, 400)})
    data = ablate(tmp_path, latents["real"], model_json, reference, ablation=early)
    assert (data["mse_ablated"].sel(timestep=700) == data["mse_clean"].sel(timestep=700)).all()
    assert (data["shift"].sel(timestep=700) == 0).all()
    assert (data["shift"].sel(timestep=100) > 0).all()
    table = write_mechanisms(tmp_path / "heads.csv", sites)
    data = ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", heads_csv=table, ablation=ablation)
    assert (data["shift"].sel(target="cross-1", timestep=700) == 0).all()
    assert (data["shift"].sel(target="cross-1", timestep=100) > 0).all()


def test_controls_run_with_the_first_method_on_the_images_of_their_targets(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    sites: list[AttentionSite],
) -> None:
    table = write_mechanisms(tmp_path / "heads.csv", sites)
    data = ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", heads_csv=table, ablation=ablation)
    is_control = (data["control_of"] != "").values
    ran = np.isfinite(data["mse_ablated"].values)
    assert is_control.any()
    assert ran[~is_control].all()
    assert ran[is_control][:, 0].all()
    assert not ran[is_control][:, 1:].any()
    own = data.isel(target=~is_control)
    heads = {str(name): set(" ".join(own["members"].sel(target=name).values).split()) for name in own["target"].values}
    for control in data["target"].values[is_control]:
        one = data.sel(target=control)
        assert not heads[str(one["control_of"].values)] & set(" ".join(one["members"].values).split())


def test_the_balance_of_controls_is_that_of_how_far_the_heads_are_moved(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    sites: list[AttentionSite],
) -> None:
    table = write_mechanisms(tmp_path / "heads.csv", sites)
    data = ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", heads_csv=table, ablation=ablation)
    size = np.sqrt(np.square(data["size"]).sum("timestep"))
    fair = data["target"].values[data["controls_fair"].values]
    assert len(fair)
    for name in fair:
        own = data.sel(target=name)
        ratios = (size.isel(target=(data["control_of"] == name).values) / size.sel(target=name)).values
        assert own["controls"] == len(ratios) >= 19
        # the balance is of both domains, and each timestep counts alike
        assert float(own["control_ratio"]) == pytest.approx(np.exp(np.log(ratios).mean()), rel=0.05)
        assert own["control_overlap"] == 0


def test_a_job_of_one_block_draws_the_controls_of_the_whole_study(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    sites: list[AttentionSite],
) -> None:
    options = {"heads_csv": write_mechanisms(tmp_path / "heads.csv", sites), "ablation": ablation}
    whole = ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", **options)
    late = ablate(tmp_path, latents["real"][1:], model_json, reference, "mechanisms", timesteps=[700], **options)
    assert (late["members"] == whole["members"].sel(timestep=[700])).all()
    assert_same_up_to_rounding(late["mse_ablated"], whole["mse_ablated"].sel(timestep=[700]))


def test_blocks_that_are_missing_are_named(
    tmp_path: Path, latents: dict[str, list[Path]], model_json: Path, reference: list[Path], ablation: AblationConfig
) -> None:
    with pytest.raises(StoreError, match="sample 0 at timestep 700 is in none of the 1 latents stores"):
        ablate(tmp_path, latents["real"][:1], model_json, reference, ablation=ablation, timesteps=[100, 700])
    with pytest.raises(StoreError, match="have no timestep 700"):
        ablate(tmp_path, latents["real"], model_json, reference[:1], ablation=ablation)
    assert not list(tmp_path.iterdir())


def test_mechanisms_need_their_table(
    tmp_path: Path, latents: dict[str, list[Path]], model_json: Path, reference: list[Path], ablation: AblationConfig
) -> None:
    with pytest.raises(ConfigError, match="'mechanisms' needs a table of heads"):
        ablate(tmp_path, latents["real"], model_json, reference, "mechanisms", ablation=ablation)


def test_a_shard_without_images_gives_a_store_without_samples(
    tmp_path: Path, latents: dict[str, list[Path]], model_json: Path, reference: list[Path], ablation: AblationConfig
) -> None:
    data = ablate(tmp_path, latents["real"], model_json, reference, ablation=ablation, sample_ids=[50, 51])
    assert data.sizes["sample"] == 0


def test_methods_beyond_the_first_run_on_fewer_images(
    tmp_path: Path, latents: dict[str, list[Path]], model_json: Path, reference: list[Path]
) -> None:
    """The same ones in any shard, with the same results; at a timestep without heads there is nothing to run."""
    some = AblationConfig(methods=["mean", "zero"], samples=6, method_samples=2)
    every = some.model_copy(update={"method_samples": None})
    data = ablate(tmp_path, latents["real"], model_json, reference, ablation=some)
    whole = ablate(tmp_path, latents["real"], model_json, reference, ablation=every)
    late = ablate(tmp_path, latents["real"], model_json, reference, ablation=some, sample_ids=[3, 4])
    for name in ("mse_ablated", "shift", "distance_off"):
        np.testing.assert_allclose(data[name].isel(method=0), whole[name].isel(method=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            data[name].isel(method=1, sample=slice(2)),
            whole[name].isel(method=1, sample=slice(2)),
            rtol=1e-5,
            atol=1e-6,
        )
        assert data[name].isel(method=1, sample=slice(2, None)).isnull().all()
        assert late[name].isel(method=1).isnull().all()
        assert late[name].isel(method=0).notnull().all()


def test_latents_are_read_in_the_order_asked_for_across_shards(tmp_path: Path) -> None:
    stores = [write_latents(tmp_path / f"{k}.zarr.zip", 0, [100], range(3 * k, 3 * k + 3)) for k in range(2)]
    passes = open_latent_files(stores).read(100, [4, 1, 5])
    single = [open_latent_files(stores).read(100, [sample]) for sample in (4, 1, 5)]
    assert passes.samples == (4, 1, 5)
    assert torch.equal(passes.x_t, torch.cat([one.x_t for one in single]))


def test_ablations_that_run_out_of_memory_go_on_in_smaller_batches_with_the_same_results(
    tmp_path: Path,
    latents: dict[str, list[Path]],
    model_json: Path,
    reference: list[Path],
    ablation: AblationConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = ablate(tmp_path, latents["real"], model_json, reference, ablation=ablation, batch_size=2)
    predict, refused = Denoiser.predict_noise, []

    def scarce(self: Denoiser, x_t: torch.Tensor, *arguments: object) -> torch.Tensor:
        if len(x_t) > 3:
            refused.append(len(x_t))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(self, x_t, *arguments)

    monkeypatch.setattr(Denoiser, "predict_noise", scarce)
    again = ablate(tmp_path, latents["real"], model_json, reference, ablation=ablation, batch_size=8)
    assert refused
    xr.testing.assert_equal(again, whole)


def test_displacement_is_the_distance_to_what_each_method_puts_in_place(
    reference: list[Path], latents: dict[str, list[Path]], sites: list[AttentionSite], denoiser: Denoiser
) -> None:
    """Image by image: no image is part of its own mean or its own donor; root mean square over images and queries."""
    store = open_reference(reference)
    site, timestep = sites[0], 700
    bank = torch.from_numpy(store.trees[timestep][site.name]["bank"].sel(timestep=timestep).values).double()
    domains = np.array([domain for domain, _ in store.rows])
    expected: dict[tuple[str, str], list[float]] = {}
    for domain in ("real", "synthetic"):
        own = [int(row) for row in np.flatnonzero(domains == domain)]
        replaced: dict[str, list[tuple[int, torch.Tensor]]] = {
            "zero": [(row, torch.zeros_like(bank[row])) for row in own],
            "mean": [(row, bank[[other for other in own if other != row]].mean(0)) for row in own],
            "mean_pooled": [(row, bank[[other for other in range(len(bank)) if other != row]].mean(0)) for row in own],
            "resample": [(row, bank[other]) for row in own for other in own if other != row],
        }
        for method, pairs in replaced.items():
            squares = torch.stack([(bank[row] - instead).square().sum(-1).mean(-1) for row, instead in pairs]).mean(0)
            expected[method, domain] = squares.sqrt().tolist()
    for (method, domain), sizes in expected.items():
        found = store.displacements(method, timestep, [site], domain)
        assert [found[HeadId(site.name, head)] for head in range(site.heads)] == pytest.approx(sizes, rel=1e-5)
    both = store.displacements("mean", timestep, [site])[HeadId(site.name, 2)]
    assert both == pytest.approx(
        np.sqrt((expected["mean", "real"][2] ** 2 + expected["mean", "synthetic"][2] ** 2) / 2)
    )
    passes = open_latent_files(latents["real"]).read(timestep, list(REFERENCES))
    with torch.no_grad():
        plan = AblationPlan([replace_heads("uniform", [HeadId(site.name, 1)])] * 4, sites)
        with AttentionTap(denoiser.module, interventions=[plan], sites=sites):
            denoiser.predict_noise(passes.x_t, timestep, passes.condition)
    moved = plan.distance_off() * bank[:4, 1].square().sum((1, 2)).sqrt()
    rms = float((moved.square().mean() / bank.shape[2]).sqrt())
    assert store.displacements("uniform", timestep, [site], "real")[HeadId(site.name, 1)] == pytest.approx(rms)
    with pytest.raises(StoreError, match="hold no domain painted, only"):
        store.displacements("mean", timestep, [site], "painted")


def test_a_loss_that_is_not_finite_names_the_head_and_no_image_is_dropped(
    latents: dict[str, list[Path]],
    reference: list[Path],
    ablation: AblationConfig,
    denoiser: Denoiser,
    sites: list[AttentionSite],
) -> None:
    """The mean of one head overflows: the loss without it would be NaN, and its images were left out of all targets."""
    store, site = open_reference(reference), sites[1]
    outputs = store.at(100, sites, "real")
    outputs.mean[site.name][3] = torch.inf

    class Overflowing(ReferenceStore):
        def at(self, *_: object) -> object:  # type: ignore[override]
            return outputs

    broken = Overflowing(store.trees, store.rows)
    targets = [Target(str(HeadId(site.name, head)), (HeadSpan(HeadId(site.name, head), 0, 999),)) for head in (2, 3)]
    with pytest.raises(
        ModelError, match=rf"at t = 100 with {site.name}.h03 replaced \(mean\) is not finite; leave this method out"
    ):
        ablate_targets(
            denoiser,
            sites,
            open_latent_files(latents["real"]),
            broken,
            targets,
            samples=[0, 1],
            timesteps=[100],
            ablation=ablation.model_copy(update={"methods": ["mean"]}),
            seed=0,
            runtime=RUNTIME,
        )
