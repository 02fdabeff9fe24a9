"""Ways to see attention, ours and others'. Each is prepared once and then run: forwards, and all that is written."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from rows import Subject
from torch import Tensor
from torch.nn import functional

from diffmech.artifacts import building_store
from diffmech.attention.archive import archiving
from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import lay_out
from diffmech.attention.compression import choose_codecs
from diffmech.attention.keeping import FirstChunks, PassKeeper
from diffmech.attention.layout import Kept, SiteLayout
from diffmech.attention.ranges import count
from diffmech.attention.sites import HeadId, find_sites
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.store import open_attention
from diffmech.attention.tap import AttentionTap
from diffmech.attention.writing import writing

# Entropies are compared for the first sample and these heads of every site.
CHECKED_HEADS = 2

STORE, SAVED = "attention.zarr.zip", "maps.pt"


@dataclass
class Prepared:
    """A way on one subject. `run(folder, passes)` runs so many forwards, each another timestep of one capture.

    `entropies(folder)` gives, by site, those of the first sample and `CHECKED_HEADS`, from what the last run left.
    """

    run: Callable[[Path, int], None]
    entropies: Callable[[Path], dict[str, Tensor]] = field(default=lambda folder: {})
    write: Callable[[Path], None] = field(default=lambda folder: None)  # what is written outside of the timed run
    note: str = ""


def plain(subject: Subject) -> Prepared:
    """The forward alone."""
    return Prepared(lambda folder, passes: subject.forwards(passes))


def statistics(subject: Subject) -> Prepared:
    """Exact statistics of every head; their store is written after the timed run, as captures do once per chunk."""
    sites = surveyed(subject)
    ranges = {site.name: site.ranges for site in sites if site.ranges is not None}
    observer = StatisticsObserver({site.name: site.grid for site in sites}, ranges)

    def run(folder: Path, passes: int) -> None:
        with AttentionTap(subject.model, [observer]):
            subject.forwards(passes)

    def write(folder: Path) -> None:
        with building_store(folder / STORE) as directory:
            arrays = lay_out(directory, sites, axes_of(subject, 1), attrs={})
            for site in sites:
                for name, variable in site.variables.items():
                    values = getattr(observer.results[site.name], name)
                    arrays[site.name, name][:, 0] = values.cpu().numpy().astype(variable.dtype)

    def entropies(folder: Path) -> dict[str, Tensor]:
        return {site: found.entropy[0, :CHECKED_HEADS].cpu() for site, found in observer.results.items()}

    return Prepared(run, entropies, write)


def maps(subject: Subject) -> Prepared:
    """Maps in float16 through the real writer: store laid out, compressed beside the forward, zipped."""
    return _stored(subject, "maps")


def factors(subject: Subject) -> Prepared:
    """Queries and keys in float16 through the real writer; maps are computed when they are read."""
    return _stored(subject, "factors")


def naive(subject: Subject) -> Prepared:
    """Attention replaced by an eager softmax, whose float32 maps are appended to a list and saved at the end."""
    kept: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: float | None = None, **named: Any) -> Any:
        scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        kept.append(scores.softmax(-1))
        return kept[-1] @ value

    def run(folder: Path, passes: int) -> None:
        with patch.object(functional, "scaled_dot_product_attention", attend):
            subject.forwards(passes)
        torch.save(kept, folder / SAVED)
        kept.clear()

    return Prepared(run, _saved(subject))


def naive_statistics(subject: Subject) -> Prepared:
    """The same softmax, each map reduced to entropy and attention received as it comes; nothing is kept or saved."""
    found: dict[str, Tensor] = {}

    def observe(call: AttentionCall) -> None:
        p = (call.scale * call.query @ call.key.mT).softmax(-1)
        entropies = -(p * (p + 1e-12).log()).sum(-1)
        p.mean(-2)
        rows = image_queries(subject, call.site.kind, p.shape[-2])
        found[call.site.name] = entropies[0, :CHECKED_HEADS, rows].mean(-1).cpu()

    def run(folder: Path, passes: int) -> None:
        with AttentionTap(subject.model, [observe]):
            subject.forwards(passes)

    return Prepared(run, lambda folder: found)


def nnsight(subject: Subject) -> Prepared:
    """nnsight: queries and keys at the attention call inside each processor, softmax by hand, saved at the end."""
    from nnsight import NNsight, save  # type: ignore[import-untyped]

    wrapped = NNsight(subject.model)
    is_flux = "Flux" in type(subject.model).__name__
    operation = "dispatch_attention_fn_0" if is_flux else "F_scaled_dot_product_attention_0"
    processors = [wrapped.get(site.module_path).source.self_processor_0 for site in find_sites(subject.model)]
    note = ""
    if not is_flux:  # there the call lies behind a dispatcher of diffusers, and is the same
        try:
            with wrapped.trace(**subject.inputs):
                assert getattr(processors[0].source, operation).source
        except Exception as error:
            note = f"cannot look into the fused kernel ({type(error).__name__}: {str(error).strip().splitlines()[-1]})"

    def run(folder: Path, passes: int) -> None:
        kept: list[Tensor] = []
        for _ in range(passes):
            with wrapped.trace(**subject.inputs):
                found = save([])
                for processor in processors:
                    positional, named = getattr(processor.source, operation).inputs
                    query, key = positional[:2] if positional else (named["query"], named["key"])
                    if is_flux:  # (sample, token, head, channel)
                        query, key = query.transpose(1, 2), key.transpose(1, 2)
                    found.append((query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1))
            kept += found
        torch.save(kept, folder / SAVED)

    return Prepared(run, _saved(subject), note=note)


def map_diffusers(subject: Subject) -> Prepared:
    """attention-map-diffusers: processors replaced, its exact mode for all heads and relations, saved at the end."""
    from attention_map_diffusers import AttentionCapture  # type: ignore[import-untyped]

    kind = "unet" if type(subject.model).__name__.startswith("UNet") else "transformer"
    pipeline = SimpleNamespace(**{kind: subject.model})

    def run(folder: Path, passes: int) -> None:
        exact = {"mode": "exact", "heads": "all", "relations": "all", "allow_large_maps": True}
        with AttentionCapture(pipeline, **exact, max_capture_bytes=None) as capture:
            subject.forwards(passes)
        kept = [(record.layer_id, record.relation, record.data) for record in capture.records]
        torch.save(kept, folder / SAVED)

    def entropies(folder: Path) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for layer, relation, probabilities in torch.load(folder / SAVED):
            if relation.startswith("image->"):
                found.setdefault(layer.removeprefix(f"{kind}."), []).append(probabilities[0, :CHECKED_HEADS])
        names = {site.module_path: site.name for site in find_sites(subject.model)}
        return {names[layer]: sum(map(entropy, parts), torch.zeros(())) for layer, parts in found.items()}

    return Prepared(run, entropies)


WAYS: dict[str, Callable[[Subject], Prepared]] = {
    "plain forward": plain,
    "our statistics": statistics,
    "our maps": maps,
    "our factors": factors,
    "naive": naive,
    "naive statistics": naive_statistics,
    "nnsight": nnsight,
    "attention-map-diffusers": map_diffusers,
}


def reference_entropies(subject: Subject) -> dict[str, Tensor]:
    """Return the entropies in float64 from the definition, of a few queries at a time."""
    found: dict[str, Tensor] = {}

    def observe(call: AttentionCall) -> None:
        query, key = (tensor[0, :CHECKED_HEADS].double() for tensor in (call.query, call.key))
        rows = image_queries(subject, call.site.kind, query.shape[1])
        parts = [
            entropy((call.scale * some @ key.mT).softmax(-1)) * some.shape[1] for some in query[:, rows].split(512, 1)
        ]
        found[call.site.name] = (sum(parts, torch.zeros(())) / query[:, rows].shape[1]).cpu()

    with AttentionTap(subject.model, [observe]):
        subject.forward()
    return found


def attention_bytes(subject: Subject) -> int:
    """Return the bytes of all queries and keys of one forward."""
    sizes: list[int] = []
    with AttentionTap(subject.model, [lambda call: sizes.append(call.query.nbytes + call.key.nbytes)]):
        subject.forward()
    return sum(sizes)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of maps (head, query, key), nats, mean over queries, in float64."""
    parts = [-torch.xlogy(some.double(), some.double()).sum(-1).sum(-1) for some in probabilities.split(512, 1)]
    return sum(parts, torch.zeros(())) / probabilities.shape[1]


