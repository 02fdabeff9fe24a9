"""Random circuits: as many heads of each kind as the circuit, never the circuit, each once."""

from collections import Counter

import pytest

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.circuits.controls import possible_circuits, random_circuits
from diffmech.errors import ConfigError

SITES = [
    AttentionSite(name, name, kind, 4)
    for name, kind in (("down1.0.self", "self"), ("down1.0.cross", "cross"), ("up1.0.self", "self"))
]
CIRCUIT = frozenset({HeadId("down1.0.self", 0), HeadId("up1.0.self", 3), HeadId("down1.0.cross", 1)})


def test_random_circuits_have_the_size_of_the_circuit_in_each_kind_of_attention() -> None:
    kinds = {site.name: site.kind for site in SITES}
    drawn = random_circuits(CIRCUIT, SITES, count=40, seed=0)
    assert len(set(drawn)) == 40
    assert CIRCUIT not in drawn
    assert all(Counter(kinds[head.site] for head in each) == {"self": 2, "cross": 1} for each in drawn)


def test_they_depend_on_the_seed_and_on_nothing_else() -> None:
    assert random_circuits(CIRCUIT, SITES, count=20, seed=1) == random_circuits(CIRCUIT, SITES, count=20, seed=1)
    assert random_circuits(CIRCUIT, SITES, count=20, seed=1) != random_circuits(CIRCUIT, SITES, count=20, seed=2)


def test_all_that_exist_can_be_drawn_and_more_are_refused() -> None:
    assert possible_circuits(CIRCUIT, SITES) == 28 * 4 - 1
    assert len(set(random_circuits(CIRCUIT, SITES, count=111, seed=0))) == 111
    with pytest.raises(ConfigError, match="112 random circuits are asked for, but only 111 other sets"):
        random_circuits(CIRCUIT, SITES, count=112, seed=0)
    whole = frozenset(HeadId(site.name, head) for site in SITES for head in range(4))
    assert possible_circuits(whole, SITES) == 0
