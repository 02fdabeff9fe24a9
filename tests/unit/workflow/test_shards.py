"""A study that grows keeps the jobs it has."""

from hypothesis import given
from hypothesis import strategies as st

from diffmech.workflow.shards import blocks, shards


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 200))
def test_more_samples_change_only_the_last_partial_shard(samples, size, more):
    before, after = shards(samples, size), shards(samples + more, size)
    changed = [name for name in before if after[name] != before[name]]
    assert changed in ([], [list(before)[-1]])
    assert [i for ids in after.values() for i in ids] == list(range(samples + more))


@given(st.sets(st.integers(0, 999), min_size=1, max_size=30), st.integers(0, 999), st.integers(1, 400))
def test_one_more_timestep_changes_its_block_only(timesteps, more, span):
    before, after = blocks(sorted(timesteps), span), blocks(sorted(timesteps | {more}), span)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == (set() if more in timesteps else {name for name, members in after.items() if more in members})


def test_blocks_without_timesteps_do_not_exist():
    assert blocks([20, 120, 620], 500) == {"t0000-0499": [20, 120], "t0500-0999": [620]}
