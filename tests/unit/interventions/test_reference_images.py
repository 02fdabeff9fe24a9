"""What is put in place of an output comes from images of the same domain that nothing studies."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from random_denoisers import DOMAINS, REFERENCES, RUNTIME, TIMESTEPS, write_latents

from diffmech.artifacts import open_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.config.analysis import AblationConfig
from diffmech.errors import ConfigError, DataError, StoreError
from diffmech.interventions.ablation import ablate_heads
from diffmech.interventions.reference import collect_reference, open_reference, reference_outputs, store_of
from diffmech.interventions.replay import open_latent_files
from diffmech.models.denoiser import Denoiser

METHODS = ["mean", "mean_pooled", "resample"]
TIMESTEP = 700


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, model_json: Path, latents: dict[str, list[Path]]) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.zarr.zip"
    reference_outputs(latents, model_json, path, reference_ids=REFERENCES, runtime=RUNTIME)
    return path


def clean_outputs(
    denoiser: Denoiser, sites: list[AttentionSite], stores: list[Path], samples: list[int]
) -> dict[str, torch.Tensor]:
    """Return what all heads write for `samples`, (sample, head, query, channel), as the tap alone sees it."""
    seen: dict[str, torch.Tensor] = {}

    def keep(call: AttentionCall) -> None:
        seen[call.site.name] = call.output.clone()

    passes = open_latent_files(stores).read(TIMESTEP, samples)
    with torch.no_grad(), AttentionTap(denoiser.module, observers=[keep], sites=sites):
        denoiser.predict_noise(passes.x_t, TIMESTEP, passes.condition)
    return seen


class Replace:
    """An intervention that puts one tensor (query, channel) in place of one head's output."""

    needs_lse = False

    def __init__(self, head: HeadId, output: torch.Tensor) -> None:
        self.head, self.output = head, output

    def applies_to(self, site: AttentionSite) -> bool:
        return site.name == self.head.site

    def replace_output(self, call: AttentionCall) -> torch.Tensor:
        output = call.output.clone()
        output[:, self.head.head] = self.output
        return output


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_head_is_replaced_by_the_mean_of_the_image_s_own_domain(
    tmp_path: Path,
    domain: str,
    reference: Path,
    model_json: Path,
    latents: dict[str, list[Path]],
    denoiser: Denoiser,
    sites: list[AttentionSite],
) -> None:
    """The domains differ, so that the mean over both, which today's `mean_pooled` still is, gives another loss."""
    ablated = tmp_path / "ablated.zarr.zip"
    ablation = AblationConfig(methods=METHODS)
    ablate_heads(
        latents[domain], model_json, [reference], ablated, group="heads", ablation=ablation, seed=0, runtime=RUNTIME,
        sample_ids=[2], timesteps=[TIMESTEP],
    )  # fmt: skip
    head = HeadId(sites[0].name, 3)
    found = open_store(ablated).to_dataset().sel(target=str(head), sample=2, timestep=TIMESTEP)["mse_ablated"]
    bank = {name: clean_outputs(denoiser, sites, latents[name], list(REFERENCES))[head.site] for name in DOMAINS}
    passes = open_latent_files(latents[domain]).read(TIMESTEP, [2])

    def loss(output: torch.Tensor) -> float:
        with torch.no_grad(), AttentionTap(denoiser.module, interventions=[Replace(head, output)], sites=sites):
            predicted = denoiser.predict_noise(passes.x_t, TIMESTEP, passes.condition)
        return float((predicted - passes.noise).square().mean())

    own = bank[domain][:, head.head]
    pooled = torch.cat([bank[name] for name in DOMAINS])[:, head.head].mean(0)
    assert float(found.sel({"method": "mean"})) == pytest.approx(loss(own.mean(0)), rel=1e-5)
    assert float(found.sel({"method": "mean_pooled"})) == pytest.approx(loss(pooled), rel=1e-5)
    assert loss(pooled) != pytest.approx(loss(own.mean(0)), rel=1e-4)
    donors = [loss(output) for output in own]
    assert min(abs(float(found.sel({"method": "resample"})) / donor - 1) for donor in donors) < 1e-5


def test_changing_the_studied_images_changes_no_replacement(
    tmp_path: Path, reference: Path, model_json: Path, latents: dict[str, list[Path]]
) -> None:
    """The images 0 to 5 of each domain are exchanged for those of the other one."""
    others = {
        name: [
            path
            for t in TIMESTEPS
            for path in (
                write_latents(tmp_path / f"{name}-{t}.zarr.zip", 1 - index, [t], range(6), named=name),
                write_latents(tmp_path / f"{name}-{t}-references.zarr.zip", index, [t], REFERENCES),
            )
        ]
        for index, name in enumerate(DOMAINS)
    }
    reference_outputs(others, model_json, tmp_path / "again.zarr.zip", reference_ids=REFERENCES, runtime=RUNTIME)
    first, again = open_store(reference), open_store(tmp_path / "again.zarr.zip")
    for name in first.children:
        xr.testing.assert_equal(first[name].to_dataset(), again[name].to_dataset())


