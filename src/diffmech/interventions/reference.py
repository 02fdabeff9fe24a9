"""The reference outputs of every head: their mean, for mean ablation, and a bank of single ones, for resampling.

At each timestep the clean denoiser runs on the reference images of each domain, which are studied by nothing else: an
image that were part of its own mean, or stood in for another one that is tested beside it, would tie images together.
The mean is over the reference images of one domain at the same timestep and query position, since a mean over both
domains is like no image of either: it takes the domain's mark away too, and is the method `mean_pooled`. The bank keeps
the outputs one by one. `norm` is |o_h|, the Euclidean norm over channels, averaged over images and queries;
`displacement` is how far each method of ablation moves the output, per domain (module `displacement`). Mean and
resample ablation as in Wang et al. 2023; reference images of their own are ours, so that results depend neither on the
batch nor on the shard, nor one image's on another's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import open_store, progress, provenance, write_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, find_sites, head_ids
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.data.reference_images import FEWEST_REFERENCES, STUDIED
from diffmech.errors import ConfigError, DataError, StoreError
from diffmech.interventions.displacement import METHODS, displacements
from diffmech.interventions.heads import HeadPairs, ReferenceOutputs, UniformAttention
from diffmech.interventions.replay import LatentFiles, open_latent_files
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.randomness import generator

# The numbers of the reference images: of every domain, or by domain.
ReferenceIds = Sequence[int] | Mapping[str, Sequence[int]]


def reference_outputs(
    latents: Mapping[str, Sequence[Path | str]],
    model_json: Path | str,
    output: Path | str,
    *,
    reference_ids: ReferenceIds,
    runtime: RuntimeConfig,
    timesteps: Sequence[int] | None = None,
) -> None:
    """Write mean, bank and norm of every head at `timesteps` (all by default) of `latents` (domain -> latents stores).

    One group per site: mean (domain, timestep, head, query, channel), norm (timestep, head), displacement (method,
    domain, timestep, head), bank (reference, timestep, head, query, channel). Reference rows are the images
    `reference_ids` of each domain. Raises DataError for a domain that lacks some of them, StoreError for unreadable
    latents and ModelError for attention that cannot be reached.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    sources = {domain: open_latent_files(paths) for domain, paths in latents.items()}
    tree = collect_reference(sources, denoiser, reference_ids=reference_ids, timesteps=timesteps, runtime=runtime)
    write_store(output, tree, encoding=_one_timestep_chunks(tree))


@in_smaller_batches
def collect_reference(
    sources: Mapping[str, LatentFiles],
    denoiser: Denoiser,
    *,
    reference_ids: ReferenceIds,
    timesteps: Sequence[int] | None = None,
    runtime: RuntimeConfig,
) -> xr.DataTree:
    """Return what `reference_outputs` writes."""
    ids = {
        domain: list(reference_ids[domain] if isinstance(reference_ids, Mapping) else reference_ids)
        for domain in sources
    }
    for domain, source in sources.items():
        _check_there(domain, source, ids[domain])
    sites = tapped_sites(denoiser, *sources.values())
    rows = [(domain, int(sample)) for domain in sources for sample in ids[domain]]
    every = {timestep for source in sources.values() for timestep in source.timesteps}
    timesteps = sorted(every if timesteps is None else next(iter(sources.values())).nearest(timesteps))
    outputs: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    distances: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    for timestep in progress(timesteps, "reference outputs", show=runtime.progress):
        at_timestep: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {site.name: [] for site in sites}
        for domain, source in sources.items():
            for start in range(0, len(ids[domain]), runtime.batch_size):
                for name, seen in _clean_outputs(
                    denoiser, sites, source, timestep, ids[domain][start : start + runtime.batch_size]
                ).items():
                    at_timestep[name].append(seen)
        for name, batches in at_timestep.items():
            outputs[name].append(np.concatenate([output for output, _ in batches]))
            distances[name].append(np.concatenate([distance for _, distance in batches]))
    groups = {"/": _root(rows, timesteps)}
    for site in sites:
        # (reference, timestep, head, query, channel)
        bank = np.stack(outputs.pop(site.name), axis=1)
        groups[site.name] = _site_group(site, bank, np.stack(distances[site.name], axis=1), rows)
    return xr.DataTree.from_dict(groups)


