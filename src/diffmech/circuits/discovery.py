"""Circuit discovery: which heads carry what attention contributes to denoising one domain, and how surely.

The images are split in half by id. The discovery half ranks the heads and chooses the circuit, the smallest set on the
path of the search whose faithfulness reaches the target. Everything that is reported of it is measured on the test
half, which had no say: faithfulness; completeness, the faithfulness of all heads but the circuit, near 0 where the
circuit is all there is; minimality, by how much faithfulness drops when a head alone is taken out; random circuits of
the same size; and the paths between its heads. Where no heads at all is not worse than all heads, by more than heads of
random weights could do, nothing is there to be explained and no circuit is named: that is the finding.

Faithfulness, completeness and minimality: Wang et al. 2023; their form for a denoising loss, the held-out half and the
random circuits per kind of attention are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffmech.artifacts import write_csv, write_json
from diffmech.attention.sites import HeadId
from diffmech.batches import in_smaller_batches
from diffmech.circuits.controls import possible_circuits, random_circuits
from diffmech.circuits.edges import EDGE_COLUMNS, circuit_edges
from diffmech.circuits.faithfulness import (
    contribution_interval,
    drops,
    faithfulness_interval,
    mean_faithfulness,
    needless,
)
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.ranking import rank_heads
from diffmech.circuits.search import Found, find_circuit
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.circuit import CircuitConfig, DiscoveryConfig
from diffmech.errors import DataError
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.interventions.memory_format import channels_last
from diffmech.interventions.reference import open_reference, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.targets import Heads
from diffmech.models.load import load_denoiser
from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.permutation import permutation_p

HEAD_COLUMNS = ["head", "site", "kind", "rank", "effect", "in_circuit", "timestep", "drop", "low", "high", "needed"]
CURVE_COLUMNS = [
    *["size", "circuit", "faithfulness", "low", "high", "random_mean", "random_low", "random_high", "random_circuits"]
]
ALL = "all"
NOTHING: Heads = frozenset()


@dataclass(frozen=True)
class CircuitTables:
    """What discovery finds: a summary that JSON can hold, and the tables of heads, curve and edges."""

    summary: dict[str, Any]
    heads: pd.DataFrame
    curve: pd.DataFrame
    edges: pd.DataFrame


@in_smaller_batches
def discover_circuit(
    latents: Sequence[Path | str],
    model_json: Path | str,
    reference: Sequence[Path | str],
    ablations: Sequence[Path | str],
    outputs: dict[str, Path | str],
    *,
    domain: str,
    discovery: DiscoveryConfig,
    circuit: CircuitConfig,
    method: str,
    samples: int,
    timesteps: Sequence[int],
    seed: int,
    runtime: RuntimeConfig,
) -> None:
    """Find the circuit of one domain and write `outputs`: summary (JSON), heads, curve, edges (CSV).

    `latents` are the domain's, `ablations` its stores of single heads, which are only read for the ranking "exact".
    `method` is what replaces heads that are not kept. Raises DataError for fewer than two images, ConfigError or
    StoreError as its parts do.
    """
    denoiser, references = load_denoiser(Path(model_json), device=runtime.device), open_reference(reference)
    files = open_latent_files(latents)
    sites = tapped_sites(denoiser, files)
    ids = files.samples[:samples]
    if len(ids) < 2:
        raise DataError(
            f"discovery.samples: the latents of {domain} hold {len(ids)} images; one half chooses a circuit, the other "
            "tests it, so give at least 4"
        )
    first, second = (
        KeptHeads(
            denoiser,
            sites,
            files,
            references,
            samples=half,
            timesteps=sorted(files.nearest(timesteps)),
            method=method,
            seed=seed,
            runtime=runtime,
        )
        for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :])
    )
    ranking = rank_heads(first, ablations, ranking=discovery.ranking, circuit=circuit, seed=seed)
    with channels_last(denoiser.module):
        tables = find_and_test(first, second, ranking, discovery=discovery, seed=seed)
    summary = {
        "domain": domain,
        "method": method,
        "measure": OUTPUT_SHIFT if files.on_trajectory else DENOISING_LOSS,
        **tables.summary,
    }
    write_json(outputs["summary"], summary)
    for name in ("heads", "curve", "edges"):
        write_csv(outputs[name], getattr(tables, name))


def find_and_test(
    chosen_on: KeptHeads, tested_on: KeptHeads, ranking: dict[HeadId, float], *, discovery: DiscoveryConfig, seed: int
) -> CircuitTables:
    """Return the circuit found on one half of the images, tested on the other.

    `ranking` holds the effect of every head. Heads have one row "all" each, with their rank and whether they are in the
    circuit, and those of the circuit one row per timestep: by how much F drops without them, and whether that is surely
    above 0.
    """
    test = _Test(tested_on, discovery, seed)
    base = {name: half.losses([NOTHING, half.everything]) for name, half in (("a", chosen_on), ("b", tested_on))}
    nothing, everything = (np.concatenate([base["a"][row], base["b"][row]]).mean(axis=1) for row in (0, 1))
    contributed = contribution_interval(nothing, everything, **test.bootstrap)
    order = sorted(ranking, key=lambda head: -ranking[head])
    common = {
        "target": discovery.faithfulness,
        "search": discovery.search,
        "ranking": discovery.ranking,
        "heads": len(order),
        "contribution_percent": _plain(contributed),
        "least_contribution_percent": discovery.contribution,
        "discovery_samples": chosen_on.samples,
        "test_samples": tested_on.samples,
        "timesteps": tested_on.timesteps,
    }
    if reason := _no_circuit(base["a"], base["b"], contributed, discovery.contribution):
        return CircuitTables(
            {**common, "found": False, "reason": reason, "circuit": [], "size": 0},
            _head_table(test, ranking, order, None, None),
            pd.DataFrame(columns=CURVE_COLUMNS),
            pd.DataFrame(columns=EDGE_COLUMNS),
        )

    def judge(sets: Sequence[Heads]) -> np.ndarray:
        return mean_faithfulness(chosen_on.losses(sets), *base["a"])

    found = find_circuit(judge, order, target=discovery.faithfulness, search=discovery.search)
    dropped = test.drops(found)
    interval = test.faithfulness([found.heads, tested_on.everything - found.heads])
    control = tested_on.first(discovery.control_samples or len(tested_on.samples))
    summary = {
        **common,
        "found": True,
        "reason": "",
        "circuit": [str(head) for head in found.circuit],
        "size": len(found.circuit),
        "faithfulness": _plain(interval, 0),
        "discovery_faithfulness": float(judge([found.heads])[0]),
        "completeness": _plain(interval, 1),
        "not_needed": [
            str(head) for head, idle in zip(found.circuit, needless(np.asarray(dropped.low)[:, 0]), strict=True) if idle
        ],
        "random": test.random(found, control),
    }
    heads, curve = _head_table(test, ranking, order, found, dropped), test.curve(found, control)
    edges = circuit_edges(tested_on, found.circuit[: discovery.graph_heads], discovery=discovery, seed=seed)
    return CircuitTables(summary, heads, curve, edges)


@dataclass(frozen=True)
class _Test:
    """What the test half says of a circuit."""

    kept: KeptHeads
    discovery: DiscoveryConfig
    seed: int

    @property
    def bootstrap(self) -> dict[str, Any]:
        return {"draws": self.discovery.draws, "confidence": self.discovery.confidence, "seed": self.seed}

    def faithfulness(self, sets: Sequence[Heads]) -> Interval:
        nothing, everything, *losses = self.kept.losses([NOTHING, self.kept.everything, *sets]).mean(axis=2)
        return faithfulness_interval(np.stack(losses), nothing, everything, **self.bootstrap)

    def drops(self, found: Found) -> Interval:
        """Return the drop of F (head, 1 + timestep) without each head of the circuit."""
        without = [found.heads - {head} for head in found.circuit]
        nothing, everything, circuit, *lost = self.kept.losses([NOTHING, self.kept.everything, found.heads, *without])
        return drops(np.stack(lost), circuit, nothing, everything, **self.bootstrap)

    def random(self, found: Found, control: KeptHeads) -> dict[str, Any]:
        """Return how random circuits of the same size do on the images of `control`, beside the circuit there."""
        count = min(self.discovery.random_circuits, possible_circuits(found.heads, self.kept.sites))
        if not count:
            return {"count": 0}
        drawn = random_circuits(found.heads, self.kept.sites, count=count, seed=self.seed)
        own, *others = _faithfulness(control, [found.heads, *drawn])
        null = np.array(others)
        return {
            "count": count,
            "samples": len(control.samples),
            "faithfulness_of_circuit": float(own),
            "mean": float(null.mean()),
            **self._range(null),
            "percentile": float(100 * ((null < own).mean() + 0.5 * (null == own).mean())),
            "p": float(permutation_p(own, null)),
        }

    def curve(self, found: Found, control: KeptHeads) -> pd.DataFrame:
        """Return F (CURVE_COLUMNS) of the first heads of the circuit's order, and of random sets like them."""
        size, total = len(found.circuit), len(found.order)
        doubling = [2**k for k in range(total.bit_length()) if 2**k < total]
        sizes = sorted({0, *doubling, size, max(1, size // 2), min(total, 2 * size), total})
        prefixes = [frozenset(found.order[:length]) for length in sizes]
        interval = self.faithfulness(prefixes)
        ends = (np.asarray(interval.estimate), np.asarray(interval.low), np.asarray(interval.high))
        rows = []
        for row, (length, prefix) in enumerate(zip(sizes, prefixes, strict=True)):
            wanted = self.discovery.random_circuits if length == size else 0
            if length != size and length in (size // 2, 2 * size):
                wanted = self.discovery.random_elsewhere
            count = min(wanted, possible_circuits(prefix, self.kept.sites))
            null = np.empty(0)
            if count:
                null = _faithfulness(control, random_circuits(prefix, self.kept.sites, count=count, seed=self.seed))
            spread = self._range(null) if count else {"low": np.nan, "high": np.nan}
            mean = null.mean() if count else np.nan
            values = [float(end[row]) for end in ends]
            rows.append([length, length == size, *values, mean, spread["low"], spread["high"], count])
        return pd.DataFrame(rows, columns=CURVE_COLUMNS)

    def _range(self, null: np.ndarray) -> dict[str, float]:
        tail = (1 - self.discovery.confidence) / 2
        low, high = np.quantile(null, [tail, 1 - tail])
        return {"low": float(low), "high": float(high)}


def _no_circuit(first: np.ndarray, second: np.ndarray, contributed: Interval, least: float) -> str:
    """Return why there is nothing to be explained, empty where there is; losses (nothing or everything, sample, t)."""
    if min(first.shape[1], second.shape[1]) < 2:
        return "too few images"
    if not contributed.estimate > 0 or any(losses[0].mean() <= losses[1].mean() for losses in (first, second)):
        return "heads do not help"
    return "" if contributed.low > least else "heads help too little"


def _faithfulness(kept: KeptHeads, sets: Sequence[Heads]) -> np.ndarray:
    nothing, everything, *losses = kept.losses([NOTHING, kept.everything, *sets], "random circuits")
    return mean_faithfulness(np.stack(losses), nothing, everything)


def _head_table(
    test: _Test, ranking: dict[HeadId, float], order: Sequence[HeadId], found: Found | None, dropped: Interval | None
) -> pd.DataFrame:
    kinds = {site.name: site.kind for site in test.kept.sites}
    circuit = list(found.circuit) if found else []
    rows = []
    for head in test.kept.heads:
        inside = head in circuit
        for column, timestep in enumerate([ALL, *map(str, test.kept.timesteps)]):
            values: list[Any] = [np.nan, np.nan, np.nan, False]
            if inside and dropped is not None:
                where = (circuit.index(head), column)
                ends = [float(np.asarray(end)[where]) for end in (dropped.estimate, dropped.low, dropped.high)]
                values = [*ends, ends[1] > 0]
            elif timestep != ALL:
                continue
            about = [str(head), head.site, kinds[head.site], order.index(head) + 1, ranking[head], inside]
            rows.append([*about, timestep, *values])
    return pd.DataFrame(rows, columns=HEAD_COLUMNS)


def _plain(interval: Interval, row: int | None = None) -> dict[str, float | None]:
    """Return an interval as JSON holds it: null where a number cannot be had."""
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    values = {name: float(end if row is None else np.asarray(end)[row]) for name, end in ends.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
