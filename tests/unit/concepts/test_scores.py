"""Scores are what J loses when a weight is set to 0: exactly where it is linear, as derivatives elsewhere."""

import numpy as np
import pytest
import torch

from diffmech.concepts.asking import asking_for
from diffmech.concepts.gradients import added, gradients, read_gradients, write_gradients
from diffmech.concepts.groups import weights
from diffmech.concepts.masks import Mask, applied
from diffmech.concepts.objectives import Points, amplify_points, erase_points, objective
from diffmech.concepts.trajectories import Trajectories, restarted_trajectories, sample_trajectories
from diffmech.config.studies.concepts import NamedConcept
from diffmech.errors import ModelError, StoreError
from diffmech.models.denoiser import Condition

GLASSES = NamedConcept(name="glasses")


def linear_points(linear, *, steps=(3, 9), samples=3):
    draw = torch.Generator().manual_seed(1)
    shape = (len(steps), samples, 1, 2, 2)
    told = Condition(torch.full((samples,), -1), torch.ones(samples, 1))
    x_t, targets = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    return Points(x_t, targets, tuple(steps), (told,) * len(steps))


def knocked_out(denoiser, points, name, position):
    intact = objective(denoiser, points, batch_size=8).mean()
    with applied(denoiser, Mask.of({name: np.array([position])})):
        return intact - objective(denoiser, points, batch_size=8).mean()


def test_second_order_scores_of_a_linear_denoiser_are_exact_knock_out_effects(linear):
    points, among = linear_points(linear), weights(linear)
    # one sample at a time, as each weight touches one output: random signs then square to the curvature exactly
    found = gradients(linear, points, among, batch_size=1, curvature=True)
    scores = found.scores(among, "second")
    assert {weight.group for weight in among} == {"feed_forward", "conditioning"}
    for weight in among:
        actual = [knocked_out(linear, points, weight.name, place) for place in range(weight.parameter.numel())]
        np.testing.assert_allclose(scores[weight.name].reshape(-1), actual, rtol=1e-4, atol=1e-6)


def test_first_order_misses_just_the_curvature_there(linear):
    points, among = linear_points(linear), weights(linear, ["feed_forward"])
    found = gradients(linear, points, among, batch_size=1, curvature=True)
    name, squares = among[0].name, points.x_t.square().mean((0, 1)).reshape(-1)
    # J is a mean over four pixels, each weight touches one, and d eps_hat / dw is its input
    curvature = (2 / 4 * squares).expand(4, 4)
    np.testing.assert_allclose(found.curvature[name], curvature, rtol=1e-5)
    first, second = (found.scores(among, order)[name] for order in ("first", "second"))
    np.testing.assert_allclose(first - second, among[0].parameter ** 2 * curvature / 2, rtol=1e-4, atol=1e-7)


def test_first_order_scores_are_exact_where_the_objective_is_linear(linear):
    # far from its targets J is linear in each weight, up to a share of their distance
    points = linear_points(linear)
    far = Points(points.x_t, points.targets + 1e4, points.timesteps, points.conditions)
    among = weights(linear, ["feed_forward"])
    scores = gradients(linear, far, among, batch_size=8).scores(among, "first")[among[0].name].reshape(-1)
    actual = [knocked_out(linear, far, among[0].name, place) for place in range(16)]
    np.testing.assert_allclose(scores, actual, rtol=1e-2, atol=1e-4 * float(np.abs(actual).max()))


def test_parts_of_the_points_add_up(linear, tmp_path):
    points, among = linear_points(linear, steps=(3, 9, 12)), weights(linear)
    whole = gradients(linear, points, among, batch_size=8)
    parts = []
    for number, steps in enumerate(([0], [1, 2])):
        part = gradients(linear, points.of(steps), among, batch_size=8, total=points.count)
        write_gradients(part, tmp_path / f"{number}.safetensors", {"window": number})
        parts.append(read_gradients(tmp_path / f"{number}.safetensors"))
    for name, values in added(parts).gradient.items():
        np.testing.assert_allclose(values, whole.gradient[name], rtol=1e-5, atol=1e-7)
    assert set(added(parts).inputs) == {"ff.weight"}
    assert not any(parameter.requires_grad for parameter in linear.module.parameters())
    (tmp_path / "odd.safetensors").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"odd\.safetensors: holds no gradients"):
        read_gradients(tmp_path / "odd.safetensors")


