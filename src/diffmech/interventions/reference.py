"""The reference outputs of every head: their mean, for mean ablation, and a bank of single ones, for resampling.

At each timestep the clean denoiser runs on the first `reference_samples` images of each domain. The mean is over those
images at the same timestep and query position; the bank keeps them one by one. `norm` is |o_h|, the Euclidean norm over
channels, averaged over images and queries; `displacement` is how far each method of ablation moves the output, per
domain (module `displacement`). Mean and resample ablation as in Wang et al. 2023; the bank of fixed images is ours, so
that results depend neither on the batch nor on the shard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import open_store, progress, provenance, write_store
from diffmech.attention.sites import AttentionSite, HeadId, find_sites, head_ids
from diffmech.attention.tap import AttentionCall, AttentionTap, check_tappable
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.displacement import METHODS, displacements
from diffmech.interventions.heads import HeadPairs, ReferenceOutputs, UniformAttention
from diffmech.interventions.replay import LatentFiles, open_latent_files
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.randomness import generator


def reference_outputs(
    latents: Mapping[str, Sequence[Path | str]],
    model_json: Path | str,
    output: Path | str,
    *,
    ablation: AblationConfig,
    runtime: RuntimeConfig,
    timesteps: Sequence[int] | None = None,
) -> None:
    """Write mean, bank and norm of every head at `timesteps` (all by default) of `latents` (domain -> latents stores).

    One group per site: mean (timestep, head, query, channel), norm (timestep, head), displacement (method, domain,
    timestep, head), bank (reference, timestep, head, query, channel). Reference rows are the first `reference_samples`
    images of each domain. Raises StoreError for unreadable latents and ModelError for attention that cannot be reached.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    sources = {domain: open_latent_files(paths) for domain, paths in latents.items()}
    tree = collect_reference(sources, denoiser, timesteps=timesteps, ablation=ablation, runtime=runtime)
    write_store(output, tree, encoding=_one_timestep_chunks(tree))


@in_smaller_batches
def collect_reference(
    sources: Mapping[str, LatentFiles],
    denoiser: Denoiser,
    *,
    timesteps: Sequence[int] | None = None,
    ablation: AblationConfig,
    runtime: RuntimeConfig,
) -> xr.DataTree:
    """Return what `reference_outputs` writes."""
    sites = tapped_sites(denoiser, *sources.values())
    rows = [(domain, sample) for domain in sources for sample in sources[domain].samples[: ablation.reference_samples]]
    every = {timestep for source in sources.values() for timestep in source.timesteps}
    timesteps = sorted(every if timesteps is None else next(iter(sources.values())).nearest(timesteps))
    outputs: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    distances: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    for timestep in progress(timesteps, "reference outputs", show=runtime.progress):
        at_timestep: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {site.name: [] for site in sites}
        for source in sources.values():
            ids = source.samples[: ablation.reference_samples]
            for start in range(0, len(ids), runtime.batch_size):
                for name, seen in _clean_outputs(
                    denoiser, sites, source, timestep, ids[start : start + runtime.batch_size]
                ).items():
                    at_timestep[name].append(seen)
        for name, batches in at_timestep.items():
            outputs[name].append(np.concatenate([output for output, _ in batches]))
            distances[name].append(np.concatenate([distance for _, distance in batches]))
    groups = {"/": _root(rows, timesteps, ablation)}
    for site in sites:
        # (reference, timestep, head, query, channel)
        bank = np.stack(outputs.pop(site.name), axis=1)
        moved = displacements(bank, np.stack(distances[site.name], axis=1), [domain for domain, _ in rows])
        groups[site.name] = _site_group(site, bank, moved)
    return xr.DataTree.from_dict(groups)


