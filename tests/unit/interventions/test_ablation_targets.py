"""Matched controls are distinct, of the same shape, close in norm, and widen only where they must."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.targets import (
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


def test_controls_have_the_heads_per_site_of_their_target_and_differ_from_it_and_each_other() -> None:
    target = always("m", "down1.0.self.h00", "down1.0.self.h05", "up1.0.cross.h02")
    controls = matched_controls(target, SITES, norms(), count=20, seed=0)
    sets = {control.heads_at(500) for control in controls}
    assert len(sets) == 20
    assert target.heads_at(500) not in sets
    assert {control.control_pool for control in controls} == {"site"}
    assert all(per_site(control, t) == per_site(target, t) for control in controls for t in TIMESTEPS)


def test_controls_are_closer_in_norm_than_random_sets() -> None:
    target = always("m", "down1.0.self.h00", "down1.0.self.h05", "up1.0.self.h02", "up1.0.self.h03")
    table = norms()

    def log_norm(heads: frozenset[HeadId]) -> float:
        return float(np.log(sum(table[t][head] ** 2 for t in TIMESTEPS for head in heads)) / 2)

    goal = log_norm(target.heads_at(100))
    controls = matched_controls(target, SITES, table, count=20, seed=0)
    matched = [abs(log_norm(control.heads_at(100)) - goal) for control in controls]
    rng = np.random.default_rng(0)
    random = []
    for _ in range(300):
        picks = [HeadId(site, head) for site in ("down1.0.self", "up1.0.self") for head in rng.permutation(8)[:2]]
        random.append(abs(log_norm(frozenset(picks)) - goal))
    assert np.mean(matched) < 0.3 * np.mean(random)


def test_a_whole_layer_is_compared_with_as_many_heads_of_its_kind() -> None:
    target = layers(SITES)[0]
    controls = matched_controls(target, SITES, norms(), count=25, seed=0)
    assert len({control.heads() for control in controls}) == 25
    for control in controls:
        assert control.control_pool == "kind"
        assert len(control.heads()) == 8
        assert all(head.site.endswith(".self") for head in control.heads())


def test_all_attention_is_the_pool_where_one_kind_has_too_few_sets() -> None:
    sites = SITES[:2]
    table = {t: dict.fromkeys(HEADS[:16], 1.0) for t in TIMESTEPS}
    controls = matched_controls(layers(sites)[0], sites, table, count=25, seed=0)
    assert {control.control_pool for control in controls} == {"any"}
    assert len({control.heads() for control in controls}) == 25


def test_where_no_other_set_exists_there_is_no_control() -> None:
    only = SITES[:1]
    table = {100: dict.fromkeys(HEADS[:8], 1.0)}
    assert matched_controls(layers(only)[0], only, table, count=20, seed=0) == []


def test_controls_change_with_the_phase_as_their_target_does() -> None:
    early = [HeadSpan(HeadId("down1.0.self", h), 0, 499) for h in range(3)]
    late = [HeadSpan(HeadId("up1.0.self", h), 500, 1000) for h in range(4)]
    target = Target("self-1", (*early, *late))
    for control in matched_controls(target, SITES, norms(), count=20, seed=0):
        assert [per_site(control, t) for t in TIMESTEPS] == [per_site(target, t) for t in TIMESTEPS]
        assert control.heads_at(500) == control.heads_at(900)


def test_controls_depend_on_seed_and_target_alone() -> None:
    target = always("m", "down1.0.self.h00", "up1.0.self.h02")
    first = matched_controls(target, SITES, norms(), count=20, seed=0)
    assert first == matched_controls(target, SITES, norms(), count=20, seed=0)
    assert first != matched_controls(target, SITES, norms(), count=20, seed=1)


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
