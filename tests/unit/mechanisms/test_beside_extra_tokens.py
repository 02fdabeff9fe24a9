"""Mechanisms of heads beside tokens without a place are those among the image's tokens."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffmech.artifacts import building_store
from diffmech.attention.layout import SiteLayout, create_attention_store
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.store import ExtraTokens, extra_tokens_of
from diffmech.config.analysis import EntropyConfig
from diffmech.mechanisms.captured import mass_beside, read, read_quantities, sites_of
from diffmech.mechanisms.entropy import attention_entropy
from diffmech.report.heads.examples import among_image, received_maps, token_keys

RANGES = {
    "class token and register": TokenRanges((1, 5), extra=(1, 1)),
    "memory": TokenRanges((2, 6), extra=(2, 0), memory=(2, 0)),
}


@pytest.fixture(params=RANGES.values(), ids=RANGES.keys())
def tree(request, tmp_path) -> xr.DataTree:
    write(tmp_path, request.param)
    whole = xr.open_datatree(tmp_path, engine="zarr", consolidated=False)
    return whole.filter(lambda node: node.name != "b.self")


def write(folder: Path, ranges: TokenRanges, twins: int = 0) -> None:
    """Write a site of one head on 2 x 2 places, half of whose attention goes to two extra keys, and of the rest to one.

    Beside it stands one of the image alone.
    """
    extra = {"tokens": ("extra 0", "extra 1"), "ranges": ranges}
    sites = [
        SiteLayout("a.self", "self", ("a.self.h00",), ranges.queries, 6, 4, (2, 2), **extra),
        SiteLayout("b.self", "self", ("b.self.h00",), 4, 4, 4, (2, 2)),
    ]
    axes = {**({"twin": range(twins)} if twins else {}), "sample": [0, 1], "timestep": [10]}
    chunks = {"sample": 2, "timestep": 1}
    arrays = create_attention_store(folder, sites, axes=axes, chunks=chunks, attrs={"domain": "real"})
    received = np.where(np.array(ranges.names("key")) == "image", 0.0, 1.5)
    received[ranges.image[0] + 3] = 3.0
    for (name, variable), array in arrays.items():
        array[:] = 0.0
        if (name, variable) == ("a.self", "received"):
            array[:] = np.broadcast_to(received, array.shape)
        if variable == "part_mass":
            array[:] = 0.5
        if variable == "self_mass":
            array[:] = 0.125  # of all attention: a quarter of that on the image


def test_mass_beside_the_image_is_that_of_the_images_queries(tree: xr.DataTree) -> None:
    assert mass_beside(tree) == pytest.approx(np.full((2, 1, 1), 0.5))


@pytest.mark.parametrize(
    ("ranges", "found"),
    [
        (RANGES["class token and register"], ExtraTokens(("extra 0",), ("extra 1",), 0)),
        (RANGES["memory"], ExtraTokens(("extra 0", "extra 1"), (), 2)),
    ],
)
def test_extra_tokens_are_read_with_their_places(tmp_path, ranges: TokenRanges, found: ExtraTokens) -> None:
    with building_store(tmp_path / "a.zarr.zip") as directory:
        write(directory, ranges)
    assert extra_tokens_of([tmp_path / "a.zarr.zip"]) == {"a.self": found}


def test_the_table_has_the_mass_beside_the_image_where_there_is_any(tmp_path) -> None:
    for name, twins in (("real", 0), ("twins", 2)):
        with building_store(tmp_path / f"{name}.zarr.zip") as directory:
            write(directory, RANGES["memory"], twins=twins)
    captures, twins = [tmp_path / "real.zarr.zip"], tmp_path / "twins.zarr.zip"
    few = EntropyConfig(draws=100, permutations=100)
    attention_entropy({"real": captures}, {"real": twins}, tmp_path / "heads.csv", entropy=few, seed=0)
    table = pd.read_csv(tmp_path / "heads.csv").set_index("site")
    assert table.loc["a.self", "beside_mass"] == 0.5
    assert np.isnan(table.loc["b.self", "beside_mass"])


def test_shares_are_those_of_the_attention_on_the_image(tree: xr.DataTree) -> None:
    (site,) = sites_of(tree)
    assert site.spatial
    assert site.tokens == ()
    assert read(tree, site, "received", 10) == pytest.approx(np.broadcast_to([0.0, 0, 0, 4], (2, 1, 4)))
    assert read_quantities(tree, site)[10]["self_mass"] == pytest.approx(np.full((2, 1), 0.25))


def test_pictures_are_of_the_image_and_of_each_extra_token_by_its_name(tree: xr.DataTree) -> None:
    node = tree["a.self"].to_dataset().sel(head="a.self.h00", timestep=10)
    image = among_image(node)
    assert dict(image.sizes) | {"query": 4, "key": 4} == dict(image.sizes)
    assert image["received"].values == pytest.approx(np.broadcast_to([0.0, 0, 0, 3], (2, 4)))  # as among all keys
    assert list(token_keys(node, 0).values()) == ["extra 0", "extra 1"]


def test_pictures_are_in_units_of_uniform_attention_over_all_keys(tree: xr.DataTree) -> None:
    node = tree["a.self"].to_dataset().sel(head="a.self.h00", timestep=10)
    # Every query, of the extra tokens too, gives half to the extra keys and the rest to the last place.
    p = np.zeros((2, node.sizes["query"], 6), np.float32)
    p[..., node["key_range"].values == "extra"] = 0.25
    p[..., np.flatnonzero(node["key_range"].values == "image")[-1]] = 0.5
    kept = node.assign(maps=(("kept_sample", "query", "key"), p)).assign_coords(kept_sample=[0, 1])
    black = np.zeros((2, 8, 8, 3), np.uint8)
    shown = received_maps(among_image(kept), black, np.array([0, 1]), "real")
    assert [picture.caption for picture in shown] == [
        "real: attention received; brightest = 3 times uniform over all 6 keys",
        "real: where the framed point looks; brightest = 3 times uniform over all 6 keys",
    ]
    assert "up to 3 times uniform over all 6 keys" in shown[0].alt