def _check_there(domain: str, source: LatentFiles, reference_ids: Sequence[int]) -> None:
    if source.domain != domain:
        raise StoreError(f"the latents given for {domain} are of {source.domain}; give each domain its own")
    if len(set(reference_ids)) < FEWEST_REFERENCES:
        raise ConfigError("ablation.reference_samples: means and resampling need at least 2 reference images")
    there = sorted(set(reference_ids) & set(source.samples))
    if len(there) < len(reference_ids):
        held = f"only {len(there)}" if there else "none"
        fewer = f"ablation.reference_samples to {len(there)}, or " if len(there) >= FEWEST_REFERENCES else ""
        raise DataError(
            f"{domain}: images {min(reference_ids)} to {max(reference_ids)} are to be reference images, which nothing "
            f"else studies, but the data set holds {held} of these {len(reference_ids)}; give more images, or lower "
            f"{fewer}the numbers of studied images, behind which they begin ({STUDIED})"
        )


@dataclass(frozen=True)
class ReferenceStore:
    """Reference outputs of all timesteps, from one store per block. `rows` are the (domain, sample id) of the bank."""

    trees: dict[int, xr.DataTree]
    rows: tuple[tuple[str, int], ...]

    @property
    def timesteps(self) -> list[int]:
        """All timesteps, ascending."""
        return sorted(self.trees)

    @property
    def domains(self) -> list[str]:
        """All domains, in the order of the store."""
        return list(dict.fromkeys(domain for domain, _ in self.rows))

    def check_apart(self, samples: Iterable[int]) -> None:
        """Raise StoreError where one of the studied images `samples` is a reference image, of any domain."""
        if shared := sorted({int(sample) for sample in samples} & {sample for _, sample in self.rows}):
            raise StoreError(
                f"image {shared[0]} is studied and a reference image too ({len(shared)} of them are); make the "
                "reference outputs anew, of images that are not studied"
            )

    def at(
        self, timestep: int, sites: Sequence[AttentionSite], domain: str, device: torch.device | str = "cpu"
    ) -> ReferenceOutputs:
        """Return what images of `domain` are given at `timestep`: mean and bank of their domain, and the pooled mean.

        Raises StoreError where the store has no such timestep, site or domain.
        """
        own, place = self._rows_of(domain), self.domains.index(domain)
        share = np.array([len(self._rows_of(each)) for each in self.domains]) / len(self.rows)
        mean, bank, pooled = {}, {}, {}
        for site in sites:
            group = self._group(timestep, site)
            means = group["mean"].transpose("domain", "head", "query", "channel").values
            mean[site.name] = _tensor(means[place], device)
            pooled[site.name] = _tensor(np.tensordot(share, means, axes=1).astype(means.dtype), device)
            bank[site.name] = _tensor(group["bank"].isel(reference=own).values, device)
        return ReferenceOutputs(timestep, mean, bank, pooled=pooled)

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
        if domain is not None:
            self._rows_of(domain)
        if method not in METHODS:
            raise StoreError(f"{method!r} is no method of ablation; expected one of {', '.join(METHODS)}")
        found = {}
        for site in sites:
            moved = self._group(timestep, site)["displacement"].transpose("method", "domain", "head").values
            moved = moved[METHODS.index(method)]
            moved = moved if domain is None else moved[[self.domains.index(domain)]]
            for head, distance in enumerate(np.sqrt(np.square(moved, dtype=np.float64).mean(axis=0))):
                found[HeadId(site.name, head)] = float(distance)
        return found

    def resample_source(self, domain: str, sample: int, seed: int) -> int:
        """Return the row, among those of `domain`, that its image `sample` is resampled from: always another image.

        It depends on (seed, sample id) alone. The donor's noise is another one too, since noise goes by the id. Raises
        StoreError for an unknown domain and where no other image is left.
        """
        own = self._rows_of(domain)
        others = [row for row, place in enumerate(own) if self.rows[place][1] != sample]
        if not others:
            raise StoreError(f"the reference outputs of {domain} hold no image but {sample} to resample from; add some")
        return others[int(generator(seed, "resample", sample).integers(2**63)) % len(others)]

    def _rows_of(self, domain: str) -> list[int]:
        rows = [row for row, (own, _) in enumerate(self.rows) if own == domain]
        if not rows:
            raise StoreError(
                f"the reference outputs hold no domain {domain}, only {', '.join(self.domains)}; make them with its "
                "images"
            )
        return rows

    def _group(self, timestep: int, site: AttentionSite) -> xr.Dataset:
        if timestep not in self.trees:
            raise StoreError(f"the reference outputs have no timestep {timestep}, only {self.timesteps}; make it anew")
        tree = self.trees[timestep]
        if site.name not in tree.children:
            raise StoreError(
                f"the reference outputs have no site {site.name}, only {', '.join(sorted(tree.children))}; "
                "make them with the same model"
            )
        return tree[site.name].to_dataset().sel(timestep=timestep)


