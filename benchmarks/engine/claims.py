"""What the engine promises, held against one run of the table."""

from collections.abc import Mapping

from measuring import PLAIN, WITHOUT_MAPS, Alone, Times, extra_memory
from rows import Row


def claims(
    row: Row, tokens: int, times: Mapping[str, Times], alone: Mapping[str, Alone]
) -> list[tuple[str, str, bool]]:
    """Return (claim, what was measured, whether it holds) for one row; only claims that are made of such a row."""
    found = []
    if row.tokens == 256:
        value = _to_plain(times, "our statistics")
        found.append(("statistics take at most 1.25 x the plain forward", f"{value:.2f} x", value <= 1.25))
        maps, factors = (_bytes(alone[name], ".self/") for name in ("our maps", "our factors"))
        value = maps / factors
        claim = "factors of self-attention are at least 4 x smaller on disk than float16 maps"
        found.append((claim, f"{value:.1f} x", value >= 4))
    if row.tokens == 4096:
        for naive in ("naive", "naive statistics"):
            found.append(_faster(times, "our statistics", "statistics are", naive, 4))
        added = extra_memory(alone, "our statistics") / extra_memory(alone, "naive")
        claim = "statistics take at most 1/20 of the naive way's extra memory"
        found.append((claim, f"1/{1 / added:.0f}" if added > 0 else "none at all", added <= 1 / 20))
        for name in WITHOUT_MAPS:
            largest = alone[name].largest or 0
            measured = f"largest tensor of the pass {largest / 1e6:.1f} M elements, a map {tokens**2 / 1e6:.1f} M"
            found.append((f"{name.removeprefix('our ')} never make an N x N array", measured, largest < tokens**2))
    return [*found, _faster(times, "our maps", "maps with their writing are", "naive", 2)]


def _faster(times: Mapping[str, Times], ours: str, are: str, naive: str, least: float) -> tuple[str, str, bool]:
    fast, slow = _to_plain(times, ours), _to_plain(times, naive)
    measured = f"{slow / fast:.2f} x; beyond the plain forward {(slow - 1) / max(fast - 1, 1e-9):.1f} x"
    if slow < least:
        measured += f" ({naive} is {slow:.2f} plain forwards in all, so nothing can be)"
    return f"{are} at least {least} x faster than {naive}", measured, slow / fast >= least


def _to_plain(times: Mapping[str, Times], name: str) -> float:
    """Return how many plain forwards a way takes."""
    return times[name].fastest / times[PLAIN].fastest


def _bytes(found: Alone, kind: str) -> int:
    kept = ("maps", "query_factor", "key_factor", "factor_scale")
    return sum(size for array, size in found.parts.items() if kind in array and array.endswith(kept))
