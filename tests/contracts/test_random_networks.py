"""Of 300 networks drawn at random, every entropy is that of float64, or the network is refused for what is wrong."""

import re

import pytest
import torch
from diffusers import DDPMScheduler
from layouts import SIZE
from random_networks import REASONS, RandomDenoiser, draw
from watching import sites_and_ranges

from diffmech.attention.import_check import check_denoiser
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser
from diffmech.models.eager import watchable
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

NETWORKS, PER_TEST = 300, 50
MOST_ENTROPY = 2 * torch.log(torch.tensor(float(SIZE)))


def study(network: RandomDenoiser, dtype: torch.dtype) -> int:
    """Check the network, compare every entropy of three images, and return how many calls there were."""
    denoiser = Denoiser(
        network, DDPMScheduler(100), (1, SIZE, SIZE), forward=lambda x, t, condition: network(x.to(dtype), t).float()
    )
    check_denoiser(denoiser, "drawn")
    x_t, steps = torch.randn(3, 1, SIZE, SIZE), torch.tensor([3, 50, 90])
    plain = denoiser.predict_noise(x_t, steps)
    sites, ranges = sites_and_ranges(network, lambda: denoiser.predict_noise(x_t[:1], steps[:1]), denoiser.has_grid)
    observer = StatisticsObserver(ranges=ranges)
    network.truth.clear()
    with torch.no_grad(), AttentionTap(network, [observer], sites=sites) as tap:
        assert torch.equal(plain, denoiser.predict_noise(x_t, steps))
    assert tap.calls == [site.name for site in sites]
    assert len(network.truth) == len(sites)
    for site, expected in zip(sites, network.truth, strict=True):
        found = observer.results[site.name].entropy
        assert found.shape == expected.shape
        # Scores of some hundreds have rounding errors of 1e-5, each of which is one of the entropy.
        assert_same_up_to_rounding(found, expected, scale=float(MOST_ENTROPY), roundings=ROUNDINGS_OF_MANY_PASSES)
    return len(sites)


@pytest.mark.parametrize("first", range(0, NETWORKS, PER_TEST))
def test_no_number_is_wrong(first: int) -> None:
    watchable()
    refused, calls = 0, 0
    for seed in range(first, first + PER_TEST):
        torch.manual_seed(seed)
        network, wrong, dtype = draw(seed)
        said = ""
        try:
            calls += study(network, dtype)
        except ModelError as error:
            refused, said = refused + 1, str(error)
        except AssertionError as error:
            raise AssertionError(f"network {seed}: {error}") from error
        because = any(re.search(REASONS[what], said) for what in wrong)
        assert because if said else not wrong, (seed, wrong, said)
    assert 0 < refused < PER_TEST / 2
    assert calls > PER_TEST
