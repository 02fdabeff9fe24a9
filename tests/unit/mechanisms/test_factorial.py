"""What the image does and what telling does are kept apart: they add up, and each is found where it was planted."""

import numpy as np
import pandas as pd
import pytest

from diffmech.config.analysis import EntropyConfig
from diffmech.config.study import NOTHING
from diffmech.mechanisms.factorial import factorial_table
from diffmech.mechanisms.told import EFFECTS, IMAGE, INTERACTION, RAW, TOLD, contrasts
from diffmech.statistics.multiplicity import holm

DOMAINS = ("real", "synthetic")
TIMESTEPS, IMAGES, SEEN, TWINS = (100, 500, 900), 24, 6, 19
HEADS = pd.DataFrame(
    [(f"{site}.h{index:02d}", site, kind) for site, kind in (("a", "self"), ("b", "cross")) for index in range(4)],
    columns=["head", "site", "kind"],
)
SETTINGS = EntropyConfig(draws=50, permutations=200)
READS_IMAGE, READS_TOKEN = 1, 6  # a head of self-attention, and one of cross-attention


def entropies(rng, lead=(), *, images=IMAGES, planted=1.0):
    """Return entropies by what is told and domain: one head answers to the domain of the image, one to what is told.

    What an image and its noise do to a head is the same under every telling.
    """
    shape = (*lead, images, len(TIMESTEPS), len(HEADS))
    found = {}
    for domain in DOMAINS:
        own = rng.normal(0, 0.1, shape)
        own[..., READS_IMAGE] += planted * (domain == "real")
        for told in (NOTHING, *DOMAINS):
            values = own + rng.normal(0, 0.01, shape)
            values[..., READS_TOKEN] += planted * {NOTHING: 0.3, "real": 1.0, "synthetic": 0.0}[told]
            found.setdefault(told, {})[domain] = values
    return found


def table_of(seed, *, planted=1.0):
    rng = np.random.default_rng(seed)
    of_model = contrasts(entropies(rng, planted=planted), DOMAINS, NOTHING)
    twins = contrasts(entropies(rng, (TWINS,), images=SEEN, planted=0.0), DOMAINS, NOTHING)
    means = {effect: (a.mean(axis=1), b.mean(axis=1)) for effect, (a, b) in twins.items()}
    seen = {effect: {domain: np.arange(SEEN) for domain in DOMAINS} for effect in of_model}
    return factorial_table(of_model, means, seen, HEADS, TIMESTEPS, entropy=SETTINGS, seed=0)


@pytest.mark.parametrize("reference", [NOTHING, "real"])
def test_the_effects_add_up_to_the_difference_of_images_that_are_told_what_they_are(reference):
    """Also where a denoiser cannot be told nothing."""
    values = entropies(np.random.default_rng(0))
    if reference != NOTHING:
        values.pop(NOTHING)
    found = contrasts(values, DOMAINS, reference)
    total = sum(a.mean(axis=0) - b.mean(axis=0) for a, b in found.values())
    raw = values["real"]["real"].mean(axis=0) - values["synthetic"]["synthetic"].mean(axis=0)
    np.testing.assert_allclose(total, raw, atol=1e-12)


def test_the_table_adds_up_too():
    table = table_of(1).pivot(index=["timestep", "head"], columns="effect", values="estimate")
    np.testing.assert_allclose(table[list(EFFECTS)].sum(axis=1), table[RAW], atol=1e-12)


def test_a_closed_form_of_all_three():
    """One image each: means are the values themselves."""
    cells = {(NOTHING, 0): 1.0, (NOTHING, 1): 4.0, ("real", 0): 2.0, ("real", 1): 3.0}
    cells |= {("synthetic", 0): 0.5, ("synthetic", 1): 8.0}
    values = {
        told: {domain: np.full((1, 1, 1), cells[told, place]) for place, domain in enumerate(DOMAINS)}
        for told in (NOTHING, *DOMAINS)
    }
    found = {name: float(np.squeeze(a - b)) for name, (a, b) in contrasts(values, DOMAINS, NOTHING).items()}
    told = ((2.0 - 0.5) + (3.0 - 8.0)) / 2
    interaction = ((2.0 + 0.5) / 2 - 1.0) - ((3.0 + 8.0) / 2 - 4.0)
    assert found == pytest.approx({IMAGE: 1.0 - 4.0, TOLD: told, INTERACTION: interaction})
    assert sum(found.values()) == pytest.approx(2.0 - 8.0)


def test_where_nothing_can_be_told_there_is_the_image_alone():
    values = {NOTHING: entropies(np.random.default_rng(2))[NOTHING]}
    assert list(contrasts(values, DOMAINS, NOTHING)) == [IMAGE]


