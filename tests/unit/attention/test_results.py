"""Statistics of a chunk are handed over site by site, once each, when the last pass has come and not before."""

import numpy as np
import pytest
from numpy.typing import NDArray

from diffmech.attention.layout import SiteLayout
from diffmech.attention.results import ChunkResults, Key

SITES = ["down0.0.self", "mid.0.self", "up0.0.self"]
Found = dict[str, NDArray[np.floating]]


def layout(name: str) -> SiteLayout:
    heads = tuple(f"{name}.h{head:02d}" for head in range(2))
    return SiteLayout(name, "self", heads, queries=16, keys=16, channels=4, grid=(4, 4))


def found(site: SiteLayout, *passes: int, seed: int = 0) -> Found:
    rng = np.random.default_rng([SITES.index(site.name), seed])
    return {
        name: rng.random((*passes, *(site.sizes[dim] for dim in variable.dims))).astype(variable.dtype)
        for name, variable in site.variables.items()
    }


class Written(dict[Key, NDArray[np.floating]]):
    def take(self, key: Key, values: NDArray[np.floating]) -> None:
        assert key not in self
        self[key] = values

    def sites(self) -> list[str]:
        return list(dict.fromkeys(site for site, _ in self))


def test_a_batch_that_is_a_chunk_leaves_nothing_behind() -> None:
    layouts, written = [layout(name) for name in SITES], Written()
    results = ChunkResults(layouts, (slice(8, 14),), written.take)
    for count, site in enumerate(layouts, start=1):
        values = found(site, 6)
        results.fill((slice(8, 14),), site.name, values)
        assert written.sites() == SITES[:count]
        assert len(values) > 1
        for name, expected in values.items():
            np.testing.assert_array_equal(written[site.name, name], expected)
            assert written[site.name, name].dtype == expected.dtype
    results.fill((slice(8, 14),), "", {"loss": np.arange(6, dtype=np.float32)})
    np.testing.assert_array_equal(written["", "loss"], np.arange(6))


@pytest.mark.parametrize("cut", [9, 11, 13])
def test_a_site_waits_for_the_last_batch(cut: int) -> None:
    site, written = layout(SITES[0]), Written()
    results, values = ChunkResults([site], (slice(8, 14),), written.take), found(site, 6)
    for rows in (slice(cut, 14), slice(8, cut)):  # in any order
        assert not written
        results.fill((rows,), site.name, {n: v[rows.start - 8 : rows.stop - 8] for n, v in values.items()})
    for name, expected in values.items():
        np.testing.assert_array_equal(written[site.name, name], expected)


def test_a_pass_that_is_repeated_in_halves_hands_nothing_over_twice() -> None:
    layouts, written = [layout(name) for name in SITES], Written()
    results = ChunkResults(layouts, (slice(0, 4),), written.take)
    values = {site.name: found(site, 4) for site in layouts}
    results.fill((slice(0, 4),), SITES[0], values[SITES[0]])  # here memory ran out
    for rows in (slice(0, 2), slice(2, 4)):
        for name in SITES:
            results.fill((rows,), name, {key: array[rows] for key, array in values[name].items()})
        assert written.sites() == (SITES[:1] if rows.start == 0 else SITES)
    for name in SITES:
        for key, expected in values[name].items():
            np.testing.assert_array_equal(written[name, key], expected)


def test_a_batch_that_is_repeated_does_not_stand_for_one_that_is_missing() -> None:
    site, written = layout(SITES[0]), Written()
    results, values = ChunkResults([site], (slice(0, 4),), written.take), found(site, 2)
    results.fill((slice(0, 2),), site.name, values)
    results.fill((slice(0, 2),), site.name, values)
    assert not written
    results.fill((slice(2, 4),), site.name, values)
    assert written.sites() == SITES[:1]


def test_timesteps_of_a_chunk_stand_beside_each_other() -> None:
    site, written = layout(SITES[1]), Written()
    results = ChunkResults([site], (slice(2, 4), slice(5, 8)), written.take)
    columns = {column: found(site, 2, seed=column) for column in range(5, 8)}
    for column, values in columns.items():
        assert not written
        results.fill((slice(2, 4), column), site.name, values)
    assert set(written) == {(site.name, name) for name in columns[5]}
    for name, array in ((name, array) for (_, name), array in written.items()):
        np.testing.assert_array_equal(array, np.stack([columns[column][name] for column in range(5, 8)], axis=1))


def test_results_that_are_held_share_no_memory() -> None:
    layouts, every = [layout(name) for name in SITES], [Written() for _ in range(30)]
    for seed, written in enumerate(every):
        results = ChunkResults(layouts, (slice(0, 40),), written.take)
        for site in layouts:
            results.fill((slice(0, 40),), site.name, found(site, 40, seed=seed))
    for seed, written in enumerate(every):
        for site in layouts:
            for name, expected in found(site, 40, seed=seed).items():
                np.testing.assert_array_equal(written[site.name, name], expected)
