"""Which weights an edit changes, and in which groups they are found."""

import numpy as np
import pytest
import torch

from diffmech.concepts.asking import asking_for
from diffmech.concepts.baselines import baseline, replaced, uce_values
from diffmech.concepts.gradients import Gradients
from diffmech.concepts.groups import Weight, weights
from diffmech.concepts.selection import equally_many, select
from diffmech.config.studies.concepts import NamedConcept
from diffmech.errors import ConfigError, ModelError
from diffmech.models.denoiser import Denoiser
from diffmech.testing import FAMILIES, tiny_model


def drawn(among, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {weight.name: torch.randn(weight.parameter.shape, generator=draw) for weight in among}


def test_the_papers_settings_choose_the_weights_of_its_released_code(faces):
    among, ratio = weights(faces, ["feed_forward"]), 0.02
    gradient = drawn(among)
    # arXiv 2412.02542: matrices with "ff" in their name; of each row int(ratio * inputs) with the highest w dJ/dw >= 0
    expected = {}
    for name, weight in faces.module.named_parameters():
        if "ff" in name and weight.dim() == 2:
            alpha = weight * gradient[name]
            top = alpha.topk(int(ratio * alpha.shape[1]), dim=1).indices
            mask = torch.zeros_like(alpha, dtype=torch.bool).scatter(1, top, True) & (alpha >= 0)
            expected[name] = mask.flatten().nonzero()[:, 0].numpy()
    scores = Gradients(gradient).scores(among, "first")
    found = select(scores, among, granularity="row", dose=ratio)
    assert found.indices.keys() == expected.keys()
    for name, positions in expected.items():
        np.testing.assert_array_equal(found.indices[name], positions)
    assert found.count == sum(map(len, expected.values()))


def test_a_share_that_rounds_down_to_nothing_is_said(faces):
    among = weights(faces, ["feed_forward"])
    scores = {name: values.abs() for name, values in drawn(among).items()}
    # rows have 64 and 256 inputs
    part = select(scores, among, granularity="row", dose=0.005)
    rows = {name.shape[1]: name.shape[0] for name in (weight.parameter for weight in among)}
    assert (part.units, part.rounded_to_zero) == (3 * (512 + 64), 3 * rows[64])
    assert part.count == 3 * 64  # one of each 256
    with pytest.raises(ConfigError, match=r"the dose 0\.001 by row changes no weight: rounded down it is 0 in each of"):
        select(scores, among, granularity="row", dose=0.001)
    with pytest.raises(ConfigError, match="no score there is positive"):
        select({name: -values for name, values in scores.items()}, among, granularity="global", dose=5)


@pytest.mark.parametrize(("granularity", "units"), [("global", 1), ("matrix", 24), ("row", 24 * 64), ("head", 48)])
def test_doses_count_in_units(faces, granularity, units):
    among = [weight for weight in weights(faces) if weight.group.startswith(("self_", "cross_"))]
    scores = {name: values.abs() for name, values in drawn(among).items()}
    found = select(scores, among, granularity=granularity, dose=3)
    assert (found.units, found.count) == (units, 3 * units)
    # the same number again, of the highest in each unit
    again = equally_many(scores, among, found.indices, granularity=granularity)
    assert {name: values.tolist() for name, values in again.items()} == {
        name: values.tolist() for name, values in found.indices.items()
    }


def test_heads_own_rows_of_queries_and_columns_of_outputs(faces):
    among = weights(faces, ["self_query", "self_out"])
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    scores = {weight.name: torch.full(weight.parameter.shape, -1.0) for weight in among}
    scores[f"{name}.to_q.weight"][8:16] = 1  # head 1 of 8 in 64 channels
    scores[f"{name}.to_out.0.weight"][:, 8:16] = 1
    found = select(scores, among, granularity="head", dose=0.25)
    rows = found.indices[f"{name}.to_q.weight"] // 64
    assert found.count == 64 * 16 // 4
    assert set(rows) == {8, 9, 10, 11}  # equal scores in the order of the weights
    with pytest.raises(ModelError, match="no weight of these groups belongs to one attention head"):
        select(drawn(weights(faces, ["convolution"])), weights(faces, ["convolution"]), granularity="head", dose=1)


def family(name):
    return Denoiser(tiny_model(name), None, (4, 16, 16))  # type: ignore[arg-type]


EXPECTED = {
    "unet": {"self_query", "self_out", "convolution", "norm"},
    "sd1": {"feed_forward", "self_query", "cross_query", "cross_value", "cross_out", "convolution", "norm"},
    "dit": {"feed_forward", "self_value", "conditioning"},
    "sd3": {"feed_forward", "joint_query", "joint_out"},
    "flux": {"feed_forward", "joint_query", "joint_out", "norm"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_are_grouped_by_module_and_name_in_every_family(name):
    denoiser = family(name)
    found = weights(denoiser)
    assert EXPECTED[name] <= {weight.group for weight in found}
    assert len({weight.name for weight in found}) == len(found)
    parameters = dict(denoiser.module.named_parameters())
    assert all(parameters[weight.name] is weight.parameter for weight in found)
    in_attention = {weight.name for weight in found if weight.group.endswith(("query", "key", "value", "out"))}
    projections = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    assert in_attention == {
        f"{path}.weight" for path, _ in denoiser.module.named_modules() if path.endswith(projections)
    }


def test_a_group_that_the_model_lacks_is_refused_by_name():
    with pytest.raises(ModelError, match=r"UNet2DModel has no weights of the group 'feed_forward', only of self_query"):
        weights(family("unet"), ["feed_forward"])


def test_every_family_is_known():
    assert all(weights(family(name)) for name in FAMILIES)


def counts(indices, among, granularity):
    shapes = {weight.name: weight.parameter.shape for weight in among}
    if granularity == "row":
        size = {name: int(np.prod(shape[1:])) for name, shape in shapes.items()}
        return {name: np.bincount(places // size[name]).tolist() for name, places in indices.items()}
    return sum(map(len, indices.values()))


@pytest.mark.parametrize("granularity", ["global", "row"])
@pytest.mark.parametrize("kind", ["random", "random_rows", "magnitude", "gradient", "wanda"])
def test_baselines_change_equally_many_weights(faces, kind, granularity):
    among = weights(faces, ["feed_forward"])
    found = Gradients(drawn(among), inputs={weight.name: torch.rand(weight.parameter.shape[1]) for weight in among})
    own = select(found.scores(among, "first"), among, granularity=granularity, dose=0.02).indices
    settings = {"granularity": granularity, "seed": 0}
    chosen = baseline(kind, own, among, found, **settings)
    assert counts(chosen, among, granularity) == counts(own, among, granularity)
    again = baseline(kind, own, among, found, draw=1, **settings)
    drawn_anew = any(not np.array_equal(chosen[name], again.get(name)) for name in chosen)
    assert drawn_anew == kind.startswith("random")
    if kind == "random_rows":
        assert counts(chosen, among, "row") == counts(own, among, "row")
        assert not any(set(chosen[name]) & set(own[name]) for name in own)


def test_baselines_rank_by_what_they_are_called(linear):
    ff = next(weight for weight in weights(linear) if weight.group == "feed_forward")
    with torch.no_grad():
        ff.parameter.copy_(torch.arange(16.0).reshape(4, 4) - 8)
    gradient = torch.zeros(4, 4)
    gradient[2, 1] = -5
    found = Gradients({ff.name: gradient}, inputs={ff.name: torch.tensor([0.0, 0, 0, 4])})
    one = {ff.name: np.array([7])}

    def place(kind, gradients):
        return baseline(kind, one, [ff], gradients, granularity="global")[ff.name].tolist()

    assert place("magnitude", found) == [0]  # |-8|
    assert place("gradient", found) == [9]
    assert place("wanda", found) == [15]  # 7 x 2; the other inputs are silent
    both = Gradients(found.gradient, inputs=found.inputs | {ff.name: torch.tensor([1.0, 1, 1, 4])})
    both.base_inputs[ff.name] = torch.tensor([0.5, 0.5, 0.5, 9])
    assert place("wanda", both) == [0]  # input 3 is larger without the concept


def test_uce_gives_the_concept_the_values_of_its_absence_and_keeps_all_others(faces):
    number, tokens = faces.attributes.index("glasses"), faces.tokens
    edited = uce_values(faces, asking_for(faces, NamedConcept(name="glasses")).cross_tokens())
    asked, base = tokens.base[number] + tokens.slope[number], tokens.base[number]
    hat = faces.attributes.index("hat")
    kept = tokens.base[hat] + tokens.slope[hat]
    for weight in weights(faces, ["cross_value"]):
        old, new = weight.parameter, edited[weight.name]
        before, moved = (old @ (asked - base)).norm(), (new @ asked - old @ base).norm()
        assert moved < 0.1 * before
        assert (new @ kept - old @ kept).norm() < 0.1 * before
    pointers = [weight.parameter.data_ptr() for weight in weights(faces)]
    with replaced(faces, edited):
        assert all(torch.equal(weight.parameter, edited[weight.name]) for weight in weights(faces, ["cross_value"]))
    assert [weight.parameter.data_ptr() for weight in weights(faces)] == pointers


def test_a_norm_is_one_row_and_matrices_have_one_row_per_output():
    norm = Weight("norm.weight", torch.nn.Parameter(torch.ones(5)), "norm")
    matrix = Weight("ff.weight", torch.nn.Parameter(torch.ones(2, 3)), "feed_forward")
    scores = {"norm.weight": torch.arange(5.0), "ff.weight": torch.arange(6.0).reshape(2, 3)}
    found = select(scores, [norm, matrix], granularity="row", dose=1)
    assert {name: places.tolist() for name, places in found.indices.items()} == {
        "norm.weight": [4],
        "ff.weight": [2, 5],
    }
