"""Circuit discovery: which heads carry what attention contributes to denoising one domain, and how surely.

The images are split in half by id; where it is known which belong together, no group of them is divided, and groups
take the place of images in everything that is measured. The discovery half ranks the heads and chooses the circuit, the
smallest set on the path of the search whose faithfulness reaches the target. Everything that is reported of it is
measured on the test half, which had no say: what the verdict weighs (`verdict`); by how much faithfulness drops when a
head alone is taken out; completeness and minimality over subsets (`subsets`); faithfulness by the number of heads kept,
for several rankings (`curves`); and the paths between its heads. Where no heads at all is not worse than all heads, by
more than heads of random weights could do, nothing is there to be explained and no circuit is named: that is the
finding.

Faithfulness, completeness and minimality: Wang et al. 2023; their form for a denoising loss, the held-out half and the
random circuits per kind of attention are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffmech.artifacts import write_json
from diffmech.attention.sites import HeadId
from diffmech.batches import in_smaller_batches
from diffmech.circuits.controls import overlap, possible_circuits, random_circuits
from diffmech.circuits.curves import (
    CIRCUIT,
    RANDOM,
    chance_orders,
    curve_sizes,
    curve_tables,
    prefixes,
)
from diffmech.circuits.edges import circuit_edges
from diffmech.circuits.faithfulness import (
    contribution_interval,
    drops,
    faithfulness_interval,
    mean_faithfulness,
    surely_needed,
)
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.ranking import rank_heads
from diffmech.circuits.search import Found, find_circuit
from diffmech.circuits.subsets import MINIMALITY_COLUMNS, over_subsets
from diffmech.circuits.tables import CURVE, EDGES, HEADS, SUBSETS
from diffmech.circuits.verdict import plain_interval, weigh_circuit, why_no_circuit
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.circuit import CircuitConfig, DiscoveryConfig
from diffmech.data.groups import GroupTables, groups_of
from diffmech.errors import DataError
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.interventions.reference import open_reference, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.targets import Heads
from diffmech.models.load import load_denoiser
from diffmech.models.memory_format import channels_last
from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.units import halves
from diffmech.tables import ALL

TABLES = {"heads": HEADS, "curve": CURVE, "subsets": SUBSETS, "edges": EDGES}
NOTHING: Heads = frozenset()


@dataclass(frozen=True)
class CircuitTables:
    """What discovery finds: a summary that JSON can hold, and the tables of heads, curves, subsets and edges."""

    summary: dict[str, Any]
    heads: pd.DataFrame
    curve: pd.DataFrame
    subsets: pd.DataFrame
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
    groups: GroupTables | None = None,
) -> None:
    """Find the circuit of one domain and write `outputs`: summary (JSON), and TABLES (CSV).

    `latents` are the domain's, `ablations` its stores of single heads, which are only read for the ranking "exact".
    Beside the ranking that the search takes, attribution ranks the heads for a curve of its own.
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
    known = groups_of(groups or {}, domain, ids)
    first, second = (
        KeptHeads(
            denoiser,
            sites,
            files,
            references,
            samples=[ids[place] for place in half],
            groups=None if known is None else known[half],
            timesteps=sorted(files.nearest(timesteps)),
            method=method,
            seed=seed,
            runtime=runtime,
        )
        for half in halves(len(ids), known)
    )
    rankings: dict[str, Mapping[HeadId, float]] = {
        name: rank_heads(first, ablations, ranking=name, circuit=circuit, seed=seed)
        for name in dict.fromkeys((str(discovery.ranking), "attribution"))
    }
    with channels_last(denoiser.module):
        tables = find_and_test(first, second, rankings, discovery=discovery, seed=seed)
    summary = {
        "domain": domain,
        "method": method,
        "measure": OUTPUT_SHIFT if files.on_trajectory else DENOISING_LOSS,
        **tables.summary,
    }
    write_json(outputs["summary"], summary)
    for name, table in TABLES.items():
        table.write(outputs[name], getattr(tables, name))


