"""Invented circuits with known values: six of 48 heads carry 91 %, or there is none."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffmech.artifacts import write_json
from diffmech.circuits.curves import curve_sizes
from diffmech.circuits.tables import CURVE, EDGES, HEADS, SUBSETS

SITES = [f"{stage}.{kind}" for stage in ("down1.0", "up1.0", "up1.1") for kind in ("self", "cross")]
CIRCUIT = [
    "up1.1.self.h02",
    "up1.0.cross.h03",
    "up1.0.self.h01",
    "down1.0.cross.h04",
    "up1.1.cross.h00",
    "up1.0.self.h05",
]


def write_circuits(folder: Path, domains: Sequence[str], *, found: bool) -> dict[str, str]:
    """Write the circuit of every domain and return the paths of their summaries."""
    paths = {}
    for domain in domains:
        place = folder / domain
        paths[domain] = str(place / "circuit.json")
        write_json(Path(paths[domain]), summary(domain, found))
        HEADS.write(place / "heads.csv", heads(found))
        CURVE.write(place / "curve.csv", curve() if found else CURVE.frame())
        SUBSETS.write(place / "subsets.csv", subsets() if found else SUBSETS.frame())
        EDGES.write(place / "edges.csv", edges() if found else EDGES.frame())
    return paths


def summary(domain: str, found: bool) -> dict[str, object]:
    """Return a summary; the heads help by 30 %, or by nothing."""
    contribution = (
        {"estimate": 30.0, "low": 25.0, "high": 36.0} if found else {"estimate": 0.2, "low": 0.1, "high": 0.3}
    )
    common = {
        "domain": domain,
        "method": "mean",
        "measure": "denoising loss",
        "target": 0.9,
        "search": "ranked",
        "ranking": "exact",
        "heads": 48,
        "contribution_percent": contribution,
        "least_contribution_percent": 5.0,
        "discovery_samples": list(range(8)),
        "test_samples": list(range(8, 16)),
        "timesteps": [20, 420],
    }
    if not found:
        return {**common, "chosen": False, "reason": "heads help too little", "circuit": [], "size": 0}
    return {
        **common,
        "chosen": True,
        "reason": "",
        "circuit": CIRCUIT,
        "size": len(CIRCUIT),
        "discovery_faithfulness": 0.93,
        "not_needed": CIRCUIT[-1:],
        "samples": 8,
        "bounded": True,
        "target_is": "cannot be told",
        "faithfulness": share(0.91, 0.05),
        "completeness": share(0.2, 0.1),
        "beyond_complement": share(0.71, 0.1),
        "p_complement": 2 / 256,
        "smallest_p_complement": 2 / 256,
        "error_complement": 0.04,
        "random": {
            "count": 100,
            "mean": 0.34,
            "low": 0.1,
            "high": 0.6,
            "sd": 0.12,
            "percentile": 100.0,
            "p": 1 / 101,
            "smallest_p": 1 / 101,
            "shared": 0.125,
        },
        "subsets": {
            "random": 6,
            "greedy": 2,
            "mean": share(0.15, 0.05),
            "worst": {**share(0.3, 0.1), "how": "greedy", "removed": CIRCUIT[:2]},
            "orders": 3,
            "not_minimal": CIRCUIT[-1:],
        },
        "areas": {
            "exact": {"cpr": share(0.8, 0.1), "cmd": share(0.2, 0.1), "beyond_chance": share(0.15, 0.05)},
            "attribution": {"cpr": share(0.85, 0.1), "cmd": share(0.16, 0.1), "beyond_chance": share(0.2, 0.05)},
            "chance": {"cpr": share(0.65, 0.1), "cmd": share(0.35, 0.1), "orders": 5},
        },
    }


def share(value: float, half: float) -> dict[str, float]:
    """Return a share with its interval."""
    return {"estimate": value, "low": value - half, "high": value + half}


def heads(found: bool) -> pd.DataFrame:
    """Return the heads; each of the circuit is worth 4 % less than the one before, the last one nothing."""
    rows = []
    names = [f"{site}.h{head:02d}" for site in SITES for head in range(8)]
    for rank, head in enumerate(names, 1):
        site = head.rpartition(".")[0]
        inside = found and head in CIRCUIT
        for timestep in ("all", "20", "420") if inside else ("all",):
            drop = 0.2 - 0.04 * CIRCUIT.index(head) if inside else None
            ends = [drop, drop - 0.03, drop + 0.03, 0.01, drop > 0.03] if drop is not None else [None] * 4 + [False]
            worth = [drop + 0.02, drop - 0.01, drop + 0.05, CIRCUIT[0]] if drop is not None else [None] * 4
            worth = worth if timestep == "all" else [None] * 4
            rows.append([head, site, site.rpartition(".")[2], rank, 0.01, inside, timestep, *ends, *worth])
    return HEADS.frame(rows)


def curve() -> pd.DataFrame:
    """Return the share by size for three rankings, the circuit and random sets of its size."""
    rows = [
        [ranking, size, (size / 48) ** power, (size / 48) ** (1.2 * power), (size / 48) ** (0.8 * power), drawn]
        for ranking, power, drawn in (("exact", 0.3, 0), ("attribution", 0.25, 0), ("chance", 0.7, 5))
        for size in curve_sizes(48)
    ]
    rows += [["circuit", 6, 0.91, 0.86, 0.96, 0], ["random circuits", 6, 0.34, 0.1, 0.6, 100]]
    return CURVE.frame(rows)


def subsets() -> pd.DataFrame:
    """Return one subset of each way in which they are chosen."""
    rows = [
        ["whole", 6, " ".join(CIRCUIT), 0.0, 0.2, 0.2, 0.1, 0.3],
        ["greedy", 2, " ".join(CIRCUIT[:2]), 0.4, 0.7, 0.3, 0.2, 0.4],
        ["random", 3, " ".join(CIRCUIT[1:4]), 0.5, 0.65, 0.15, 0.1, 0.2],
    ]
    return SUBSETS.frame(rows)


def edges() -> pd.DataFrame:
    """Return the paths between the first three heads: one that helps, one that hurts, one that is nothing."""
    first, second, third = CIRCUIT[:3]
    rows = [
        [second, first, "edge", 0.8, 0.5, 1.1, 0.0005, 0.003, True, 8],
        [third, second, "edge", -0.4, -0.6, -0.2, 0.0005, 0.003, True, 8],
        [third, first, "edge", 0.1, -0.1, 0.3, 0.03, 0.09, False, 8],
    ]
    for sender, direct, mediated in ((first, 7.0, 0.0), (second, 5.0, 0.8), (third, 1.0, -0.3)):
        rows.append([sender, "output", "direct", direct, direct - 1, direct + 1, 0.0005, 0.003, True, 8])
        for path, value in (("total", direct + mediated + 0.5), ("mediated", mediated), ("residual", 0.5)):
            rows.append([sender, "output", path, value, value - 0.2, value + 0.2, None, None, False, 8])
    return EDGES.frame(rows)
