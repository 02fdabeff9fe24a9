"""Entropies of the encoder's heads: those of maps computed by hand, one per slice and head."""

import numpy as np
import pytest
import torch
from made_slices import discs

from diffmech.anomaly import network as network_module
from diffmech.anomaly.inside import head_entropies
from diffmech.anomaly.network import AnomalyVae
from diffmech.config.anomaly import AnomalyNetworkConfig
from diffmech.errors import ModelError


def network(**more) -> AnomalyVae:
    torch.manual_seed(0)
    return AnomalyVae((1, 16, 16), AnomalyNetworkConfig(channels=[8, 8], heads=2, latents=2, **more)).eval()


def by_hand(vae: AnomalyVae, slices) -> np.ndarray:
    """Follow the definitions: softmax of q.k / sqrt(channels), -sum p ln p, mean over places."""
    layer, images = vae.attention, torch.from_numpy(slices.images)
    with torch.no_grad():
        grid = vae.grids(images, vae.guide(torch.from_numpy(slices.position).float()))[-1]
        tokens = (layer.norm(grid) + layer.places).flatten(2).transpose(1, 2)
        query, key = (part(tokens).unflatten(-1, (2, -1)).transpose(1, 2).double() for part in (layer.to_q, layer.to_k))
    p = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return -(p * p.log()).sum(-1).mean(-1).numpy()


def test_entropies_are_those_by_hand_whatever_the_batch(monkeypatch):
    vae, slices = network(), discs(2)
    with torch.no_grad():
        vae.attention.to_q.weight *= 20  # away from uniform attention
    expected = by_hand(vae, slices)
    assert np.allclose(head_entropies(vae, slices), expected, atol=1e-4)
    monkeypatch.setattr(network_module, "BATCH", 5)
    assert np.allclose(head_entropies(vae, slices), expected, atol=1e-4)
    assert expected.shape == (len(slices), 2)
    assert expected.std() > 0.01


def test_uniform_attention_has_the_logarithm_of_the_number_of_places():
    vae = network()
    with torch.no_grad():
        vae.attention.to_q.weight.zero_()
        vae.attention.to_q.bias.zero_()
    assert np.allclose(head_entropies(vae, discs(1)), np.log(16), atol=1e-5)  # 4 x 4 places


def test_a_network_without_attention_has_no_entropies():
    with pytest.raises(ModelError, match="entropies of heads were asked for"):
        head_entropies(network(attention=False), discs(1))