def test_gradients_that_overflow_are_refused(linear):
    points = linear_points(linear)
    linear.module.half()
    far = Points(points.x_t * 300, points.targets + 3e4, points.timesteps, points.conditions)
    with pytest.raises(ModelError, match=r"weight: .* gradients are infinite or NaN in torch\.float16"):
        gradients(linear, far, weights(linear), batch_size=8)


def test_one_trajectory_passes_through_the_points_that_restarting_finds(linear, runtime):
    (told,) = asking_for(linear, GLASSES).conditions("asked", 2, 0, [0])
    settings = {"steps": 10, "guidance": 3.0, "seed": 5, "runtime": runtime}
    once, anew = (sample(linear, told, **settings) for sample in (sample_trajectories, restarted_trajectories))
    assert torch.equal(once.points, anew.points)
    assert torch.equal(once.images, anew.images)
    assert (once.guided_steps, anew.guided_steps) == (10, 55)


def test_weights_without_which_nothing_asks_for_the_concept_have_the_highest_score(linear):
    # told.weight alone makes the difference between asking and not
    draw = torch.Generator().manual_seed(2)
    points = torch.randn(2, 3, 1, 2, 2, generator=draw)
    asked, base = (asking_for(linear, GLASSES).conditions(way, 3, 0, (3, 9)) for way in ("asked", "base"))
    erase = erase_points(linear, Trajectories(points, (3, 9), points[0], 2), asked, base, batch_size=2)
    scores = gradients(linear, erase, weights(linear), batch_size=8).scores(weights(linear), "first")
    # the base is the same denoiser's own prediction: what both share cancels, so J = mean(b^2), fallen to 0 without b
    np.testing.assert_allclose(scores["told.weight"], 2 / 4 * linear.module.told.weight**2, rtol=1e-4)


def test_gradients_of_halves_do_not_vanish_in_a_mean_over_many_points(linear):
    points, among = linear_points(linear), weights(linear)
    linear.module.half()
    halves = gradients(linear, points, among, batch_size=8, total=10**8)
    linear.module.float()
    expected = gradients(linear, points, among, batch_size=8, total=10**8)
    for name, values in expected.gradient.items():
        assert 0 < values.abs().max() < 2**-24  # less than the least half
        # each gradient is a sum of at most 24 products of halves
        np.testing.assert_allclose(halves.gradient[name], values, atol=24 * 2**-11 * float(values.abs().max()))


def derivative(denoiser, points, parameter, position, step=1e-4):
    flat, own = parameter.data.view(-1), float(parameter.data.view(-1)[position])
    values = []
    for sign in (1, -1):
        flat[position] = own + sign * step
        values.append(objective(denoiser, points, batch_size=8).mean())
    flat[position] = own
    return own * (values[0] - values[1]) / (2 * step)


def test_scores_of_the_bundled_denoiser_match_finite_differences(faces, runtime):
    asking = asking_for(faces, GLASSES)
    sampled = asking.trajectories(2, steps=2, guidance=3.0, seed=7, runtime=runtime)
    asked, base, weak = (asking.conditions(way, 2, 7, sampled.timesteps) for way in ("asked", "base", "weak"))
    objectives = {
        "erase": erase_points(faces, sampled, asked, base, batch_size=8),
        "amplify": amplify_points(sampled, weak, asking.noised, seed=7),
    }
    among = weights(faces)
    largest = {}
    for name, points in objectives.items():
        scores = gradients(faces, points, among, batch_size=8).scores(among, "first")
        for group in ("feed_forward", "cross_value", "self_query", "convolution", "norm", "conditioning"):
            weight = max((w for w in among if w.group == group), key=lambda w: float(scores[w.name].abs().max()))
            place = int(scores[weight.name].abs().argmax())
            largest[name, weight.name, place] = float(scores[weight.name].reshape(-1)[place])
    try:
        for module in (faces.module, faces.tokens):
            module.double()  # differences of float32 objectives would be rounding
        known = {weight.name: weight.parameter for weight in weights(faces)}
        for (name, weight, place), score in largest.items():
            exact = derivative(faces, objectives[name], known[weight], place)
            assert score == pytest.approx(exact, rel=1e-3), (name, weight, place)
    finally:
        for module in (faces.module, faces.tokens):
            module.float()
