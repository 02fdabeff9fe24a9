"""How samples and timesteps are cut into jobs, so that a study that grows keeps what it has.

Shards are fixed ranges of sample ids and blocks fixed ranges of timesteps: adding samples adds shards (or reruns the
last, partial one); adding a timestep reruns its block only. Names depend on the range, never on a position in a list.
"""

from collections.abc import Mapping


def shards(samples: int, size: int) -> dict[str, list[int]]:
    """Return the sample ids of each shard, by shard name; the last shard may be partial."""
    return {
        f"s{first:08d}-{first + size - 1:08d}": list(range(first, min(first + size, samples)))
        for first in range(0, samples, size)
    }


def batches(shards: Mapping[str, list[int]], size: int) -> dict[str, str]:
    """Return, by shard name, the name of the `size` neighbours that share a job on a cluster: fixed ranges as well."""
    width = size * max((len(ids) for ids in shards.values()), default=1)
    return {shard: f"b{ids[0] // width:05d}" for shard, ids in shards.items()}


def blocks(timesteps: list[int], span: int) -> dict[str, list[int]]:
    """Return the timesteps of each block, by block name; blocks without timesteps do not exist."""
    members: dict[str, list[int]] = {}
    for timestep in sorted(timesteps):
        first = timestep // span * span
        members.setdefault(f"t{first:04d}-{first + span - 1:04d}", []).append(timestep)
    return members
