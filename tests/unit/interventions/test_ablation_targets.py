"""Matched controls are other heads of the same shape and size, and there are none where they would not be fair."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.targets import (
    EACH,
    HeadSpan,
    Target,
    layers,
    matched_controls,
    mechanisms,
    single_heads,
)

SITES = [
    AttentionSite(f"{stage}.{kind}", f"{stage}/{kind}", kind, 8)
    for stage in ("down1.0", "up1.0", "up1.1")
    for kind in ("self", "cross")
]
HEADS = [HeadId(site.name, head) for site in SITES for head in range(8)]
TIMESTEPS = (100, 500, 900)


def norms(spread: float = 1.0) -> dict[int, dict[HeadId, float]]:
    rng = np.random.default_rng(3)
    return {t: {head: float(np.exp(spread * rng.standard_normal())) for head in HEADS} for t in TIMESTEPS}


def always(name: str, *heads: str) -> Target:
    return Target(name, tuple(HeadSpan(HeadId.parse(head), 0, 1000) for head in heads))


def per_site(target: Target, timestep: int) -> Counter[str]:
    return Counter(head.site for head in target.heads_at(timestep))


def test_heads_and_layers_cover_the_model_once() -> None:
    assert [target.name for target in single_heads(SITES)] == [str(head) for head in HEADS]
    assert [target.name for target in layers(SITES)] == [site.name for site in SITES]
    assert sorted(head for target in layers(SITES) for head in target.heads()) == sorted(HEADS)


def log_ratio(control: Target, target: Target, table: dict[int, dict[HeadId, float]], layer: str = "") -> float:
    """Return by how much the ablation of a control moves more than that of its target, over all timesteps."""
    squares = [
        sum(table[t][head] ** 2 for t in TIMESTEPS for head in each.heads_at(t) if head.site.startswith(layer))
        for each in (control, target)
    ]
    return float(np.log(squares[0] / squares[1]) / 2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_controls_are_other_heads_as_many_per_layer(count: int) -> None:
    """Random sets of a layer of eight heads share a third of the heads of a target with three: these share none."""
    target = always("m", *(f"down1.0.self.h0{k}" for k in range(count)), "up1.0.cross.h02")
    found = matched_controls(target, SITES, norms(0.1), count=20, needed=19, seed=0)
    controls, balance = found.controls, found.balance
    assert {control.control_pool for control in controls} == {balance.pool} == {"site"}
    assert balance.fair
    assert len({control.heads_at(500) for control in controls}) == len(controls) == balance.sets >= 19
    assert balance.overlap == 0
    assert all(not control.heads() & target.heads() for control in controls)
    assert all(per_site(control, t) == per_site(target, t) for control in controls for t in TIMESTEPS)


def test_controls_lie_on_both_sides_of_the_size_of_their_target_layer_by_layer() -> None:
    target = always("m", "down1.0.self.h00", "down1.0.self.h05", "up1.0.self.h02", "up1.0.self.h03")
    table = norms(0.2)
    found = matched_controls(target, SITES, table, count=20, needed=19, seed=0)
    assert found.balance.pool == "site"
    ratios = [log_ratio(control, target, table) for control in found.controls]
    assert min(ratios) < 0 < max(ratios)
    assert abs(np.mean(ratios)) < np.log(1.1)
    # each timestep counts alike there
    assert found.balance.ratio == pytest.approx(np.exp(np.mean(ratios)), rel=0.02)
    by_layer = np.array([[log_ratio(c, target, table, site) for site in ("down1", "up1")] for c in found.controls])
    assert np.abs(by_layer).max() <= np.log(1.27)
    assert (np.abs(by_layer.mean(axis=0)) <= np.log(1.12)).all()
    ends = (np.exp(by_layer.min()), np.exp(by_layer.max()))
    assert (found.balance.low, found.balance.high) == pytest.approx(ends, rel=0.03)


def test_controls_match_in_every_domain_or_are_not_fair() -> None:
    """Pooled over domains they may match where they do in none: as large in one as they are small in the other."""
    target = always("m", "down1.0.self.h00", "down1.0.self.h05")
    flat = {t: dict.fromkeys(HEADS, 1.0) for t in TIMESTEPS}
    larger = {t: {head: 2.0 if head in target.heads() else 1.0 for head in HEADS} for t in TIMESTEPS}
    assert matched_controls(target, SITES, flat, count=20, needed=19, seed=0).balance.fair
    found = matched_controls(target, SITES, flat, larger, count=20, needed=19, seed=0)
    assert found.controls == []
    assert (found.balance.low, found.balance.high) == pytest.approx((0.5, 1.0))


def test_a_target_of_the_largest_heads_has_no_fair_control() -> None:
    """All other sets are smaller: no number stands for the comparison, and the balance says by how much."""
    table = {t: {head: 3.0 if head.head < 3 else 1.0 for head in HEADS} for t in TIMESTEPS}
    target = always("m", *(f"{site.name}.h0{k}" for site in SITES for k in range(3)))
    found = matched_controls(target, SITES, table, count=20, needed=19, seed=0)
    assert found.controls == []
    assert not found.balance.fair
    assert found.balance.high == pytest.approx(1 / 3)
    assert found.balance.sets == 20


def test_a_pool_is_left_for_a_wider_one_where_it_has_too_few_other_sets() -> None:
    flat = norms(0.05)
    for heads, pool in ((5, "kind"), (8, "kind")):
        target = always("m", *(f"down1.0.self.h{k:02d}" for k in range(heads)))
        found = matched_controls(target, SITES, flat, count=25, needed=19, seed=0)
        assert found.balance.pool == pool
        assert len({control.heads() for control in found.controls}) == 25
        assert all(head.site.endswith(".self") for control in found.controls for head in control.heads())
    two = {t: dict.fromkeys(HEADS[:16], 1.0) for t in TIMESTEPS}
    few = matched_controls(always("m", *(f"down1.0.self.h0{k}" for k in range(5))), SITES[:2], two, count=25, seed=0)
    assert few.balance.pool == "any"


def test_where_no_disjoint_set_exists_there_is_no_control() -> None:
    only = SITES[:1]
    table = {100: dict.fromkeys(HEADS[:8], 1.0)}
    found = matched_controls(layers(only)[0], only, table, count=20, seed=0)
    assert (found.controls, found.balance.sets, found.balance.pool, found.balance.fair) == ([], 0, "", False)


def test_controls_that_may_share_heads_are_all_other_sets_of_the_pool_alike() -> None:
    """Ten pairs of five heads, one of which is the target: the other nine, six of which hold one of its heads."""
    only = [AttentionSite("down1.0.self", "down1.0/self", "self", 5)]
    table = {100: dict.fromkeys(HEADS[:5], 1.0)}
    target = always("m", "down1.0.self.h00", "down1.0.self.h01")
    found = matched_controls(target, only, table, count=30, apart=False, seed=0)
    shared = Counter(len(control.heads_at(100) & target.heads_at(100)) for control in found.controls)
    assert shared == {1: 6, 0: 3}
    assert found.balance.overlap == pytest.approx(6 / 18)
    layer = matched_controls(layers(only)[0], only, table, count=20, apart=False, seed=0)
    assert layer.controls == []
    assert not layer.balance.fair


def test_controls_that_may_share_heads_share_as_many_as_chance_has_it_among_sets_of_their_size() -> None:
    """Those closest in size are the ones that keep the target's heads: they would share far more."""
    only = [AttentionSite("down1.0.self", "down1.0/self", "self", 12)]
    heads = [HeadId("down1.0.self", index) for index in range(12)]
    rng = np.random.default_rng(0)
    table = {100: dict(zip(heads, rng.uniform(0.8, 1.2, 12).tolist(), strict=True))}
    target = always("m", *(str(head) for head in heads[:3]))
    size = np.sqrt(sum(table[100][head] ** 2 for head in heads[:3]))
    alike = [
        len(frozenset(some) & target.heads())
        for some in combinations(heads, 3)
        if abs(np.log(np.sqrt(sum(table[100][head] ** 2 for head in some)) / size)) <= np.log(EACH)
        and frozenset(some) != target.heads()
    ]
    found = [matched_controls(target, only, table, count=19, apart=False, seed=seed).balance for seed in range(40)]
    assert all(balance.fair for balance in found)
    # 760 sets: a standard error of 0.008
    assert np.mean([balance.overlap for balance in found]) == pytest.approx(np.mean(alike) / 3, abs=0.03)


