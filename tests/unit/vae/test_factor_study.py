"""What a factor does inside a VAE: closed forms of a linear one, and patches of single units as hooks give them."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.factor import Factor, spaced
from diffmech.data.factors.pendulum import PendulumScene
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.errors import DataError, ModelError
from diffmech.vae.factor_study import EFFECTS, RANDOM, Side, factor_tree, halves_of, layer_study
from diffmech.vae.families import build_vae
from diffmech.vae.networks import layer_names
from diffmech.vae.pairs import Pairs, another_value, draw_pairs, same_value
from diffmech.vae.patching import activations, each_layer, each_unit_alone, patched, run_from
from diffmech.vae.twins import changes

MEASURES = VaeMeasures(pairs=20, twins=2, share=0.25)


@pytest.mark.parametrize("factor", ["shape", "orientation", "x"])
def test_one_factor_differs_in_every_pair_and_nothing_else(factor) -> None:
    data = DSpritesLike(16)
    pairs = draw_pairs(data, factor, 300, seed=3)
    kept = data.factors[data.place(factor)]
    assert not same_value(kept, pairs.old, pairs.new).any()
    assert len(np.unique(kept.classes_of(pairs.new))) == kept.size or factor != "shape"
    again = draw_pairs(data, factor, 300, seed=3)
    assert (again.before == pairs.before).all()
    assert (again.after == pairs.after).all()


def test_what_a_scene_would_make_of_a_change_is_left_out() -> None:
    pairs = draw_pairs(PendulumScene(16), "light", 20, seed=0)
    ground = slice(15, 16)  # the row of the shadow
    assert (pairs.before[:, :, ground] == pairs.after[:, :, ground]).all()
    assert (pairs.before != pairs.after).any((1, 2, 3)).all()


def test_ends_of_a_circle_are_one_value_and_a_factor_of_one_value_is_refused() -> None:
    turn = Factor("turn", "circular", "turn", spaced(0, 1, 3), period=1.0)
    new = another_value(turn, np.tile([0.0, 0.5, 1.0], 50), np.random.default_rng(0))
    assert set(new[np.arange(150) % 3 != 1]) == {0.5}
    for single in (Factor("one", "ordinal", "", (2.0,)), Factor("ring", "circular", "", (0.0, 1.0), period=1.0)):
        with pytest.raises(DataError, match="takes one value only, so that no pair of images differs in it"):
            another_value(single, np.zeros(3), np.random.default_rng(0))


@pytest.fixture
def vae(settings):
    return build_vae((1, 8, 8), settings("vae")).eval().requires_grad_(False)


def test_running_from_a_layer_is_what_patching_it_gives_bit_for_bit(vae, images) -> None:
    inputs, others = (torch.from_numpy(images.images[part]) for part in (slice(0, 6), slice(6, 12)))
    for layer in layer_names(vae.encoder):
        own, given = activations(vae.encoder, layer, inputs), each_layer(vae.encoder, inputs)[layer]
        assert torch.equal(own, given)
        assert torch.equal(run_from(vae.encoder, layer, own), vae.encoder(inputs))
        values = own.clone()
        values[:, [0, 2]] = activations(vae.encoder, layer, others)[:, [0, 2]]
        expected = patched(vae.encoder, layer, inputs, activations(vae.encoder, layer, others), [0, 2])
        assert torch.equal(run_from(vae.encoder, layer, values), expected)
    with pytest.raises(ModelError, match="no layer is called 'deconv9' to run from"):
        run_from(vae.encoder, "deconv9", own)


@pytest.mark.parametrize("layer", ["conv1", "hidden"])
def test_each_unit_alone_is_a_patch_of_one_unit(layer, vae, images) -> None:
    inputs, others = (torch.from_numpy(images.images[part]) for part in (slice(0, 6), slice(6, 12)))
    before, after = (activations(vae.encoder, layer, each) for each in (inputs, others))
    found = np.zeros((6, before.shape[1], 6))
    for pairs, units, added in each_unit_alone(vae.encoder, layer, before, after, torch.clone, batch_size=5):
        found[pairs, units] = added.numpy()
    for unit in range(before.shape[1]):
        expected = patched(vae.encoder, layer, inputs, after, [unit]) - vae.encoder(inputs)
        assert found[:, unit] == pytest.approx(expected.numpy(), abs=1e-6)  # batches of other sizes round differently
    assert np.abs(found).max() > 1e-3
    assert list(each_unit_alone(vae.encoder, layer, before, before, torch.clone)) == []  # own activations


WEIGHTS = torch.tensor([[2.0, 0, 1], [0, -1, 1], [1, 1, 0], [0, 0, 3]]).double()  # (unit, input)
READOUT = torch.tensor([[1.0, 0, 2, -1], [0, 3, 1, 0]]).double()  # (output, unit)
STEP = torch.tensor([0.5, -1.0, 2.0]).double()  # what the factor adds to the inputs


class Linear(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, values: Tensor) -> Tensor:
        return values @ self.weights.T


def linear_side(read=torch.clone) -> Side:
    source = np.random.default_rng(0)
    before = torch.from_numpy(source.normal(size=(80, 3)))
    after = before + torch.from_numpy(source.normal(size=(80, 1))) * STEP
    network = nn.Sequential(OrderedDict(units=Linear(WEIGHTS), output=Linear(READOUT)))
    return Side(network, before, after, read)


def test_a_linear_network_gives_the_closed_forms() -> None:
    side = linear_side()
    given = tuple(each_layer(side.network, each)["units"] for each in (side.before, side.after))
    source = np.random.default_rng(1)
    found = layer_study(side, "units", given, share=0.5, source=source, latent=1, of_latents=True)
    added = READOUT * (WEIGHTS @ STEP)  # (output, unit): what each unit passes on for a step of 1
    full = added.sum(1)
    alone = (added * full[:, None]).sum(0) / full.square().sum()
    tried, second = halves_of(80)
    assert found["alone"].values == pytest.approx(np.tile(alone, (len(tried), 1)))
    step = ((side.after - side.before) @ STEP / STEP.square().sum()).numpy()
    assert found["unit_latent"].values == pytest.approx(
        step[tried, None, None] * added.T.numpy()[None], rel=1e-5, abs=1e-6
    )
    chosen = found["chosen"].values
    assert set(chosen) == set(np.argsort(-alone.numpy())[:2])
    assert found["together"].values == pytest.approx(np.full(40, float(alone[chosen].sum())))
    total, direct, indirect, interaction = found["mediation"].values
    size = np.abs(step[second])
    sign = float(torch.sign(full[1]))
    assert total == pytest.approx(size * abs(float(full[1])))
    assert indirect == pytest.approx(sign * size * float(added[1, chosen].sum()))
    assert direct == pytest.approx(total - indirect)
    assert interaction == pytest.approx(np.zeros(40), abs=1e-12)
    # in units of their own spread, whatever their weights: those of the same input change alike
    values = torch.cat(given)
    assert found["activity"].values == pytest.approx(
        (given[1] - given[0]).abs().numpy() / values.std(0, correction=0).numpy()
    )


def test_all_units_carry_all_and_random_ones_what_is_due_to_them() -> None:
    side = linear_side()
    given = tuple(each_layer(side.network, each)["units"] for each in (side.before, side.after))
    every = layer_study(side, "units", given, share=1, source=np.random.default_rng(0), latent=0, of_latents=False)
    assert every["together"].values == pytest.approx(np.ones(40))
    assert every["random_together"].values == pytest.approx(np.ones((RANDOM, 32)))
    total, direct, indirect, _ = every["mediation"].values
    assert np.abs(direct).max() < 1e-12
    assert indirect == pytest.approx(total)
    assert every["random_indirect"].values == pytest.approx(np.full(RANDOM, total[:32].mean()))
    assert every["alone"].values.sum(1) == pytest.approx(np.ones(64))


def test_changes_are_in_the_unit_of_the_spread_within_places() -> None:
    before = torch.tensor([[[0.0, 10.0]], [[2.0, 10.0]]]).double()
    after = torch.tensor([[[2.0, 10.0]], [[0.0, 10.0]]]).double()
    found = changes(before, after)
    spread = np.sqrt(0.5)  # variances 1 and 0 over images, their mean over two places
    assert found.activity == pytest.approx(np.full((2, 1), np.sqrt(2) / spread))
    assert found.signed[:, 0] == pytest.approx([1 / spread, -1 / spread])
    assert found.overall == pytest.approx([2.0])
    assert (changes(before[:, :, 1:], after[:, :, 1:]).activity == 0).all()


@pytest.mark.parametrize("kind", ["vae", "vq_vae"])
def test_where_nothing_changes_nothing_is_found(kind, images, settings) -> None:
    vae = build_vae((1, 8, 8), settings(kind)).eval().requires_grad_(False)
    same = images.images[:20]
    deviation = None if kind == "vq_vae" else np.array([1.0, 2.0, 0.5])
    tree = factor_tree(vae, deviation, Pairs(same, same, np.zeros(20), np.ones(20)), "row", MEASURES)
    assert not tree["moved"].values.any()
    assert tree.attrs["layers"] == [
        f"{side}.{layer}"
        for side, network in (("encoder", vae.encoder), ("decoder", vae.decoder))
        for layer in layer_names(network)[:-1]
    ]
    for name in tree.attrs["layers"]:
        layer = tree[name]
        for key in ("activity", "signed", "alone", "together", "random_together", "twins", "compared"):
            assert not layer[key].values.any(), (name, key)
        assert ("mediation" in layer) == (kind == "vae" and name.startswith("encoder"))
        if "mediation" in layer:
            assert not layer["mediation"].values.any()
            assert layer["mediation"].shape == (len(EFFECTS), 10)
            assert layer["unit_latent"].shape == (20, layer.sizes["unit"], 3)
    assert (tree.attrs["latent"] == -1) == (kind == "vq_vae")


def test_moves_are_those_of_the_means_in_the_spread_given(vae, images) -> None:
    pairs = Pairs(images.images[:20], images.images[20:40], np.zeros(20), np.ones(20))
    deviation = np.array([1.0, 2.0, 0.5])
    tree = factor_tree(vae, deviation, pairs, "row", MEASURES)
    means = [vae.encode(torch.from_numpy(each))[0].numpy() for each in (pairs.before, pairs.after)]
    assert tree["moved"].values == pytest.approx((means[1] - means[0]) / deviation, abs=1e-5)
    latent = np.abs(tree["moved"].values[:10]).mean(0).argmax()
    assert tree.attrs["latent"] == latent
    total, *parts = tree["encoder.conv1"]["mediation"].values
    assert total == pytest.approx(np.abs(tree["moved"].values[10:, latent]), abs=1e-5)
    assert np.abs(total - sum(parts)).max() < 1e-6
    assert tree["twins_moved"].shape == (2, 3)
    other = factor_tree(vae, deviation, pairs, "column", MEASURES)
    for name in tree.attrs["layers"]:  # twins are the same for all factors, or they would have no ratio
        assert (other[name]["twins"].values == tree[name]["twins"].values).all()


# What is chosen is chosen on the first half of the pairs, and what is said of it is of the second half.


def half_by_half(first: int, second: int) -> xr.Dataset:
    """Return what is found where `first` alone of four units changes in the first half of 80 pairs, and `second` alone,
    three times as much, in the second half; all units count alike."""
    before = torch.from_numpy(np.random.default_rng(2).normal(size=(80, 4)))
    after = before.clone()
    after[:40, first] += 1
    after[40:, second] += 3
    network = nn.Sequential(OrderedDict(units=nn.Identity(), output=Linear(torch.ones(1, 4).double())))
    side = Side(network, before, after, torch.clone)
    return layer_study(
        side, "units", (before, after), share=0.25, source=np.random.default_rng(0), latent=0, of_latents=False
    )


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (0, 3), (3, 1), (2, 1)])
def test_units_are_chosen_on_the_first_half_of_pairs_and_measured_on_the_second(first, second) -> None:
    found = half_by_half(first, second)
    assert found["chosen"].values.tolist() == [first]  # whatever changes in the second half, and however much more
    assert found["together"].values == pytest.approx(np.zeros(40))
    total, direct, indirect, _ = found["mediation"].values
    assert total == pytest.approx(np.full(40, 3))
    assert direct == pytest.approx(total)
    assert indirect == pytest.approx(np.zeros(40))
    # one unit at random is the one that changes in the second half, and carries all, or is another
    every = found["random_together"].values
    assert every == pytest.approx(np.tile(np.rint(every[:, :1]), (1, 32)))
    same = half_by_half(second, second)
    assert same["chosen"].values.tolist() == [second]
    assert same["together"].values == pytest.approx(np.ones(40))
    assert every == pytest.approx(same["random_together"].values)


def test_the_latent_is_chosen_on_the_first_half_of_pairs(vae, images) -> None:
    """Of pairs that move the first latent more and pairs that move the second more: those that come first decide."""
    means = vae.encode(torch.from_numpy(images.images))[0].double().numpy()
    one, two = (each.ravel() for each in np.indices((64, 64)))
    moved = np.abs(means[one] - means[two])
    order = np.argsort(np.log(moved[:, 0] + 1e-3) - np.log(moved[:, 1] + 1e-3))
    of_second, of_first, also = order[:10], order[-10:], order[-20:-10]
    scale = 0.9 * moved[of_first, 0].sum() / moved[of_first, 1].sum()  # so that the first wins its pairs, if just so
    deviation = np.array([1, 1 / scale, 1e6])

    def chosen(*halves: np.ndarray) -> int:
        rows = np.concatenate(halves)
        pairs = Pairs(images.images[one[rows]], images.images[two[rows]], np.zeros(20), np.ones(20))
        return factor_tree(vae, deviation, pairs, "row", MEASURES).attrs["latent"]

    total = (moved / deviation)[np.concatenate([of_first, of_second])].mean(0)
    assert total.argmax() == 1  # over all pairs
    assert chosen(of_first, of_second) == chosen(of_first, also) == 0
    assert chosen(of_second, of_first) == 1


def test_twins_move_in_the_spread_of_their_own_means(vae, images) -> None:
    """Of two images alone, the standard deviation is half of their difference, whatever the weights."""
    one, other = (np.repeat(images.images[[number]], 20, axis=0) for number in (3, 60))
    tree = factor_tree(vae, np.ones(3), Pairs(one, other, np.zeros(20), np.ones(20)), "row", MEASURES)
    assert tree["twins_moved"].values == pytest.approx(np.full((2, 3), 2), rel=1e-4)
