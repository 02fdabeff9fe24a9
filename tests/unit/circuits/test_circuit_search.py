"""The search of circuits, on networks of which only the worth of every set of heads is given, and on a planted one."""

from collections.abc import Sequence

import numpy as np
import pytest

from diffmech.attention.sites import HeadId
from diffmech.circuits.faithfulness import mean_faithfulness
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.search import Judge, find_circuit
from diffmech.errors import ConfigError
from diffmech.interventions.targets import Heads

HEADS = [HeadId("down1.0.self", head) for head in range(12)]


def adding(worth: dict[HeadId, float]) -> Judge:
    """A network in which each head brings its share."""
    return lambda sets: np.array([sum(worth.get(head, 0.0) for head in kept) for kept in sets])


def with_a_pair(sets: Sequence[Heads]) -> np.ndarray:
    """Head 0 brings 0.4, heads 10 and 11 bring the same 0.6: one of them is as good as both."""
    return np.array([0.4 * (HEADS[0] in kept) + 0.6 * bool(kept & {HEADS[10], HEADS[11]}) for kept in sets])


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_where_heads_add_up_the_circuit_is_the_fewest_that_reach_the_target(search: str) -> None:
    worth = dict(zip(HEADS, (0.4, 0.25, 0.15, 0.1, 0.06, 0.04), strict=False))
    for target, size in ((0.4, 1), (0.41, 2), (0.8, 3), (0.85, 4), (1.0, 6)):
        found = find_circuit(adding(worth), HEADS, target=target - 1e-9, search=search)  # type: ignore[arg-type]
        assert found.circuit == tuple(HEADS[:size])
        assert set(found.order) == set(HEADS)
        assert found.order[:size] == found.circuit


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_a_redundant_pair_is_never_lost_though_each_alone_ranks_last(search: str) -> None:
    # alone, each of the pair has the effect of a dead head, and the dead ones stand before it
    found = find_circuit(with_a_pair, HEADS, target=0.9, search=search)  # type: ignore[arg-type]
    assert len(found.circuit) == 2
    assert found.circuit[0] in HEADS[10:]
    assert found.circuit[1] == HEADS[0]


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_no_single_head_can_be_taken_out_of_the_circuit(search: str) -> None:
    source = np.random.default_rng(1)
    worth = dict(zip(HEADS, source.dirichlet(np.ones(12)), strict=True))
    wrong_order = [HEADS[index] for index in source.permutation(12)]
    found = find_circuit(adding(worth), wrong_order, target=0.7, search=search)  # type: ignore[arg-type]
    judge = adding(worth)
    assert judge([found.heads])[0] >= 0.7
    assert (judge([found.heads - {head} for head in found.circuit]) < 0.7).all()


def test_harmful_heads_are_left_out() -> None:
    worth = {HEADS[0]: 0.8, HEADS[1]: 0.5, HEADS[2]: -0.3}
    for search in ("ranked", "greedy"):
        found = find_circuit(adding(worth), HEADS, target=1.0, search=search)  # type: ignore[arg-type]
        assert found.heads == {HEADS[0], HEADS[1]}


@pytest.mark.parametrize("target", [0.0, -0.5, 1.5, float("nan")])
def test_a_target_outside_0_to_1_is_refused(target: float) -> None:
    with pytest.raises(ConfigError, match=r"^discovery\.faithfulness: .* is not above 0 and at most 1; give a share"):
        find_circuit(adding({}), HEADS, target=target, search="ranked")


@pytest.mark.unchecked
def test_an_unknown_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected ranked or greedy"):
        find_circuit(adding({}), HEADS, target=0.5, search="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("search", ["ranked", "greedy"])
def test_a_planted_circuit_is_found_head_by_head(planted, halves, ranking, search: str) -> None:
    kept: KeptHeads = halves[0]
    nothing, everything = kept.losses([frozenset(), kept.everything])
    dead, pair = planted.named("dead_local", "dead_sink"), planted.named("pair_first", "pair_second")
    causal = kept.everything - {*dead, *pair}

    def judge(sets: Sequence[Heads]) -> np.ndarray:
        return mean_faithfulness(kept.losses(sets), nothing, everything)

    found = find_circuit(judge, list(ranking), target=0.9995, search=search)  # type: ignore[arg-type]
    assert causal <= found.heads
    assert not found.heads & set(dead)
    assert found.heads & set(pair)
    assert set(list(ranking)[-4:]) & set(pair)  # the ranking alone would have lost one of them among the dead
