"""The same images told to be of either domain, and nothing: what was observed is what single passes show."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmech.artifacts import open_store, read_json, write_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.passes import open_latents
from diffmech.attention.store import open_attention, per_sample
from diffmech.attention.tap import AttentionTap
from diffmech.attention.told import capture_told
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import NOTHING, ToldConfig, UntrainedConfig
from diffmech.mechanisms.entropy import entropies
from diffmech.mechanisms.told import IMAGE, INTERACTION, TOLD, contrasts, open_cells
from diffmech.models.denoiser import Condition
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, save_denoiser, write_pointer

DOMAINS = ("real", "synthetic")
RUNTIME = RuntimeConfig(progress=False, batch_size=4, device="cpu")
TOLD_CONFIG = ToldConfig(samples=5, untrained_samples=4, untrained_told=2)
Stores = dict[str, dict[str, list[Path]]]


def tell_all(
    folder: Path,
    latents: Path,
    model_json: Path,
    domains: tuple[str, ...] = DOMAINS,
    timesteps: tuple[int, ...] = (700,),
) -> tuple[Stores, Stores]:
    """Return the stores of the denoiser and of its twins by what is told and domain, of the same images in both."""
    cells: Stores = {}
    copies: Stores = {}
    for domain in domains:
        outputs = {told: folder / f"{domain}-{told}.zarr.zip" for told in (NOTHING, *domains)}
        twins = {told: folder / f"{domain}-{told}.untrained.zarr.zip" for told in outputs}
        capture_told(
            {domain: [latents]},
            model_json,
            outputs,
            twins,
            domain=domain,
            timesteps=[700],
            told=TOLD_CONFIG,
            untrained=UntrainedConfig(seeds=2),
            runtime=RUNTIME,
        )
        for told in outputs:
            cells.setdefault(told, {})[domain] = [outputs[told]]
            copies.setdefault(told, {})[domain] = [twins[told]]
    return cells, copies


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, latents: Callable[..., Path], model_json: Path
) -> tuple[Stores, Stores]:
    return tell_all(tmp_path_factory.mktemp("told"), latents(), model_json)


def entropy_by_hand(model_json: Path, latents: Path, domain: int) -> np.ndarray:
    """Return the entropy of every head in the passes at t = 700, told `domain`, in float64, (sample, head)."""
    denoiser, passes = load_denoiser(model_json, device="cpu"), open_latents(latents)
    found = []

    def keep(call: AttentionCall) -> None:
        scores = call.query.double() @ call.key.double().transpose(-1, -2) / call.query.shape[-1] ** 0.5
        p = scores.softmax(-1)
        found.append(-(p * p.log()).sum(-1).mean(-1).numpy())

    x_t = torch.from_numpy(passes.x_t[:5, passes.timesteps.tolist().index(700)].values)
    condition = Condition(torch.full((5,), domain), torch.full((5, len(denoiser.attributes)), torch.nan))
    with torch.no_grad(), AttentionTap(denoiser.module, observers=[keep]):
        denoiser.predict_noise(x_t, 700, condition)
    return np.concatenate(found, axis=1)


def test_every_telling_is_a_pass_with_that_domain_and_no_attribute(
    told: tuple[Stores, Stores], latents: Callable[..., Path], model_json: Path
) -> None:
    names = list(read_json(model_json)["domains"])
    seen = []
    for name, by_domain in told[0].items():
        expected = entropy_by_hand(model_json, latents(), -1 if name == NOTHING else names.index(name))
        for paths in by_domain.values():
            found = per_sample(open_attention(paths), "entropy").sel(timestep=700).values
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        seen.append(expected)
    assert np.abs(seen[1] - seen[2]).max() > 1e-3  # telling does something


def test_twins_are_told_the_same_on_fewer_images(told: tuple[Stores, Stores]) -> None:
    cells = open_cells(*told, DOMAINS)
    assert cells.reference == NOTHING
    assert {name: len(by["real"]) for name, by in cells.seen.items()} == {NOTHING: 4, "real": 2, "synthetic": 2}
    assert cells.seen_by_twins(IMAGE)["real"].tolist() == [0, 1, 2, 3]
    assert cells.seen_by_twins(TOLD)["real"].tolist() == [0, 1]
    twin = open_attention(told[1]["real"]["synthetic"])
    assert dict(twin.sizes) == {"twin": 2, "sample": 2, "timestep": 1}
    assert twin.attrs["condition"] == "told real"


def test_telling_does_exactly_nothing_to_a_denoiser_that_does_not_listen(
    tmp_path: Path, latents: Callable[..., Path], model_json: Path
) -> None:
    denoiser = load_denoiser(model_json, device="cpu")
    assert denoiser.tokens is not None
    with torch.no_grad():
        denoiser.tokens.domain[:] = denoiser.tokens.domain_null
    folder = tmp_path / "deaf"
    folder.mkdir()
    save_denoiser(folder, denoiser.module, denoiser.tokens, denoiser.scheduler)
    pointer = folder / "model.json"
    write_pointer(pointer, find_layout(folder), parameters=1, source="untrained")
    own = Path(tmp_path / "latents.zarr.zip")
    _relabel(latents(), pointer, own)
    cells = open_cells(*tell_all(tmp_path, own, pointer), DOMAINS)
    values = {name: {d: entropies(tree) for d, tree in by.items()} for name, by in cells.trees.items()}
    for effect, (a, b) in contrasts(values, DOMAINS, cells.reference).items():
        if effect in (TOLD, INTERACTION):
            assert not a.any(), effect
            assert not b.any(), effect


def test_what_a_denoiser_does_not_know_gives_an_empty_store_and_the_image_alone(
    tmp_path: Path, latents: Callable[..., Path], model_json: Path
) -> None:
    domains = ("photographs", "paintings")
    told = tell_all(tmp_path, latents(), model_json, domains)
    assert open_store(told[0]["paintings"]["photographs"][0]).sizes["sample"] == 0
    cells = open_cells(*told, domains)
    assert list(cells.trees) == [NOTHING]
    values = {name: {d: entropies(tree) for d, tree in by.items()} for name, by in cells.trees.items()}
    assert list(contrasts(values, domains, cells.reference)) == [IMAGE]


def _relabel(latents: Path, model_json: Path, output: Path) -> None:
    """Copy latents as if they were made for another model."""
    store = open_store(latents).to_dataset().load()
    write_store(output, store.assign_attrs(model_sha256=read_json(model_json)["sha256"]))
