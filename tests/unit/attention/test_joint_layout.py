"""How joint attention and video are laid out in a store: ranges, parts, and positions that text does not have."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from diffmech.attention.layout import Kept, SiteLayout, create_attention_store
from diffmech.attention.ranges import TokenRanges


def open_site(folder: Path, layout: SiteLayout) -> xr.Dataset:
    axes = {"sample": [4, 5], "timestep": [10]}
    kept = {(layout.name, "maps"): Kept([4], [10])}
    create_attention_store(folder, [layout], axes=axes, chunks={"sample": 2, "timestep": 1}, kept=kept, attrs={})
    return xr.open_zarr(folder, group=layout.name, consolidated=False)


def layout(kind: str, ranges: TokenRanges | None = None, grid: tuple[int, ...] = (2, 3), tokens=()) -> SiteLayout:
    count = ranges.keys if ranges else int(np.prod(grid))
    return SiteLayout("joint07", kind, ("joint07.h00", "joint07.h01"), count, count, 8, grid, tokens, ranges=ranges)


@pytest.mark.parametrize("ranges", [TokenRanges((4, 10), (0, 4)), TokenRanges((0, 6), (6, 10))])
def test_joint_attention_keeps_image_and_text_apart(tmp_path, ranges):
    site = open_site(tmp_path, layout("joint", ranges, tokens=("a", "cat", "on", "")))
    assert dict(site.sizes) | {"query": 10, "key": 10, "part": 4, "head": 2} == dict(site.sizes)
    assert tuple(site["part"].values) == ranges.parts
    image, text = slice(*ranges.image), slice(*ranges.text)
    for dim in ("query", "key"):
        assert set(site[f"{dim}_range"].values[image]) == {"image"}
        assert set(site[f"{dim}_range"].values[text]) == {"text"}
        assert np.isnan(site[f"{dim}_y"].values[text]).all()
        assert np.allclose(site[f"{dim}_y"].values[image], [0.25] * 3 + [0.75] * 3)
        assert np.allclose(site[f"{dim}_x"].values[image], [1 / 6, 0.5, 5 / 6] * 2)
    assert list(site["token"].values[text]) == ["a", "cat", "on", ""]
    assert set(site["token"].values[image]) == {""}
    assert site["part_mass"].dims == site["part_entropy"].dims == ("sample", "timestep", "head", "part")
    assert site["received"].dims == site["received_from_text"].dims == ("sample", "timestep", "head", "key")
    assert site["maps"].dims == ("kept_sample", "timestep", "head", "query", "key")
    assert {"distance", "self_mass", "neighbourhood_mass", "mirror_mass"} <= set(site.data_vars)
    assert site.attrs["grid"] == [2, 3]


@pytest.mark.parametrize(
    ("ranges", "parts"),
    [
        (TokenRanges((1, 7), extra=(1, 2)), 4),
        (TokenRanges((3, 9), extra=(3, 0), memory=(3, 0)), 2),
        (TokenRanges((3, 9), extra=(3, 0), memory=(2, 0)), 4),
    ],
)
def test_self_attention_keeps_extra_tokens_apart_which_have_a_name_and_no_place(tmp_path, ranges, parts):
    names = tuple(f"extra {index}" for index in range(3))
    heads = ("block00.self.h00",)
    site = open_site(
        tmp_path, SiteLayout("block00.self", "self", heads, ranges.queries, 9, 8, (2, 3), names, ranges=ranges)
    )
    assert site.sizes["query"] == 9 - sum(ranges.memory)
    assert (site.sizes["key"], site.sizes["part"]) == (9, parts)
    assert tuple(site["part"].values) == ranges.parts
    assert ("received_from_extra" in site) == (parts == 4)
    assert "received_from_text" not in site
    for dim in ("query", "key"):
        places = site[f"{dim}_range"].values == "image"
        assert np.allclose(site[f"{dim}_y"].values[places], [0.25] * 3 + [0.75] * 3)
        assert np.allclose(site[f"{dim}_x"].values[places], [1 / 6, 0.5, 5 / 6] * 2)
        assert np.isnan(site[f"{dim}_y"].values[~places]).all()
    assert list(site["token"].values[site["key_range"].values == "extra"]) == list(names)
    assert set(site["token"].values[slice(*ranges.image)]) == {""}


def test_other_attention_has_no_parts(tmp_path):
    site = open_site(tmp_path, layout("self"))
    assert not {"part_mass", "part_entropy", "received_from_text"} & set(site.data_vars)
    assert not {"part", "query_range", "key_range", "token"} & set(site.coords)


def test_a_video_has_frames_of_rows_of_columns(tmp_path):
    site = open_site(tmp_path, layout("self", grid=(2, 2, 3)))
    assert list(site["query_frame"].values) == [0] * 6 + [1] * 6
    assert np.allclose(site["query_y"].values, ([0.25] * 3 + [0.75] * 3) * 2)
    assert np.allclose(site["key_x"].values, [1 / 6, 0.5, 5 / 6] * 4)
    assert site.attrs["grid"] == [2, 2, 3]
