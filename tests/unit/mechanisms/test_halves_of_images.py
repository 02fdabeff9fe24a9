"""Clusters are found on other images than those on which they are named: what that is for, and that it is so."""

import dataclasses

import numpy as np
import pytest
from feature_files import SETTINGS, write_features
from planted_heads import write_planted_study

from diffmech.artifacts import open_store, write_store
from diffmech.errors import DataError, StoreError
from diffmech.mechanisms.k_means import k_means
from diffmech.mechanisms.probes import content, draw_nulls, map_ratios, null_p, rolled_null
from diffmech.mechanisms.reference_maps import GridMaps
from diffmech.statistics.multiplicity import holm

GRID, PROBES, SIMULATED_HEADS, CLUSTERS, STUDIES, ALPHA = (4, 4), 3, 24, 6, 400, 0.05


def random_maps(rng: np.random.Generator, images: int) -> GridMaps:
    """Return reference maps without any structure, of mean 1."""
    values = rng.gamma(1.0, size=(images, PROBES, GRID[0] * GRID[1])).astype(np.float32)
    values /= values.mean(axis=-1, keepdims=True)
    valid = np.ones((images, PROBES), dtype=bool)
    return GridMaps(tuple("abc"), GRID, values, np.ones((images, PROBES), dtype=np.float32), valid)


def smallest_p(seed: int) -> list[list[float]]:
    """Return the smallest corrected p of any cluster of heads that attend at random: (where found, null).

    Of clusters that were found on the tested images, and on as many others; against rolled maps, and others' maps.
    """
    rng, images = np.random.default_rng(seed), 16
    maps = random_maps(rng, 2 * images)
    received = rng.gamma(2.0, size=(2 * images, SIMULATED_HEADS, GRID[0] * GRID[1])).astype(np.float32)
    received /= received.mean(axis=-1, keepdims=True)
    testing, of_testing = received[:images], maps.select(np.arange(images))
    draws = draw_nulls(seed, "any", images, 200, GRID)
    ratio, rolled = map_ratios(testing, of_testing).mean(), rolled_null(testing, of_testing, draws)
    observed, dealt = content(testing, of_testing, draws)
    found = []
    for some in (slice(None, images), slice(images, None)):
        rows = np.arange(2 * images)[some]
        features = np.log(map_ratios(received[rows], maps.select(rows)).mean())
        features = (features - features.mean(axis=0)) / features.std(axis=0)
        labels = k_means(features[None], CLUSTERS, rng, restarts=3)[0]
        member = (labels == np.arange(CLUSTERS)[:, None]) / np.bincount(labels, minlength=CLUSTERS)[:, None]
        p = [
            null_p(member @ ratio, np.einsum("ch,dhp->dcp", member, rolled, optimize=True), two_sided=True),
            null_p(member @ observed, np.einsum("ch,dhp->dcp", member, dealt, optimize=True), two_sided=False),
        ]
        found.append([holm(values).min() for values in p])
    return found


def test_clusters_found_and_tested_on_the_same_images_are_found_too_often_and_on_halves_they_are_not():
    """Of each null: the share of studies in which any cluster is said to prefer any map."""
    p = np.array([smallest_p(seed) for seed in range(STUDIES)])
    same, halves = (p < ALPHA).mean(axis=0)
    assert (same > 0.4).all()
    # Holm is exact for independent tests only, and these are nearly so
    error = np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
    assert (halves < ALPHA + 2.6 * error).all()
    assert (halves > 0.01).all()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the inputs and the features of a study of 12 images, of which the first 6 test."""
    folder = tmp_path_factory.mktemp("small")
    files = write_planted_study(folder, seed=4, samples=12, twins=2, timesteps=(100,))
    settings = SETTINGS.model_copy(update={"rolls": 20, "stability_draws": 3})
    return files, settings, open_store(write_features(folder, files, settings)).to_dataset().load()


def altered(files, rows, folder):
    """Return the study with other attention, images and masks in `rows`: those of each other."""
    changed = {"attention": {}, "latents": {}, "datasets": {}}
    for domain in files.attention:
        for name, paths in changed.items():
            given = getattr(files, name)[domain]
            path = folder / f"{domain}.{name}.zarr.zip"
            tree = open_store(given if name == "datasets" else given[0]).load()
            for node in tree.subtree:
                for key, variable in node.data_vars.items():
                    values = variable.transpose("sample", ...).values.copy()
                    # another head's attention, another image's pixels
                    values[rows] = np.roll(values[rows], 1, axis=2 if name == "attention" and values.ndim > 2 else 0)
                    node[key] = variable.transpose("sample", ...).copy(data=values)
            write_store(path, tree if name == "attention" else tree.to_dataset())
            paths[domain] = path if name == "datasets" else [path]
    return dataclasses.replace(files, **changed)


@pytest.mark.parametrize("half", ["finds", "tests"])
def test_clusters_come_from_one_half_of_the_images_and_all_that_is_said_of_them_from_the_other(small, half, tmp_path):
    files, settings, before = small
    rows = np.arange(6, 12) if half == "finds" else np.arange(6)
    after = open_store(write_features(tmp_path, altered(files, rows, tmp_path), settings)).to_dataset().load()
    same = {name for name in before.data_vars if before[name].equals(after[name])}
    clusters, counts = {"features", "features_bootstrap"}, {"found_on", "tested_on", "images"}
    assert same == (set(before.data_vars) - clusters if half == "finds" else clusters | counts)
    assert before["found_on"].values.tolist() == before["tested_on"].values.tolist() == [6, 6]


def test_too_few_images_are_refused_with_what_to_do(small, tmp_path):
    files, settings, _ = small
    message = (
        "real: of 12 captured images 1 are left .* the first 11 on which they are tested; give at least 13 .*lower"
    )
    with pytest.raises(DataError, match=message):
        write_features(tmp_path, dataclasses.replace(files, tested=11), settings)
    with pytest.raises(StoreError, match=r"real\.twins.* saw images on which clusters are found"):
        write_features(tmp_path, dataclasses.replace(files, tested=3), settings)
    assert not list(tmp_path.iterdir())