def open_reference(paths: Sequence[Path | str]) -> ReferenceStore:
    """Open the reference outputs of all blocks. Raises StoreError where one is missing or they disagree."""
    stores = [store_of(open_store(path)) for path in paths]
    if not stores:
        raise StoreError("no reference outputs are given; at least one store is needed")
    for path, store in zip(paths, stores, strict=True):
        if store.rows != stores[0].rows:
            raise StoreError(f"{path}: its reference images differ from those of {paths[0]}; make both anew")
    return ReferenceStore({t: tree for store in stores for t, tree in store.trees.items()}, stores[0].rows)


def store_of(tree: xr.DataTree) -> ReferenceStore:
    """Return the reference outputs that `collect_reference` returned, or that one store holds."""
    root = tree.to_dataset()
    images = zip(root["reference_domain"].values, root["reference_sample"].values, strict=True)
    rows = tuple((str(domain), int(sample)) for domain, sample in images)
    return ReferenceStore(dict.fromkeys(map(int, root["timestep"].values), tree), rows)


def tapped_sites(denoiser: Denoiser, *files: LatentFiles) -> list[AttentionSite]:
    """Return all attention sites, in order. Raises ModelError naming those that one pass of `files` does not reach."""
    source = next((each for each in files if each.samples), None)
    if source is None:  # a shard beyond the end of a small data set: nothing will run
        return find_sites(denoiser.module)
    passes = source.read(source.timesteps[0], source.samples[:1], denoiser.device)
    return attention_sites(
        denoiser.module, lambda: denoiser.predict_noise(passes.x_t, passes.timestep, passes.condition)
    )


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
    with torch.inference_mode(), AttentionTap(denoiser.module, observers=[keep], sites=sites, whole=True):
        denoiser.predict_noise(passes.x_t, timestep, passes.condition)
    return seen


def _root(rows: list[tuple[str, int]], timesteps: list[int]) -> xr.Dataset:
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
        attrs={"provenance": provenance(rule="reference_outputs", images=[str(row) for row in rows])},
    )


def _site_group(
    site: AttentionSite, bank: np.ndarray, from_uniform: np.ndarray, rows: Sequence[tuple[str, int]]
) -> xr.Dataset:
    dims = ("timestep", "head", "query", "channel")
    of = [domain for domain, _ in rows]
    means = [bank[np.array(of) == domain].mean(axis=0, dtype=np.float64) for domain in dict.fromkeys(of)]
    norm = np.linalg.norm(bank, axis=-1).mean(axis=(0, 3), dtype=np.float64)
    group = xr.Dataset(
        {
            "mean": (("domain", *dims), np.stack(means).astype(np.float32)),
            "norm": (dims[:2], norm.astype(np.float32)),
            "displacement": (("method", "domain", *dims[:2]), displacements(bank, from_uniform, of).astype(np.float32)),
            "bank": (("reference", *dims), bank),
        },
        coords={"head": np.array(head_ids(site), dtype=np.dtypes.StringDType())},
        attrs={"kind": site.kind},
    )
    group["mean"].attrs = {"units": "1", "long_name": "mean head output over the reference images of a domain"}
    group["norm"].attrs = {"units": "1", "long_name": "mean norm of the head output"}
    group["displacement"].attrs = {"units": "1", "long_name": "root mean square distance of output and replacement"}
    group["bank"].attrs = {"units": "1", "long_name": "head output of each reference image"}
    return group


def _one_timestep_chunks(tree: xr.DataTree) -> dict[str, dict[str, dict[str, tuple[int, ...]]]]:
    """Return chunks of one timestep (and domain) each, since that is how they are read."""
    encoding: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
    for name, node in tree.children.items():
        arrays = {key: node[key] for key in ("mean", "bank")}
        encoding[f"/{name}"] = {
            key: {
                "chunks": tuple(
                    1 if dim in ("domain", "timestep") else max(1, array.sizes[str(dim)]) for dim in array.dims
                )
            }
            for key, array in arrays.items()
        }
    return encoding


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