def image_queries(subject: Subject, kind: str, queries: int) -> slice:
    return slice(*subject.ranges.image) if kind == "joint" and subject.ranges else slice(0, queries)


def axes_of(subject: Subject, passes: int) -> dict[str, Any]:
    return {"sample": list(range(subject.batch)), "timestep": list(range(passes))}


def surveyed(subject: Subject, *observers: Any) -> list[SiteLayout]:
    """Return the layout of every site, from one forward that `observers` see too."""
    sites: list[SiteLayout] = []

    def observe(call: AttentionCall) -> None:
        site, queries, keys = call.site, call.query.shape[2], call.key.shape[2]
        ranges = subject.ranges if site.kind == "joint" else None
        side = math.isqrt(queries if ranges is None else count(ranges.of_image("query")))
        heads = tuple(str(HeadId(site.name, head)) for head in range(site.heads))
        sites.append(
            SiteLayout(
                site.name,
                site.kind,
                heads,
                queries,
                keys,
                channels=call.value.shape[3],
                components=call.query.shape[3],
                grid=(side, side),
                ranges=ranges,
            )
        )

    with AttentionTap(subject.model, [observe, *observers]):
        subject.forward()
    return sites


def _stored(subject: Subject, what: str) -> Prepared:
    first = FirstChunks()
    sites = surveyed(subject, first)
    compression = choose_codecs(first.samples)
    first.samples.clear()

    def run(folder: Path, passes: int) -> None:
        axes = axes_of(subject, passes)
        kept = {(site.name, what): Kept(axes["sample"], axes["timestep"]) for site in sites}
        with building_store(folder / STORE) as directory, archiving(directory) as store:
            arrays = lay_out(store, sites, axes, kept=kept, compression=compression, attrs={})
            with writing() as write:
                keeper = PassKeeper(arrays, kept, axes["timestep"], write)
                with AttentionTap(subject.model, [keeper]):
                    for keeper.column in range(passes):
                        subject.forward()

    def entropies(folder: Path) -> dict[str, Tensor]:
        tree, found = open_attention(folder / STORE), {}
        for site in sites:
            chosen = tree[site.name]["maps"].isel(kept_sample=0, timestep=0, head=slice(CHECKED_HEADS))
            rows = image_queries(subject, site.kind, site.queries)
            found[site.name] = entropy(torch.from_numpy(chosen.values)[:, rows])
        return found

    return Prepared(run, entropies)


def _saved(subject: Subject) -> Callable[[Path], dict[str, Tensor]]:
    """Return what reads the entropies of a list of maps, one per site in the order of the network."""

    def entropies(folder: Path) -> dict[str, Tensor]:
        sites, found = find_sites(subject.model), {}
        for site, probabilities in zip(sites, torch.load(folder / SAVED, mmap=True), strict=True):
            chosen = probabilities[0, :CHECKED_HEADS]
            found[site.name] = entropy(chosen[:, image_queries(subject, site.kind, chosen.shape[1])])
        return found

    return entropies