@dataclass(frozen=True)
class ReferenceStore:
    """Reference outputs of all timesteps, from one store per block. `rows` are the (domain, sample id) of the bank."""

    trees: dict[int, xr.DataTree]
    rows: tuple[tuple[str, int], ...]

    @property
    def timesteps(self) -> list[int]:
        """All timesteps, ascending."""
        return sorted(self.trees)

    def at(self, timestep: int, sites: Sequence[AttentionSite], device: torch.device | str = "cpu") -> ReferenceOutputs:
        """Return mean and bank of `sites` at `timestep`; StoreError where the store has no such timestep or site."""
        mean, bank = {}, {}
        for site in sites:
            group = self._group(timestep, site)
            mean[site.name] = _tensor(group["mean"], device)
            bank[site.name] = _tensor(group["bank"], device)
        return ReferenceOutputs(timestep, mean, bank)

    def norms(self, timestep: int, sites: Sequence[AttentionSite]) -> dict[HeadId, float]:
        """Return the mean |o_h| of every head of `sites` at `timestep`."""
        return {
            HeadId(site.name, head): float(norm)
            for site in sites
            for head, norm in enumerate(self._group(timestep, site)["norm"].values)
        }

    def displacements(
        self, method: str, timestep: int, sites: Sequence[AttentionSite], domain: str | None = None
    ) -> dict[HeadId, float]:
        """Return how far `method` moves the output of every head of `sites` at `timestep`, of the images of `domain`.

        Without a domain it is the root mean square over all. Raises StoreError for what the store lacks.
        """
        found = {}
        for site in sites:
            group = self._group(timestep, site)
            known = {name: [str(each) for each in group[name].values] for name in ("method", "domain")}
            for name, wanted in (("method", method), ("domain", domain)):
                if wanted is not None and wanted not in known[name]:
                    raise StoreError(
                        f"the reference outputs hold no {name} {wanted}, only {', '.join(known[name])}; make them anew"
                    )
            moved = group["displacement"].transpose("method", "domain", "head").values[known["method"].index(method)]
            moved = moved if domain is None else moved[[known["domain"].index(domain)]]
            for head, distance in enumerate(np.sqrt(np.square(moved, dtype=np.float64).mean(axis=0))):
                found[HeadId(site.name, head)] = float(distance)
        return found

    def resample_source(self, sample: int, seed: int) -> int:
        """Return the bank row that image `sample` is resampled from: always another image with other noise.

        It depends on (seed, sample id) alone. Rows with the same id are left out in every domain, because the domains
        share their noise by id. Raises ConfigError when no row is left.
        """
        others = [row for row, (_, other) in enumerate(self.rows) if other != sample]
        if not others:
            raise ConfigError("ablation.reference_samples: 1 leaves no other image to resample from; give at least 2")
        return others[int(generator(seed, "resample", sample).integers(2**63)) % len(others)]

    def _group(self, timestep: int, site: AttentionSite) -> xr.Dataset:
        if timestep not in self.trees:
            raise StoreError(f"the reference outputs have no timestep {timestep}, only {self.timesteps}; make it anew")
        tree = self.trees[timestep]
        if site.name not in tree.children:
            raise StoreError(
                f"the reference outputs have no site {site.name}, only {', '.join(tree.children)}; "
                "make them with the same model"
            )
        return tree[site.name].to_dataset().sel(timestep=timestep)


def open_reference(paths: Sequence[Path | str]) -> ReferenceStore:
    """Open the reference outputs of all blocks. Raises StoreError where one is missing or they disagree."""
    trees: dict[int, xr.DataTree] = {}
    rows: tuple[tuple[str, int], ...] = ()
    for path in paths:
        tree = open_store(path)
        root = tree.to_dataset()
        images = zip(root["reference_domain"].values, root["reference_sample"].values, strict=True)
        found = tuple((str(domain), int(sample)) for domain, sample in images)
        if rows and found != rows:
            raise StoreError(f"{path}: its reference images differ from those of {paths[0]}; make both anew")
        rows = found
        trees |= {int(timestep): tree for timestep in root["timestep"].values}
    if not trees:
        raise StoreError("no reference outputs are given; at least one store is needed")
    return ReferenceStore(trees, rows)