def find_and_test(
    chosen_on: KeptHeads,
    tested_on: KeptHeads,
    rankings: Mapping[str, Mapping[HeadId, float]],
    *,
    discovery: DiscoveryConfig,
    seed: int,
) -> CircuitTables:
    """Return the circuit found on one half of the images, tested on the other.

    `rankings` hold the effect of every head by the name of the ranking; the search takes `discovery.ranking`, all have
    a curve. Heads have one row "all" each, with their rank and whether they are in the circuit, and those of the
    circuit one row per timestep: by how much F drops without them, and whether surely. Raises DataError where the
    halves share an image.
    """
    if shared := sorted(set(chosen_on.samples) & set(tested_on.samples)):
        raise DataError(
            f"images {', '.join(map(str, shared[:5]))} are in both halves: they would choose the circuit that they "
            "test; give each half images of its own"
        )
    test = _Test(tested_on, discovery, seed)
    base = {name: half.losses([NOTHING, half.everything]) for name, half in (("a", chosen_on), ("b", tested_on))}
    nothing, everything = (np.concatenate([base["a"][row], base["b"][row]]).mean(axis=1) for row in (0, 1))
    contributed = contribution_interval(nothing, everything, confidence=discovery.confidence)
    ranking = rankings[discovery.ranking]
    order = sorted(ranking, key=lambda head: -ranking[head])
    common = {
        "target": discovery.faithfulness,
        "search": discovery.search,
        "ranking": discovery.ranking,
        "heads": len(order),
        "contribution_percent": plain_interval(contributed),
        "least_contribution_percent": discovery.contribution,
        "discovery_samples": chosen_on.samples,
        "test_samples": tested_on.samples,
        "discovery_units": chosen_on.units,
        "test_units": tested_on.units,
        "timesteps": tested_on.timesteps,
    }
    on_test = base["b"].mean(axis=2)
    helps = np.isfinite(faithfulness_interval(on_test[1:], *on_test, confidence=discovery.confidence).low).all()
    if reason := why_no_circuit(base["a"], base["b"], contributed, discovery.contribution, bool(helps)):
        return CircuitTables(
            {**common, "chosen": False, "reason": reason, "circuit": [], "size": 0},
            _head_table(test, ranking, order, None),
            *(table.frame() for table in (CURVE, SUBSETS, EDGES)),
        )

    def judge(sets: Sequence[Heads]) -> np.ndarray:
        return mean_faithfulness(chosen_on.losses(sets), *base["a"])

    found = find_circuit(judge, order, target=discovery.faithfulness, search=discovery.search)
    weighed = test.weigh(found)
    summary, subsets, minimality = over_subsets(chosen_on, tested_on, found.circuit, discovery=discovery, seed=seed)
    heads = _head_table(test, ranking, order, found, minimality)
    curve, sizes = test.curves(rankings)
    whole = heads[heads["in_circuit"] & (heads["timestep"] == ALL)].set_index("head")
    return CircuitTables(
        {
            **common,
            "chosen": True,
            "reason": "",
            "circuit": [str(head) for head in found.circuit],
            "size": len(found.circuit),
            "discovery_faithfulness": float(judge([found.heads])[0]),
            "not_needed": [str(head) for head in found.circuit if not whole.loc[str(head), "needed"]],
            **weighed,
            "subsets": summary,
            "areas": sizes,
        },
        heads,
        pd.concat([curve, _points(weighed, len(found.circuit))], ignore_index=True),
        subsets,
        circuit_edges(tested_on, found.circuit[: discovery.graph_heads], discovery=discovery, seed=seed),
    )