def test_too_few_sets_are_not_fair() -> None:
    only = SITES[:1]
    table = {100: dict.fromkeys(HEADS[:8], 1.0)}
    target = always("m", "down1.0.self.h00")
    assert len(matched_controls(target, only, table, count=20, needed=7, seed=0).controls) == 7
    assert matched_controls(target, only, table, count=20, needed=8, seed=0).controls == []


def test_controls_change_with_the_phase_as_their_target_does() -> None:
    """A head that stays is replaced by a head that stays, so that a control is no more of a mixture than its target."""
    early = [HeadSpan(HeadId("down1.0.self", h), 0, 499) for h in range(2)]
    late = [HeadSpan(HeadId("down1.0.self", h), 500, 1000) for h in range(1, 4)]
    target = Target("self-1", (*early, *late))
    found = matched_controls(target, SITES, norms(0.1), count=20, needed=19, seed=0)
    assert len(found.controls) == 20
    for control in found.controls:
        assert [len(control.heads_at(t)) for t in TIMESTEPS] == [2, 3, 3]
        assert control.heads_at(500) == control.heads_at(900)
        assert len(control.heads_at(100) & control.heads_at(500)) == 1


def test_controls_depend_on_seed_and_target_alone() -> None:
    target = always("m", "down1.0.self.h00", "up1.0.self.h02")
    table = norms(0.2)
    first = matched_controls(target, SITES, table, count=20, seed=0)
    assert first == matched_controls(target, SITES, table, count=20, seed=0)
    assert first.controls != matched_controls(target, SITES, table, count=20, seed=1).controls


