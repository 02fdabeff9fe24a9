"""What it costs to see attention on a GPU: the ways of `benchmarks/engine` on denoisers at full width, one pass each.

Here nothing goes to a disk. Maps and factors, of the first sample, are brought to the host chunk by chunk, as a capture
does it, and forgotten; naive maps stay in a list on the GPU until the pass has ended.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from clock import Timed, timed
from recording import Record, empty
from rows import Subject
from subjects import Case, subject
from torch import Tensor
from ways import CHECKED_HEADS, WAYS, Prepared, attention_bytes, axes_of, entropy, image_queries, surveyed
from ways import reference_entropies as exact_entropies

from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import lay_out
from diffmech.attention.keeping import PassKeeper, attention_factors, attention_maps
from diffmech.attention.layout import Kept
from diffmech.attention.tap import AttentionTap

PLAIN, STATISTICS, NNSIGHT = "plain forward", "our statistics", "nnsight"
# Larger maps than of so many queries are kept by nobody: one of 16,384 queries takes half a gigabyte.
MOST_QUERIES = 4096


def kept(what: str, subject: Subject) -> Prepared:
    """Maps or factors of the first sample through the keeper of a capture, forgotten once they are on the host."""
    sites = [site for site in surveyed(subject) if site.queries <= MOST_QUERIES or what == "factors"]
    folder = tempfile.TemporaryDirectory()
    passes = {(site.name, what): Kept([0], [0]) for site in sites}
    arrays = lay_out(Path(folder.name), sites, axes_of(subject, 1), kept=passes, attrs={})
    keeper = PassKeeper(arrays, passes, [0], lambda *given: None)
    found: dict[str, Tensor] = {}

    def look(call: AttentionCall) -> None:
        if (call.site.name, what) in passes:
            probabilities = _probabilities(what, call)
            rows = image_queries(subject, call.site.kind, probabilities.shape[1])
            found[call.site.name] = entropy(probabilities[:, rows]).cpu()

    def run(nowhere: Path, count: int) -> None:
        assert folder  # while this is called, the arrays are there
        with AttentionTap(subject.model, [keeper]):
            subject.forwards(count)

    def entropies(nowhere: Path) -> dict[str, Tensor]:
        with AttentionTap(subject.model, [look]):
            subject.forward()
        return found

    return Prepared(run, entropies)


def _probabilities(what: str, call: AttentionCall) -> Tensor:
    """Return the maps (head, query, key) of the first sample and the checked heads as what is kept gives them back."""
    heads = slice(CHECKED_HEADS)
    if what == "maps":
        return attention_maps(_some_heads(call, heads), slice(0, 1))[0]
    factors = {name: values[0, heads] for name, values in attention_factors(call, slice(0, 1)).items()}
    scores = factors["query_factor"].float() @ factors["key_factor"].float().mT
    return (scores * factors["factor_scale"][:, None, None]).softmax(-1)


def _some_heads(call: AttentionCall, heads: slice) -> AttentionCall:
    query, key, value, output = (z[:, heads] for z in (call.query, call.key, call.value, call.output))
    return AttentionCall(call.site, query, key, value, output, None, call.scale, call.attn_mask, call.is_causal)


TABLE = {
    PLAIN: WAYS[PLAIN],
    STATISTICS: WAYS[STATISTICS],
    "our factors": partial(kept, "factors"),
    "naive statistics": WAYS["naive statistics"],
    "naive": WAYS["naive"],
    "our maps": partial(kept, "maps"),
}


@dataclass(frozen=True)
class Reference:
    """What the ways of one case are compared with: the plain forward and the entropies of float64, once there."""

    plain: list[Timed]
    entropies: dict[str, Tensor]


def add_case(
    record: Record,
    case: Case,
    ways: list[str],
    *,
    device: str,
    small: bool,
    fastest: float | None,
    needs: float,
    before: Reference | None = None,
) -> Reference:
    """Write a row per way as long as `needs` seconds are left; `fastest` are bytes per second of a copy, both ways.

    Errors are of the first sample, which is the same in larger batches: they are looked at where it is alone. What ways
    are compared with is returned; it may be that of a call `before`.
    """
    reference = before or Reference([], {})
    plain, expected = reference.plain, reference.entropies
    dtype = torch.bfloat16

    def measured(way: str) -> dict[str, Any]:
        some = subject(case, device=device, dtype=dtype, small=small)
        with torch.no_grad():
            if not expected and case.batch == 1:
                expected.update(exact_entropies(some))
                empty()
            prepared = WAYS[way](some) if way == NNSIGHT else TABLE[way](some)
            found = timed(lambda: _forgetting(prepared), device, runs=5, seconds=0.1 if small else 0.5)
            if way == PLAIN:
                plain.append(found)
            ratio = found.median / plain[0].median if plain else math.nan
            row = {"ms": found.median, "least": found.least, "most": found.most, "runs": found.runs, "x_plain": ratio}
            row |= {"extra_MB": found.extra / 1e6 - (plain[0].extra / 1e6 if plain and way != PLAIN else 0)}
            if way == STATISTICS and fastest and plain and found.median > plain[0].median:
                seconds = (found.median - plain[0].median) / 1000
                row["bandwidth_share"] = attention_bytes(some) / seconds / fastest
            if expected and way != PLAIN:
                row["entropy_error"] = _error(prepared, expected)
            return row

    for way in ways:
        record.run("table", f"{case.name}: {way}", partial(measured, way), needs=needs)
    return reference


def _forgetting(prepared: Prepared) -> None:
    """Run one pass; what a way saves at its end is forgotten."""
    with patch.object(torch, "save", lambda *given: None):
        prepared.run(Path(), 1)


@contextmanager
def _in_memory() -> Iterator[None]:
    """Let what a way saves be read again without a file."""
    files: dict[Path, Any] = {}

    def save(found: Any, path: Path) -> None:
        files[path] = list(found)

    with patch.object(torch, "save", save), patch.object(torch, "load", lambda path, **options: files[path]):
        yield


def _error(prepared: Prepared, expected: dict[str, Tensor]) -> float:
    """Return the largest difference from the entropies of float64, in nats, over the first sample and some heads."""
    with _in_memory():
        prepared.run(Path(), 1)
        found = prepared.entropies(Path())
    differences = [(values.double().cpu() - expected[site].cpu()).abs().max() for site, values in found.items()]
    return float(torch.stack(differences).max())


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the rows of the table as text, those of one case together."""
    lines = [f"{'':76s}{'ms':>10s}{'x plain':>9s}{'extra MB':>10s}{'error':>9s}{'copy':>8s}"]
    table = [row for row in rows if row["step"] == "table"]
    order = list(dict.fromkeys(_case(row) for row in table))
    for row in sorted(table, key=lambda row: order.index(_case(row))):
        if "ms" not in row:
            lines.append(f"{row['name']:76s}  {row.get('failed') or 'skipped: ' + row.get('skipped', '')}"[:160])
            continue
        error, share = row.get("entropy_error"), row.get("bandwidth_share")
        cells = f"{row['ms']:10.2f}{row['x_plain']:9.2f}{row['extra_MB']:10.0f}"
        cells += f"{'' if error is None else f'{error:.0e}':>9s}{'' if share is None else f'{share:.1%}':>8s}"
        lines.append(f"{row['name']:76s}{cells}")
    return "\n".join(lines)


def _case(row: dict[str, Any]) -> str:
    return str(row["name"]).rpartition(": ")[0]