@dataclass(frozen=True)
class _Test:
    """What the test half says of a circuit."""

    kept: KeptHeads
    discovery: DiscoveryConfig
    seed: int

    def weigh(self, found: Found) -> dict[str, Any]:
        """Return what the verdict weighs; random circuits run on the images of the circuit itself, all of them."""
        count = min(self.discovery.random_circuits, possible_circuits(found.heads, self.kept.sites))
        drawn = random_circuits(found.heads, self.kept.sites, count=count, seed=self.seed)
        fixed = [NOTHING, self.kept.everything, found.heads, self.kept.everything - found.heads]
        weighed = weigh_circuit(
            self.kept.losses([*fixed, *drawn], "random circuits"),
            target=self.discovery.faithfulness,
            permutations=self.discovery.permutations,
            confidence=self.discovery.confidence,
            seed=self.seed,
        )
        weighed["random"]["shared"] = overlap(found.heads, drawn)
        return weighed

    def drops(self, found: Found) -> tuple[Interval, np.ndarray]:
        """Return the drop of F (head, 1 + timestep) without each head of the circuit, and its p-values."""
        without = [found.heads - {head} for head in found.circuit]
        nothing, everything, circuit, *lost = self.kept.losses([NOTHING, self.kept.everything, found.heads, *without])
        stacked = np.stack(lost)
        p = surely_needed(stacked, circuit, permutations=self.discovery.permutations, seed=self.seed)
        return drops(stacked, circuit, nothing, everything, confidence=self.discovery.confidence), p

    def curves(self, rankings: Mapping[str, Mapping[HeadId, float]]) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return F by the number of heads kept for every ranking and for chance (`circuit_curve`), and the areas."""
        orders = {name: sorted(effects, key=lambda head: -effects[head]) for name, effects in rankings.items()}
        chance = chance_orders(self.kept.heads, self.discovery.random_orders, self.seed)
        sets = [kept for order in (*orders.values(), *chance) for kept in prefixes(order)]
        nothing, everything, *losses = self.kept.losses([NOTHING, self.kept.everything, *sets], "curves").mean(axis=2)
        sizes = curve_sizes(len(self.kept.heads))
        by_order = np.reshape(losses, (-1, len(sizes), len(nothing)))
        return curve_tables(
            dict(zip(orders, by_order, strict=False)),
            by_order[len(orders) :],
            nothing,
            everything,
            sizes,
            confidence=self.discovery.confidence,
        )


def _points(weighed: dict[str, Any], size: int) -> pd.DataFrame:
    """Return the rows of the circuit and of random circuits, which are points beside the curves."""
    own, drawn = weighed["faithfulness"], weighed["random"]
    rows = [
        [CIRCUIT, size, own["estimate"], own["low"], own["high"], 0],
        [RANDOM, size, drawn["mean"], drawn["low"], drawn["high"], drawn["count"]],
    ]
    return CURVE.frame(rows)


def _head_table(
    test: _Test,
    ranking: Mapping[HeadId, float],
    order: Sequence[HeadId],
    found: Found | None,
    minimality: pd.DataFrame | None = None,
) -> pd.DataFrame:
    kinds = {site.name: site.kind for site in test.kept.sites}
    circuit = list(found.circuit) if found else []
    if found:
        dropped, p = test.drops(found)
        ends = [np.asarray(end) for end in (dropped.estimate, dropped.low, dropped.high)]
    rows = []
    for head in test.kept.heads:
        inside = head in circuit
        for column, timestep in enumerate([ALL, *map(str, test.kept.timesteps)]):
            values: list[Any] = [np.nan, np.nan, np.nan, np.nan, False]
            if inside:
                where = (circuit.index(head), column)
                sure = bool(ends[0][where] > 0 and p[where] <= test.discovery.alpha)
                values = [*(float(end[where]) for end in ends), float(p[where]), sure]
            elif timestep != ALL:
                continue
            about = [str(head), head.site, kinds[head.site], order.index(head) + 1, ranking[head], inside]
            rows.append([*about, timestep, *values])
    of_head = ["head", "site", "kind", "rank", "effect", "in_circuit"]
    of_timestep = ["timestep", "drop", "low", "high", "p_needed", "needed"]
    table = pd.DataFrame(rows, columns=[*of_head, *of_timestep])
    found_minimality = pd.DataFrame(columns=MINIMALITY_COLUMNS) if minimality is None else minimality
    table = table.merge(found_minimality.assign(timestep=ALL), how="left", on=["head", "timestep"])
    return HEADS.in_order(table)