def tapped_sites(denoiser: Denoiser, *files: LatentFiles) -> list[AttentionSite]:
    """Return all attention sites, in order. Raises ModelError naming those that one pass of `files` does not reach."""
    source = next((each for each in files if each.samples), None)
    if source is None:  # a shard beyond the end of a small data set: nothing will run
        return find_sites(denoiser.module)
    passes = source.read(source.timesteps[0], source.samples[:1], denoiser.device)
    check_tappable(
        denoiser.module, lambda: denoiser.predict_noise(passes.x_t, passes.timestep, passes.condition)
    ).require_all()
    return find_sites(denoiser.module)


def _clean_outputs(
    denoiser: Denoiser, sites: Sequence[AttentionSite], source: LatentFiles, timestep: int, ids: Sequence[int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, by site, the outputs (sample, head, query, channel) and their mean squared distance from uniform ones.

    The latter is over queries, (sample, head).
    """
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def keep(call: AttentionCall) -> None:
        heads = torch.arange(call.output.shape[1], device=call.output.device)
        distances = []
        for row, output in enumerate(call.output.float()):  # image by image, since masks may be large
            rows = torch.full_like(heads, row)
            uniform = UniformAttention.replacement(call, HeadPairs(rows, heads, rows), None)
            distances.append((output - uniform.float()).square().sum(-1).mean(-1))
        seen[call.site.name] = call.output.float().cpu().numpy(), torch.stack(distances).cpu().numpy()

    passes = source.read(timestep, ids, denoiser.device)
    with torch.inference_mode(), AttentionTap(denoiser.module, observers=[keep], sites=sites):
        denoiser.predict_noise(passes.x_t, timestep, passes.condition)
    return seen


def _root(rows: list[tuple[str, int]], timesteps: list[int], ablation: AblationConfig) -> xr.Dataset:
    text = np.dtypes.StringDType()
    return xr.Dataset(
        {
            "reference_domain": ("reference", np.array([domain for domain, _ in rows], dtype=text)),
            "reference_sample": ("reference", np.array([sample for _, sample in rows], dtype=np.int64)),
        },
        coords={
            "timestep": np.array(timesteps, dtype=np.int64),
            "method": np.array(METHODS, dtype=text),
            "domain": np.array(list(dict.fromkeys(domain for domain, _ in rows)), dtype=text),
        },
        attrs={"provenance": provenance(rule="reference_outputs", reference_samples=ablation.reference_samples)},
    )


def _site_group(site: AttentionSite, bank: np.ndarray, moved: np.ndarray) -> xr.Dataset:
    dims = ("timestep", "head", "query", "channel")
    norm = np.linalg.norm(bank, axis=-1).mean(axis=(0, 3), dtype=np.float64)
    group = xr.Dataset(
        {
            "mean": (dims, bank.mean(axis=0, dtype=np.float64).astype(np.float32)),
            "norm": (dims[:2], norm.astype(np.float32)),
            "displacement": (("method", "domain", *dims[:2]), moved.astype(np.float32)),
            "bank": (("reference", *dims), bank),
        },
        coords={"head": np.array(head_ids(site), dtype=np.dtypes.StringDType())},
        attrs={"kind": site.kind},
    )
    group["mean"].attrs = {"units": "1", "long_name": "mean head output over the reference images"}
    group["norm"].attrs = {"units": "1", "long_name": "mean norm of the head output"}
    group["displacement"].attrs = {"units": "1", "long_name": "root mean square distance of output and replacement"}
    group["bank"].attrs = {"units": "1", "long_name": "head output of each reference image"}
    return group


def _one_timestep_chunks(tree: xr.DataTree) -> dict[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return chunks of one timestep each, since that is how they are read."""
    encoding: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
    for name, node in tree.children.items():
        arrays = {key: node[key] for key in ("mean", "bank")}
        encoding[f"/{name}"] = {
            key: {"chunks": tuple(1 if dim == "timestep" else max(1, array.sizes[str(dim)]) for dim in array.dims)}
            for key, array in arrays.items()
        }
    return encoding


def _tensor(array: xr.DataArray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.values)).to(device)