def test_each_effect_is_found_at_the_head_that_has_it_and_only_there():
    for seed in range(10):
        table = table_of(seed)
        found = table[table["significant"]].groupby("effect")["head"].agg(set).to_dict()
        planted = {IMAGE: {HEADS["head"][READS_IMAGE]}, TOLD: {HEADS["head"][READS_TOKEN]}}
        assert found == planted, seed
        assert table["significant"].sum() == 2 * len(TIMESTEPS)


def test_telling_is_tested_within_images_so_that_small_effects_are_seen():
    """A twentieth of what is planted elsewhere, half of what images differ by."""
    told = table_of(3, planted=0.05)
    told = told[(told["effect"] == TOLD) & (told["head"] == HEADS["head"][READS_TOKEN])]
    assert (told["p_holm"] < 0.03).all()
    assert told["estimate"].to_numpy() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("in_pairs", "most", "least"), [(True, 0.075, 0.0), (False, 1.0, 0.1)])
def test_images_of_one_number_are_one_unit_of_what_telling_does_to_them(in_pairs, most, least):
    """Both domains have the same noise, to which telling adds the same: 0 on average, other at every number.

    Taken for independent, a tenth and more of such heads are found at p <= 0.05 and intervals are too narrow.
    """
    rng, heads = np.random.default_rng(0), 400
    table = pd.DataFrame({"head": [f"a.h{k:03d}" for k in range(heads)], "site": "a", "kind": "self"})
    shared = rng.normal(0, 1, (24, 1, heads))
    sides = [sign * (shared + rng.normal(0, 0.3, shared.shape)) for sign in (1, -1)]
    twins = {TOLD: (np.zeros((3, 1, heads)), np.zeros((3, 1, heads)))}
    seen = {TOLD: {domain: np.arange(4) for domain in DOMAINS}}
    found = factorial_table(
        *({TOLD: (sides[0], sides[1])}, twins, seen, table, (100,)),
        entropy=EntropyConfig(draws=400, permutations=400),
        seed=0,
        in_pairs=in_pairs,
    )
    p = found["p"].to_numpy()
    assert least <= (p <= 0.05).mean() <= most
    outside = ((found["low"] > 0) | (found["high"] < 0)).mean()
    assert least <= outside <= most + 0.02
    np.testing.assert_allclose(found["estimate"], np.ravel(sides[0].mean(0) - sides[1].mean(0)), atol=1e-12)


def test_p_values_are_corrected_by_holm_over_heads_and_timesteps_of_each_effect():
    for _, rows in table_of(5).groupby("effect"):
        if rows["effect"].iloc[0] != RAW:
            np.testing.assert_allclose(rows["p_holm"], holm(rows["p"].to_numpy()))


def test_twins_are_compared_on_the_images_they_saw_and_each_kind_in_its_own_units():
    """An effect on images that the twins did not see says nothing against them; loud twins of one kind hide nothing."""
    rng = np.random.default_rng(6)
    of_model = contrasts(entropies(rng, planted=0.0), DOMAINS, NOTHING)
    twins = contrasts(entropies(rng, (TWINS,), images=SEEN, planted=0.0), DOMAINS, NOTHING)
    means = {effect: (a.mean(axis=1), b.mean(axis=1)) for effect, (a, b) in twins.items()}
    seen = {effect: {domain: np.arange(SEEN) for domain in DOMAINS} for effect in of_model}
    elsewhere = of_model[IMAGE][0].copy()
    elsewhere[SEEN:, :, READS_IMAGE] += 2.0
    changed = {**of_model, IMAGE: (elsewhere, of_model[IMAGE][1])}
    arguments = (means, seen, HEADS, TIMESTEPS)
    rows = factorial_table(changed, *arguments, entropy=SETTINGS, seed=0)
    rows = rows[(rows["effect"] == IMAGE) & (rows["head"] == HEADS["head"][READS_IMAGE])]
    assert (rows["p_holm"] < 0.05).all()
    assert (rows["p_untrained"] > 0.05).all()
    crosses = HEADS["kind"].to_numpy() == "cross"
    loud = {effect: tuple(np.where(crosses, 100 * side, side) for side in sides) for effect, sides in means.items()}
    planted = {
        **of_model,
        IMAGE: (of_model[IMAGE][0] + 2.0 * (np.arange(len(HEADS)) == READS_IMAGE), of_model[IMAGE][1]),
    }
    rows = factorial_table(planted, loud, *arguments[1:], entropy=SETTINGS, seed=0)
    rows = rows[(rows["effect"] == IMAGE) & (rows["head"] == HEADS["head"][READS_IMAGE])]
    assert rows["significant"].all()


def test_holm_can_be_passed_however_many_heads_and_timesteps_there_are():
    tests = len(TIMESTEPS) * len(HEADS)
    table = table_of(4)
    least = table.loc[table["effect"] != RAW, "p_holm"].min()
    assert least <= 0.5 * SETTINGS.alpha
    assert tests / (1 + SETTINGS.permutations) > SETTINGS.alpha  # with those of the settings alone it could not
