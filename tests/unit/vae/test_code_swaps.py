"""Swapping a code changes what a place can reach and nothing else, and a shift of what is quantised often nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from diffmech.artifacts import write_store
from diffmech.config.studies.vae import VaeMeasures
from diffmech.vae.code_swaps import KINDS, block, nearest_others, reach, swap_effects, swaps_table
from diffmech.vae.families import build_vae
from diffmech.vae.tables import SWAPS

MEASURES = VaeMeasures(draws=200)


@pytest.fixture
def vae(images, settings):
    vae = build_vae(images.image_shape, settings("vq_vae")).eval()
    with torch.no_grad():  # so that several codes are chosen
        encoded = vae.encoder(torch.from_numpy(images.images))
        vae.codebook.codes.copy_(encoded.movedim(1, -1).flatten(0, 2)[:: len(encoded) * 4 // 64][:64])
    return vae


def test_the_nearest_other_code_is_that_of_all_distances_tried_one_by_one() -> None:
    codes = np.random.default_rng(0).standard_normal((12, 3))
    expected = [
        min((c for c in range(12) if c != code), key=lambda c, code=code: np.sum((codes[c] - codes[code]) ** 2))
        for code in range(12)
    ]
    assert nearest_others(torch.from_numpy(codes)).tolist() == expected


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
def test_a_code_changes_all_that_its_place_reaches_and_not_a_pixel_more(vae, images, place) -> None:
    chosen = vae.encode(torch.from_numpy(images.images[:8]))
    changed = torch.zeros(8, 8, dtype=torch.bool)
    with torch.no_grad():
        for code in range(64):
            other = chosen.clone()
            other[:, place[0], place[1]] = code
            changed |= (vae.decode(other) != vae.decode(chosen)).any(0)[0]
    within = torch.zeros(8, 8, dtype=torch.bool)
    within[reach(vae, *place)] = True
    assert not (changed & ~within).any()
    assert changed[within].float().mean() > 0.9  # a unit may be silent


def test_blocks_tile_the_image(vae) -> None:
    seen = np.zeros((8, 8), dtype=int)
    for row, column in np.ndindex(vae.grid):
        seen[block(vae, row, column)] += 1
    assert (seen == 1).all()


def test_effects_are_those_of_decoding_each_swap_on_its_own(vae, images) -> None:
    found = swap_effects(vae, images.images[:6], seed=0, batch_size=4)
    chosen = vae.encode(torch.from_numpy(images.images[:6]))
    nearest = nearest_others(vae.codebook.codes)
    clean = vae.decode(chosen)
    for image in range(6):
        effects, inside, total = [], 0.0, 0.0
        for row, column in np.ndindex(vae.grid):
            other = chosen[image : image + 1].clone()
            other[0, row, column] = nearest[other[0, row, column]]
            squares = (vae.decode(other) - clean[image]).detach().double().square()[0, 0]
            effects.append(float(squares.mean().sqrt()))
            inside, total = inside + float(squares[block(vae, row, column)].sum()), total + float(squares.sum())
        assert found["per_pixel"][0, image] == pytest.approx(np.mean(effects), rel=1e-4)
        assert found["local"][0, image] == pytest.approx(inside / total, rel=1e-4)
    assert found["swapped"].shape == (3, 6, 8, 8, 1)


def test_swaps_put_another_code_and_a_shift_may_not(vae, images) -> None:
    found = swap_effects(vae, images.images, seed=1)
    assert (found["kept"][:2] == 0).all()
    assert ((found["kept"][2] >= 0) & (found["kept"][2] <= 1)).all()
    np.testing.assert_array_equal(found["per_pixel"][2] == 0, found["kept"][2] == 1)
    np.testing.assert_array_equal(np.isnan(found["local"]), found["per_pixel"] == 0)


def test_codes_far_apart_are_chosen_again_after_every_shift(vae, images) -> None:
    """With one code where all is encoded and the others far away, one standard deviation moves nothing."""
    with torch.no_grad():
        encoded = vae.encoder(torch.from_numpy(images.images))
        vae.codebook.codes.copy_(1e3 * (1 + torch.arange(64))[:, None].expand(-1, 16))
        vae.codebook.codes[0] = encoded.mean((0, 2, 3))
    found = swap_effects(vae, images.images[:10], seed=0)
    assert (found["kept"][2] == 1).all()
    assert (found["per_pixel"][2] == 0).all()
    assert (found["per_pixel"][0] > 0).all()


def test_results_do_not_depend_on_how_many_images_go_at_once(vae, images) -> None:
    one, other = (swap_effects(vae, images.images[:9], seed=2, batch_size=size) for size in (2, 9))
    for name in ("per_pixel", "local", "kept"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-2)  # float32 of effects of some 1e-5


def test_the_table_tells_of_vq_vaes_alone_and_why_a_shift_is_undefined(tmp_path) -> None:
    told = {"data": "bars", "vae_seed": 2}
    write_store(tmp_path / "vae", xr.DataTree(xr.Dataset(attrs={**told, "family": "vae", "continuous": True})))
    values = {"per_pixel": [[1.0, 3.0], [5.0, 5.0], [0.0, 0.2]], "local": [[0.5, 0.7], [0.4, 0.4], [np.nan, 0.9]]}
    values["kept"] = [[0.0, 0.0], [0.0, 0.0], [1.0, 0.5]]
    swaps = xr.Dataset({name: (("swap", "image"), each) for name, each in values.items()}, {"swap": list(KINDS)})
    root = xr.Dataset(attrs={**told, "family": "vq_vae", "continuous": False})
    write_store(tmp_path / "vq", xr.DataTree.from_dict({"/": root, "swaps": swaps}))
    swaps_table([tmp_path / "vae", tmp_path / "vq"], tmp_path / "swaps.csv", measures=MEASURES)
    frame = SWAPS.read(tmp_path / "swaps.csv").set_index("swap")
    assert frame["per_pixel"].to_dict() == pytest.approx({"neighbour": 2, "random": 5, "shift": 0.1})
    assert frame["local"].to_dict() == pytest.approx({"neighbour": 0.6, "random": 0.4, "shift": 0.9})
    assert "75% of places" in frame.loc["shift", "note"]
    assert frame["note"].isna().sum() == 2
    swaps_table([], tmp_path / "none.csv", measures=MEASURES)
    assert SWAPS.read(tmp_path / "none.csv").empty


class Planted(nn.Module):
    """Gives numbers of codes on a grid of 2 x 2: -1 in the left column and 1 in the right one of all images, and 10
    everywhere in bright images, -10 in dark ones. Their standard deviations over images and places are 1 and 10."""

    def __init__(self) -> None:
        super().__init__()
        self.light = nn.Parameter(torch.tensor(20.0), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        place = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).expand(len(images), 1, 2, 2)
        return torch.cat(
            [place, (self.light * images.mean((1, 2, 3)) - 10)[:, None, None, None].expand_as(place)], dim=1
        )


class Drawn(nn.Module):
    """Draws the first number and a tenth of the second, added, on the block of its place."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return F.interpolate(codes[:, :1] + codes[:, 1:] / 10, scale_factor=4, mode="nearest")


def test_a_shift_is_one_standard_deviation_over_images_and_places_of_its_own_number(settings) -> None:
    """It ends at the next of codes that are one such step apart, and a step of either number adds 1 to its block."""
    vae = build_vae((1, 8, 8), settings("vq_vae", likelihood="gaussian", codes=16, code_size=2)).eval()
    vae.encoder, vae.decoder = Planted(), Drawn()
    steps = torch.arange(-1.0, 3)
    vae.codebook.codes.copy_(torch.cartesian_prod(steps, 10 * steps))
    images = np.repeat(np.array([0, 1], np.float32), 10)[:, None, None, None] * np.ones((1, 8, 8), np.float32)
    found = swap_effects(vae, images, seed=0)
    assert found["kept"][2] == pytest.approx(np.zeros(20))
    assert found["per_pixel"][2] == pytest.approx(np.full(20, 0.5))  # the root of a quarter of the pixels
    assert found["local"][2] == pytest.approx(np.ones(20))