def test_a_reference_image_that_is_studied_is_refused(
    tmp_path: Path, reference: Path, model_json: Path, latents: dict[str, list[Path]]
) -> None:
    ablation = AblationConfig(methods=["mean"])
    with pytest.raises(StoreError, match=r"image 6 is studied and a reference image too \(1 of them are\)"):
        ablate_heads(
            latents["real"], model_json, [reference], tmp_path / "a.zarr.zip", group="heads", ablation=ablation, seed=0,
            runtime=RUNTIME, sample_ids=range(7),
        )  # fmt: skip


def test_a_data_set_without_room_for_reference_images_is_refused_with_numbers(
    denoiser: Denoiser, latents: dict[str, list[Path]]
) -> None:
    files = {domain: open_latent_files(paths) for domain, paths in latents.items()}
    with pytest.raises(
        DataError,
        match=r"real: images 8 to 11 are to be reference images, .* only 2 of these 4; give more images, or lower "
        r"ablation\.reference_samples to 2, or the numbers of studied images, behind which they begin",
    ):
        collect_reference(files, denoiser, reference_ids=range(8, 12), runtime=RUNTIME)
    with pytest.raises(DataError, match=r"none of these 2; give more images, or lower the numbers of studied"):
        collect_reference(files, denoiser, reference_ids=range(20, 22), runtime=RUNTIME)
    with pytest.raises(
        ConfigError, match=r"^ablation\.reference_samples: means and resampling need at least 2 reference"
    ):
        collect_reference(files, denoiser, reference_ids=[8], runtime=RUNTIME)


def test_domains_are_never_taken_for_each_other(
    reference: Path, denoiser: Denoiser, sites: list[AttentionSite], latents: dict[str, list[Path]]
) -> None:
    store = open_reference([reference])
    with pytest.raises(StoreError, match="hold no domain painted, only real, synthetic"):
        store.at(TIMESTEP, sites, "painted")
    swapped = {"real": open_latent_files(latents["synthetic"])}
    with pytest.raises(StoreError, match="the latents given for real are of synthetic; give each domain its own"):
        collect_reference(swapped, denoiser, reference_ids=REFERENCES, runtime=RUNTIME)
    with pytest.raises(StoreError, match=r"are of real .* and synthetic"):
        assert open_latent_files([*latents["real"], *latents["synthetic"]]).domain
    assert np.isfinite(list(store.displacements("mean", TIMESTEP, sites, "real").values())).all()


def test_what_reference_outputs_do_not_hold_is_named(reference: Path, sites: list[AttentionSite]) -> None:
    store = open_reference([reference])
    with pytest.raises(StoreError, match="'erase' is no method of ablation; expected one of "):
        store.displacements("erase", TIMESTEP, sites)
    other = [AttentionSite("up9.0.self", "", "self", 8)]
    with pytest.raises(
        StoreError, match=r"outputs have no site up9\.0\.self, only down1.0.cross, .*; make them with the"
    ):
        store.displacements("mean", TIMESTEP, other)
    with pytest.raises(StoreError, match="no reference outputs are given; at least one store"):
        open_reference([])
    with pytest.raises(StoreError, match="no latents store is given; at least one"):
        open_latent_files([])


def test_each_domain_may_have_reference_images_of_its_own(denoiser: Denoiser, latents: dict[str, list[Path]]) -> None:
    files = {domain: open_latent_files(paths) for domain, paths in latents.items()}
    chosen = {"real": [6, 9], "synthetic": [7, 8, 9]}
    store = store_of(collect_reference(files, denoiser, reference_ids=chosen, runtime=RUNTIME))
    assert store.rows == tuple((domain, sample) for domain, ids in chosen.items() for sample in ids)
    store.check_apart(range(6))
    sites = find_sites(denoiser.module)
    for domain, ids in chosen.items():
        same = store_of(collect_reference(files, denoiser, reference_ids=ids, runtime=RUNTIME))
        for of_chosen, expected in zip(
            store.at(TIMESTEP, sites, domain).mean.values(), same.at(TIMESTEP, sites, domain).mean.values(), strict=True
        ):
            torch.testing.assert_close(of_chosen, expected)