def test_mechanisms_are_read_with_their_phases(tmp_path: Path) -> None:
    path = tmp_path / "heads.csv"
    rows = [
        ("down1.0.self.h00", 0, 499, "self-1"),
        ("down1.0.self.h00", 500, 999, "self-2"),
        ("up1.0.self.h03", 999, 500, "self-1"),
    ]
    pd.DataFrame(rows, columns=["head", "phase_first", "phase_last", "mechanism"]).to_csv(path, index=False)
    first, second = mechanisms(path, SITES)
    assert (first.name, second.name) == ("self-1", "self-2")
    assert [sorted(map(str, first.heads_at(t))) for t in (100, 900)] == [["down1.0.self.h00"], ["up1.0.self.h03"]]
    assert second.heads_at(100) == frozenset()


def test_a_table_of_another_model_is_an_error_with_the_nearest_heads(tmp_path: Path) -> None:
    path = tmp_path / "heads.csv"
    path.write_text("head,phase_first,phase_last,mechanism\ndown1.0.self.h12,0,999,self-1\n")
    with pytest.raises(ConfigError, match=r"down1\.0\.self\.h12.*nearest: down1\.0\.self\.h"):
        mechanisms(path, SITES)
    path.write_text("head,mechanism\ndown1.0.self.h01,self-1\n")
    with pytest.raises(StoreError, match="lacks the columns phase_first, phase_last; it has head, mechanism"):
        mechanisms(path, SITES)
    with pytest.raises(StoreError, match="cannot be read as a table"):
        mechanisms(tmp_path / "none.csv", SITES)
