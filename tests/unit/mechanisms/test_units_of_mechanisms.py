"""Where images belong together, persons take the place of images: in entropies, complexity, features, their nulls."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from planted_captures import SITE, PlantedSite, softmax, write_capture
from planted_heads import write_planted_study

from diffmech.artifacts import open_store, write_store
from diffmech.config.analysis import ComplexityConfig, EntropyConfig, MechanismsConfig
from diffmech.config.study import NOTHING
from diffmech.mechanisms.captured import Site, open_domains, read_quantities, sites_of
from diffmech.mechanisms.complexity import circuit_complexity
from diffmech.mechanisms.entropy import attention_entropy, divergence_table
from diffmech.mechanisms.factorial import entropy_factorial
from diffmech.mechanisms.features import head_features
from diffmech.mechanisms.probes import content, draw_nulls, map_ratios, null_p, place_ratios, rolled_null
from diffmech.mechanisms.reference_maps import GridMaps
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.halves import finding
from diffmech.statistics.units import codes, over_units

TIMESTEPS = (100, 500)
PERSONS = np.array(["b", "a", "b", "c", "a", "b", "d", "d", "e", "c"])
FEW = EntropyConfig(draws=200, permutations=99)


def write_groups(path, groups):
    pd.DataFrame({"sample": range(len(groups)), "group": groups}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Captures of ten images per domain, of which twins saw six; persons are known of the first domain alone."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    captures, untrained, entropies = {}, {}, {}
    for domain in ("real", "synthetic"):
        shapes = {"captures": (len(PERSONS),), "untrained": (4, 6)}
        found = {}
        for name, shape in shapes.items():
            p = softmax(
                rng.normal(size=(*shape, len(TIMESTEPS), 3, 16, 16)) * rng.uniform(0.5, 2, (*shape, 1, 1, 1, 1))
            )
            output = rng.normal(size=(*shape, len(TIMESTEPS), 3, 5))
            sites = {SITE: PlantedSite(p, "self", output)}
            path = folder / f"{domain}.{name}.zarr.zip"
            found[name] = write_capture(path, sites, timesteps=TIMESTEPS, domain=domain, twins=name == "untrained")
            entropies[domain, name] = -(p * np.log(p)).sum(-1).mean(-1)  # ([twin,] sample, timestep, head)
        captures[domain], untrained[domain] = [found["captures"]], found["untrained"]
    groups = {"real": write_groups(folder / "real.groups.csv", PERSONS)}
    return folder, captures, untrained, entropies, groups


def test_the_table_of_entropies_has_the_means_and_intervals_of_persons(study, tmp_path):
    _, captures, untrained, entropies, groups = study
    attention_entropy(captures, untrained, tmp_path / "h.csv", entropy=FEW, seed=0, groups=groups)
    table = pd.read_csv(tmp_path / "h.csv").set_index(["domain", "timestep", "head"]).sort_index()
    assert table.loc["real", "n"].unique().tolist() == [5]
    assert table.loc["synthetic", "n"].unique().tolist() == [10]
    persons = over_units(entropies["real", "captures"], PERSONS)
    expected = bootstrap_mean(persons, draws=200, seed=0)
    row = table.loc["real", 500, f"{SITE}.h01"]
    for name, values in (("entropy", expected.estimate), ("low", expected.low), ("high", expected.high)):
        assert row[name] == pytest.approx(values[1, 1], rel=1e-4)
    effective = over_units(np.exp(entropies["real", "captures"]), PERSONS).mean(0)
    assert row["effective_keys"] == pytest.approx(effective[1, 1], rel=1e-4)
    twins = over_units(entropies["real", "untrained"], PERSONS[:6], axis=1).mean(1)
    assert row["untrained_entropy"] == pytest.approx(twins[:, 1, 1].mean(), rel=1e-4)


def test_the_divergence_is_that_of_persons_and_of_those_that_copies_saw(study, tmp_path):
    """The same table from the values of persons themselves, each of one image; copies saw images of three persons."""
    _, captures, untrained, entropies, groups = study
    told = {NOTHING: captures}, {NOTHING: {domain: [path] for domain, path in untrained.items()}}
    files = tmp_path / "d.csv", tmp_path / "f.csv"
    entropy_factorial(*told, *files, domains=list(captures), entropy=FEW, seed=0, groups=groups)
    of_heads = pd.read_csv(files[1])
    assert (of_heads["n_first"].unique().tolist(), of_heads["n_second"].unique().tolist()) == ([5], [10])
    found = pd.read_csv(tmp_path / "d.csv")
    assert (found["n_first"].unique().tolist(), found["n_second"].unique().tolist()) == ([5], [10])
    assert found["untrained_n"].unique().tolist() == [3]
    persons = over_units(entropies["real", "captures"], PERSONS)
    on_seen = over_units(entropies["real", "captures"][:6], PERSONS[:6])
    copies = {
        "real": over_units(entropies["real", "untrained"], PERSONS[:6], axis=1).mean(1),
        "synthetic": entropies["synthetic", "untrained"].mean(1),
    }
    values = {"real": persons, "synthetic": entropies["synthetic", "captures"]}
    seen = {"real": np.arange(3), "synthetic": np.arange(6)}
    kinds = np.full(3, "self")
    table = divergence_table(values, copies, seen, kinds, TIMESTEPS, entropy=FEW, seed=0)
    same = ["divergence", "low", "high", "floor", "p", "p_holm", "jensen_shannon", "untrained_divergence_max"]
    np.testing.assert_allclose(found[same], table[same], rtol=1e-3)
    # on the images that the copies saw a person is the mean over these images alone
    seen_alone = {"real": on_seen, "synthetic": values["synthetic"][:6]}
    alone = divergence_table(seen_alone, copies, seen, kinds, TIMESTEPS, entropy=FEW, seed=0)
    np.testing.assert_allclose(found["p_untrained"], alone["p_untrained"])


def write_shifts(path, shift):
    text = np.dtypes.StringDType()
    dims = ("target", "method", "sample", "timestep")
    data = {
        "shift": (dims, shift),
        "control_of": ("target", np.full(len(shift), "", dtype=text)),
        "kind": ("target", np.full(len(shift), "self", dtype=text)),
        "members": (("target", "timestep"), np.full((len(shift), 2), "x", dtype=text)),
    }
    coords = {
        "method": np.array(["mean"], dtype=text),
        "target": np.array([f"{SITE}.h{index:02d}" for index in range(len(shift))], dtype=text),
        "sample": np.arange(shift.shape[2]),
        "timestep": list(TIMESTEPS),
    }
    write_store(path, xr.Dataset(data, coords=coords))
    return path


def test_complexity_counts_persons(study, tmp_path):
    _, captures, untrained, entropies, groups = study
    rng = np.random.default_rng(1)
    shift = {domain: rng.gamma(2.0, size=(3, 1, 10, 2)) for domain in captures}
    ablation = {domain: [write_shifts(tmp_path / domain, values)] for domain, values in shift.items()}
    settings = ComplexityConfig(draws=200, permutations=99)

    def table(groups):
        told = {NOTHING: captures}, {NOTHING: {domain: [path] for domain, path in untrained.items()}}
        circuit_complexity(
            *(*told, ablation, tmp_path / "c.csv"),
            **{"complexity": settings, "domains": list(captures), "method": "mean", "seed": 0, "groups": groups},
        )
        return pd.read_csv(tmp_path / "c.csv").set_index("variant")

    found = table(groups)
    assert found.loc[["effective_heads_self", "effective_keys_self"], "n_first"].tolist() == [5, 5]
    assert found.loc["activation_participation", ["n_first", "n_second"]].tolist() == [5, 5]
    keys = over_units(np.exp(entropies["real", "captures"]).mean((1, 2)) / 16, PERSONS).mean()
    assert found.loc["effective_keys_self", "first"] == pytest.approx(keys, rel=1e-4)
    mean = over_units(shift["real"][:, 0].mean(-1).T, PERSONS).mean(0)
    assert found.loc["effective_heads_self", "first"] == pytest.approx(mean.sum() ** 2 / (mean**2).sum(), rel=1e-4)
    assert found.loc["effective_keys_self", "untrained_n"] == 3
    singles = {domain: write_groups(tmp_path / f"{domain}.csv", range(10)) for domain in captures}
    pd.testing.assert_frame_equal(table(singles), table(None))


def test_features_of_images_that_are_each_a_person_are_those_without_persons(tmp_path):
    files = write_planted_study(tmp_path, samples=9, twins=3)
    settings = MechanismsConfig(stability_draws=4, rolls=20)

    def features(name, groups):
        path = tmp_path / f"{name}.zarr.zip"
        given = (files.attention, files.latents, files.datasets, files.untrained)
        head_features(*given, path, mechanisms=settings, tested=4, seed=0, groups=groups)
        return open_store(path).to_dataset().load()

    plain = features("plain", None)
    singles = {domain: write_groups(tmp_path / f"{domain}.csv", range(9)) for domain in files.attention}
    xr.testing.assert_allclose(features("singles", singles), plain, rtol=2e-5, atol=2e-6)
    of_pairs = {domain: write_groups(tmp_path / f"{domain}.csv", np.arange(9) // 2) for domain in files.attention}
    pairs, person = features("pairs", of_pairs), np.arange(9) // 2
    tests = ~np.array(finding(range(9), 4, person.tolist()))
    assert pairs["images"].max() == len(set(person[tests]))
    assert not set(person[tests]) & set(person[~tests])
    tree = open_domains({"real": files.attention["real"]})["real"]
    site = sites_of(tree)[0]
    of_images = read_quantities(tree, site)[500]["neighbourhood_mass"]
    where = {"feature": "neighbourhood_mass", "timestep": 500, "head": list(site.heads)}
    found = pairs["features_by_domain"].isel(domain=0).sel(where).values
    np.testing.assert_allclose(found, over_units(of_images[tests], person[tests]).mean(axis=0), rtol=1e-4)


def maps_of(values, grid):
    values = values / values.mean(axis=-1, keepdims=True)
    uniform = 1 / values.max(axis=-1)
    names = tuple(f"map {index}" for index in range(values.shape[1]))
    return GridMaps(names, grid, values, uniform / (1 - uniform), np.ones(values.shape[:2], dtype=bool))


def test_persons_change_places_as_wholes():
    units = codes(PERSONS)
    draws = draw_nulls(0, "real", len(units), 200, (3, 4), units)
    rows = np.array([0, 1, 2, 4, 5, 6, 8, 9])
    partners = draws.partners(rows)
    given = units[rows][partners]
    for unit in set(units[rows]):
        theirs = given[:, units[rows] == unit]
        assert (theirs == theirs[:, :1]).all()  # the maps of one person
    assert len({tuple(row) for row in given}) > 50
    for row in given:  # a permutation of the persons
        assert len({(a, b) for a, b in zip(units[rows], row, strict=True)}) == len(set(units[rows]))
        assert set(row) == set(units[rows])
    identity = (given == units[rows]).all(axis=1)
    assert (partners[identity] == np.arange(len(rows))).all()
    for unit in range(units.max() + 1):  # all images of one are rolled alike
        assert (draws.rolls[:, units == unit] == draws.rolls[:, units == unit][:, :1]).all()


def test_means_of_probes_are_those_of_persons_by_hand():
    rng, units = np.random.default_rng(2), codes(PERSONS)
    received = rng.gamma(2.0, size=(10, 2, 12))
    received /= received.mean(axis=-1, keepdims=True)
    maps = maps_of(rng.random((10, 3, 12)), (3, 4))
    maps.valid[[0, 3], 1] = False
    ratios = map_ratios(received, maps, units)
    every = np.einsum("shk,spk->shp", received, maps.values) / 12
    np.testing.assert_allclose(ratios.mean()[:, 0], over_units(every[..., 0], PERSONS).mean(0), rtol=1e-6)
    kept = np.flatnonzero(maps.valid[:, 1])
    np.testing.assert_allclose(ratios.mean()[:, 1], over_units(every[kept, :, 1], PERSONS[kept]).mean(0), rtol=1e-6)
    draws = draw_nulls(0, "real", 10, 30, (3, 4), units)
    null = rolled_null(received, maps, draws)
    shifted = np.array(
        [np.roll(maps.values[i, 1].reshape(3, 4), divmod(int(draws.rolls[7, i]), 4), (0, 1)) for i in kept]
    )
    by_hand = np.einsum("shk,sk->sh", received[kept], shifted.reshape(len(kept), -1)) / 12
    np.testing.assert_allclose(null[7, :, 1], over_units(by_hand, PERSONS[kept]).mean(0), rtol=1e-5)
    observed, dealt = content(received, maps, draws)
    persons = len(set(PERSONS))
    cross = over_units(over_units(np.einsum("ihk,jk->ijh", received, maps.values[:, 0]) / 12, PERSONS), PERSONS, axis=1)
    own = over_units(every[..., 0], PERSONS).mean(0)
    expected = (own - cross.mean((0, 1))) * persons / (persons - 1)
    np.testing.assert_allclose(observed[:, 0], expected, rtol=1e-6, atol=1e-9)
    pairs = np.stack([received[i] @ maps.values[j, 0] / 12 for i, j in enumerate(draws.partners(np.arange(10))[3])])
    expected = (over_units(pairs, PERSONS).mean(0) - cross.mean((0, 1))) * persons / (persons - 1)
    np.testing.assert_allclose(dealt[3, :, 0], expected, rtol=1e-6, atol=1e-9)


def test_the_sink_is_sought_among_some_persons_and_measured_in_others():
    """Each image of a person attends to a place of this person: halves of images would call it a sink."""
    person = np.arange(12) % 4 // 2 * 2 + np.arange(12) // 6  # two images of a person next to each other, in turns
    received = np.full((12, 1, 16), 0.5)
    received[np.arange(12), 0, person] = 16 - 15 * 0.5
    zeros = np.zeros((12, 1))
    quantities = dict.fromkeys(("neighbourhood_mass", "mirror_mass", "distance"), zeros)
    site = Site("s", "self", ("a",), 16, (4, 4), ())
    by_image, by_person = (place_ratios(site, quantities, received, None, of) for of in (None, codes(person)))
    sink = by_image.names.index("sink")
    assert by_person.mean()[0, sink] < 1 < by_image.mean()[0, sink]


def test_content_that_persons_share_is_found_as_often_as_chance_allows():
    """Maps and attention are alike within a person, and independent: 400 studies tell 0.05 from 0.1."""
    rng, studies, persons, each, keys = np.random.default_rng(3), 400, 8, 3, 16
    units, found = np.repeat(np.arange(persons), each), {True: 0, False: 0}
    for study in range(studies):
        maps, received = (
            np.exp(rng.normal(size=(persons, keys))[units] + 0.3 * rng.normal(size=(len(units), keys)))[:, None]
            for _ in range(2)
        )
        received /= received.mean(axis=-1, keepdims=True)
        for known in found:
            draws = draw_nulls(study, "real", len(units), 199, (4, 4), units if known else None)
            observed, null = content(received, maps_of(maps, (4, 4)), draws)
            found[known] += null_p(observed, null, two_sided=False)[0, 0] <= 0.05
    assert found[True] / studies <= 0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5
    assert found[False] / studies > 0.12
