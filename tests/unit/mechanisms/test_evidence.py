"""Evidence: an untrained study is named as often as chance allows, and what could have been seen is told."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from diffmech.mechanisms.evidence import (
    Evidence,
    head_evidence,
    largest_excess,
    rank_among_heads,
    rank_among_twins,
    smallest_excess,
    smallest_order_p,
    weigh_evidence,
)
from diffmech.mechanisms.labels import UNASSIGNED, name_mechanisms

ALPHA = 0.05
PROBES = ("neighbourhood", "sink", "position", "edges", "part:eye")
MAPS = PROBES[3:]
DOMAINS, HEADS, TIMESTEPS, TWINS = ("real", "synthetic"), 6, (100, 500), 19


def sees_twice_the_level(studies: int, most: float) -> bool:
    """Return whether a false-positive rate of twice the level is seen in 95 % of simulations of so many studies."""
    return bool(stats.binom.cdf(most * studies, studies, 2 * ALPHA) < 0.05)


def untrained_excess(rng: np.random.Generator) -> np.ndarray:
    """Return the excess of an untrained study and its twins, (model, domain, head, probe).

    Models differ in what they prefer on the whole, heads within them too, and domains share half of it.
    """
    scale = 10.0 ** -np.arange(len(PROBES))
    of_models = rng.normal(size=(1 + TWINS, 1, 1, len(PROBES)))
    of_heads = rng.normal(size=(1 + TWINS, 1, HEADS, len(PROBES)))
    return scale * (1 + of_models + of_heads + rng.normal(size=(1 + TWINS, len(DOMAINS), HEADS, len(PROBES))))


def untrained_evidence(rng: np.random.Generator, *, twins_count: bool = True) -> Evidence:
    """Return the evidence for an untrained study of which each head is a mechanism: averages are beaten more easily.

    Every map beats its rolled and its dealt-out copies, so that nothing but the twins stands between it and a name.
    """
    excess = untrained_excess(rng)
    largest = excess.max(axis=(1, 2))
    every, probes = np.full(excess.shape[1:], np.nan), len(PROBES)
    every[..., 3:] = 1e-9
    p = rank_among_twins(excess[0], largest[0], largest[1:]) if twins_count else np.full(excess.shape[1:], 0.05)
    return Evidence(
        domains=DOMAINS,
        mechanisms=tuple(f"self-{index}" for index in range(HEADS)),
        probes=PROBES,
        ratio=1 + excess[0],
        excess=excess[0],
        p_rolled_holm=every,
        p_content_holm=every,
        p_untrained=p,
        content_dependence=np.zeros((len(DOMAINS), HEADS)),
        images=np.full((len(DOMAINS), probes), 16),
        smallest_content_p=np.full((len(DOMAINS), probes), 1e-9),
        copies=TWINS,
        smallest_excess=np.zeros(probes),
    )


def given_a_name(evidence: Evidence) -> bool:
    labels = name_mechanisms(evidence, ALPHA)[["label_first", "label_second"]]
    return bool((labels.to_numpy() != UNASSIGNED).any())


def untrained_store(rng: np.random.Generator) -> xr.Dataset:
    """Return a feature store of an untrained study with two timesteps."""
    excess = np.repeat(untrained_excess(rng)[:, :, :, None], len(TIMESTEPS), axis=3)
    lead = (len(DOMAINS), HEADS, len(TIMESTEPS))
    dims, of_maps = ("domain", "head", "timestep", "probe"), ("null_draw", "domain", "head", "timestep", "map")
    zeros = rng.normal(0, 1e-4, size=(25, *lead, len(MAPS)))
    return xr.Dataset(
        {
            "ratio": (dims, 1 + excess[0]),
            "excess": (dims, excess[0]),
            "excess_seen": (dims, excess[0]),
            "untrained_excess": (("twin", *dims), excess[1:]),
            "rolled_null": (of_maps, 1 + zeros),
            "content": (of_maps[1:], np.ones((*lead, len(MAPS)))),
            "content_null": (of_maps, zeros),
            "images": (("domain", "map"), np.full((len(DOMAINS), len(MAPS)), 16)),
            "features_by_domain": (("domain", "head", "timestep", "feature"), np.zeros((*lead, 1))),
        },
        coords={
            "domain": list(DOMAINS),
            "head": [f"mid.0.self.h{index:02d}" for index in range(HEADS)],
            "site": ("head", ["mid.0.self"] * HEADS),
            "timestep": list(TIMESTEPS),
            "probe": list(PROBES),
            "map": list(MAPS),
            "feature": ["content_dependence"],
        },
    )


def members(heads_each: int) -> pd.DataFrame:
    heads = [f"mid.0.self.h{index:02d}" for index in range(HEADS)]
    owners = [f"self-{1 + index // heads_each}" for index in range(HEADS)]
    return pd.DataFrame({"head": heads, "phase": 1, "mechanism": owners})


def test_an_untrained_study_is_given_any_name_in_any_domain_no_more_often_than_alpha():
    """Level 0.05 over mechanisms, probes and two domains; were it 0.10, so many studies would tell in 95 % of cases."""
    studies, rng = 1000, np.random.default_rng(0)
    found = sum(given_a_name(untrained_evidence(rng)) for _ in range(studies)) / studies
    most = ALPHA + 2.6 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    assert sees_twice_the_level(studies, most)
    assert found <= most
    # and not by never naming anything
    assert found > ALPHA / 4


def test_without_the_twins_most_untrained_studies_would_be_named():
    """What the test above would see if the only null of places were gone."""
    rng = np.random.default_rng(1)
    assert all(given_a_name(untrained_evidence(rng, twins_count=False)) for _ in range(20))


def test_the_twins_are_ranked_by_their_largest_excess_in_any_domain_and_at_any_timestep():
    store = untrained_store(np.random.default_rng(2))
    study, twins = largest_excess(store)
    everything = store["untrained_excess"].transpose("twin", "domain", "head", "timestep", "probe").values
    np.testing.assert_array_equal(twins, everything.max(axis=(1, 2, 3)))
    np.testing.assert_array_equal(study, store["excess_seen"].values.max(axis=(0, 1, 2)))
    found = weigh_evidence(store, members(2), {1: list(TIMESTEPS)}, ALPHA)
    np.testing.assert_array_equal(found.p_untrained, rank_among_twins(found.excess, study, twins))
    np.testing.assert_allclose(found.excess[1, 2], store["excess"].values[1, 4:, 0].mean(axis=0))
    assert found.smallest_untrained_p == 1 / (1 + TWINS)


def test_ranks_among_twins_keep_their_level_over_probes_of_any_scale():
    rng, studies, found = np.random.default_rng(0), 3000, 0
    for _ in range(studies):
        # twenty models, 6 probes of very different scale and correlated through the model, 5 heads
        effects = rng.gamma(2.0, size=(20, 1, 1)) * np.exp(rng.normal(size=(20, 5, 6))) * 10.0 ** np.arange(-3, 3)
        maxima = effects.max(axis=1)
        found += bool((rank_among_twins(effects[0], maxima[0], maxima[1:]) <= ALPHA).any())
    noise = 3 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    assert sees_twice_the_level(studies, ALPHA + noise)
    assert abs(found / studies - ALPHA) < noise


def test_strong_effects_beat_the_twins_even_when_the_study_is_extreme_in_every_probe():
    twins = np.random.default_rng(1).normal(0.01, 0.002, size=(19, 8))
    study = np.linspace(0.1, 0.9, 8)
    effects = np.stack([study, 0.5 * study, np.full(8, 0.01), np.full(8, np.nan)])
    p = rank_among_twins(effects, study, twins)
    assert (p[:2] == 0.05).all()
    assert (p[2] > 0.05).all()
    assert np.isnan(p[3]).all()


@pytest.mark.parametrize("of_the_model", [0.0, 1.0, 10.0])
def test_a_head_of_random_weights_passes_among_untrained_heads_as_often_as_alpha(of_the_model):
    """Whether the heads of one model are alike or not. Level 0.05; a rate of 0.10 would be seen with 95 % power.

    Random signs of the deviation from uniform attention, over images, reject for 55 to 99 % of untrained heads.
    """
    rng, studies, heads = np.random.default_rng(2), 4000, 4
    values = of_the_model * rng.normal(size=(studies, 1 + TWINS, 1)) + rng.normal(size=(studies, 1 + TWINS, heads))
    p = rank_among_heads(values[:, 0], np.repeat(values[:, 1:].reshape(studies, 1, -1), heads, axis=1))
    most = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    assert sees_twice_the_level(studies, most)
    assert 0.03 < (p <= ALPHA).mean() <= most


def test_random_signs_are_no_null_of_places():
    """Why the rank: a preference that random weights happen to have, on every image alike, is significant."""
    rng = np.random.default_rng(3)
    deviation = rng.normal(size=(300, 1)) + 0.5 * rng.normal(size=(300, 16))
    z = np.abs(deviation.mean(axis=1)) / (np.sqrt((deviation**2).sum(axis=1)) / 16)
    assert (z > 1.96).mean() > 0.5


def test_a_heads_p_value_is_the_larger_of_its_two_tests():
    store = untrained_store(np.random.default_rng(4))
    strong = store.assign(excess_seen=store["excess_seen"] + 100)
    head, least = "mid.0.self.h03", 1 / (1 + TWINS * HEADS)
    ratio, p = head_evidence(strong, head, [100, 500], "sink")
    np.testing.assert_allclose(ratio, store["ratio"].sel(head=head, probe="sink").mean("timestep"))
    np.testing.assert_allclose(p, least)
    far = strong.assign(ratio=strong["ratio"] + 1)
    np.testing.assert_allclose(head_evidence(far, head, [100], "edges")[1], least)
    # as much on rolled maps
    rolled = store["rolled_null"] - 1 + store["ratio"].sel(probe=list(MAPS)).rename(probe="map")
    assert (head_evidence(strong.assign(rolled_null=rolled), head, [100], "edges")[1] > 0.5).all()
    weak = store.assign(untrained_excess=store["untrained_excess"] + 100)
    assert (head_evidence(weak, head, [100], "edges")[1] == 1).all()


def test_the_smallest_excess_is_found_four_times_in_five():
    rng, studies, found = np.random.default_rng(5), 500, 0
    scale = np.array([1.0, 0.1, 0.01, 0.001])
    for _ in range(studies):
        twins = scale * (3 + rng.normal(size=(TWINS, 4)))
        effect = smallest_excess(twins, ALPHA) + scale * rng.normal(size=4)
        study = np.maximum(scale * 3, effect)
        found += rank_among_twins(effect, study, twins)[1] <= ALPHA
    assert 0.72 < found / studies < 0.88


def test_with_too_few_copies_no_excess_is_large_enough():
    twins = np.random.default_rng(6).random((9, 3))
    twins[:, 2] = np.nan
    np.testing.assert_array_equal(smallest_excess(twins, ALPHA), [np.inf, np.inf, np.nan])


def test_few_images_allow_no_small_p_of_content():
    np.testing.assert_allclose(smallest_order_p(np.array([0, 1, 3, 5])), [1, 1, 1 / 6, 1 / 120])
    store = untrained_store(np.random.default_rng(7))
    few = store.assign(images=store["images"] * 0 + 3)
    found = weigh_evidence(few, members(2), {1: list(TIMESTEPS)}, ALPHA)
    assert (found.p_content_holm[..., 3:] >= 1 / 6).all()
    assert (found.smallest_content_p[:, 3:] == 1).all()
    assert np.isnan(found.smallest_content_p[:, :3]).all()
