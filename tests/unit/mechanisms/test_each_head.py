"""What a measure is made of: every head of every site, timestep and domain once, with the mean over images."""

import numpy as np
import pytest
from planted_captures import CROSS, SITE, PlantedSite, softmax, write_capture

from diffmech.errors import StoreError
from diffmech.mechanisms.each_head import each_head

TIMESTEPS = (100, 900)


@pytest.fixture
def planted(tmp_path):
    """Stores of two domains, and the attention (sample, timestep, head, query, key) that they were made from."""
    rng = np.random.default_rng(0)
    known = {
        domain: {
            SITE: softmax(rng.normal(size=(5, len(TIMESTEPS), 3, 16, 16))),
            CROSS: softmax(rng.normal(size=(5, len(TIMESTEPS), 2, 16, 3))),
        }
        for domain in ("synthetic", "real")
    }
    stores = [
        write_capture(
            tmp_path / f"{domain}.zarr.zip",
            {SITE: PlantedSite(sites[SITE], "self"), CROSS: PlantedSite(sites[CROSS], "cross")},
            timesteps=TIMESTEPS,
            domain=domain,
        )
        for domain, sites in known.items()
    ]
    return known, stores


def test_each_head_comes_once_with_what_its_keys_receive_on_average(planted):
    known, stores = planted
    found = {tuple(cell): received for *cell, received in each_head(stores, "received")}
    assert list(dict.fromkeys(domain for domain, _, _ in found)) == ["synthetic", "real"]
    assert len(found) == 2 * len(TIMESTEPS) * (3 + 2)
    for (domain, head, timestep), received in found.items():
        site, _, number = head.rpartition(".h")
        p = known[domain][site][:, TIMESTEPS.index(timestep), int(number)]
        assert received == pytest.approx(p.mean(axis=(0, 1)) * p.shape[-1], rel=1e-3)  # stored as float16
        assert received.mean() == pytest.approx(1, rel=1e-3)


def test_sites_without_the_quantity_are_left_out_and_one_that_nobody_has_is_an_error(planted):
    _, stores = planted
    assert {head.rpartition(".")[0] for _, head, _, _ in each_head(stores, "distance")} == {SITE}
    assert all(value.ndim == 0 for *_, value in each_head(stores, "entropy"))
    with pytest.raises(
        StoreError, match=r"synthetic\.zarr\.zip: no site has recieved; name a quantity that is captured"
    ):
        list(each_head(stores, "recieved"))
