"""Bootstrap intervals cover what they say, agree with scipy, and fail loudly."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmech.statistics import bootstrap
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic, bootstrap_two_groups, resampling_weights

METHODS = ["studentised", "percentile", "bca"]
REPLICATES = 2000  # columns are independent experiments; the standard error of a coverage of 95 % is 0.5 %


def coverage(interval, truth):
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


def widened_tail(n):
    """Return the level at which the low end of a percentile interval of 95 % is read: as far out as Student's t."""
    return scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, n - 1) * np.sqrt(n / (n - 1)))


@pytest.mark.parametrize("method", METHODS)
def test_interval_of_a_mean_covers_the_known_mean(method):
    values = np.random.default_rng(1).normal(0.7, 2.0, size=(200, REPLICATES))
    assert 0.93 <= coverage(bootstrap_mean(values, method=method), 0.7) <= 0.97


@pytest.mark.parametrize("method", METHODS)
def test_interval_of_a_ratio_of_paired_means_covers_the_known_ratio(method):
    source = np.random.default_rng(2)
    clean = source.gamma(4.0, 0.5, size=(200, REPLICATES))
    ablated = 1.3 * clean + source.normal(0, 0.5, size=clean.shape)
    interval = bootstrap_statistic(lambda a, b: a / b, ablated, clean, method=method)
    assert 0.93 <= coverage(interval, 1.3) <= 0.97


@pytest.mark.parametrize("method", METHODS)
def test_interval_of_a_ratio_of_independent_groups_covers_the_known_ratio(method):
    source = np.random.default_rng(3)
    real, synthetic = source.normal(3.0, 1.0, (150, REPLICATES)), source.normal(2.0, 1.0, (220, REPLICATES))
    interval = bootstrap_two_groups(lambda a, b: a / b, real, synthetic, method=method)
    assert 0.93 <= coverage(interval, 1.5) <= 0.97


def test_studentised_and_bca_err_evenly_on_both_sides_of_a_skewed_mean_and_percentile_does_not():
    values = np.random.default_rng(4).exponential(1.0, size=(40, 4000))
    miss = {}
    for method in METHODS:
        interval = bootstrap_mean(values, method=method)
        miss[method] = float(np.mean(interval.high < 1) - np.mean(interval.low > 1))
    assert abs(miss["bca"]) < abs(miss["percentile"])
    assert abs(miss["studentised"]) < abs(miss["percentile"])


def test_standard_error_behind_a_percentile_interval_is_the_plug_in_standard_error():
    values = np.random.default_rng(5).normal(size=400)
    interval = bootstrap_mean(values, draws=20000, method="percentile")
    half = 1.959964 * values.std() / np.sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.03)


@pytest.mark.parametrize(("method", "scipy_name"), [("percentile", "percentile"), ("bca", "BCa")])
def test_interval_of_a_skewed_sample_agrees_with_scipy(method, scipy_name):
    sample = np.random.default_rng(6).lognormal(0.0, 1.0, size=60)
    ours = bootstrap_mean(sample, draws=40000, method=method)
    theirs = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=40000,
        method=scipy_name,
        rng=np.random.default_rng(0),
        batch=4000,
        confidence_level=1 - 2 * widened_tail(60),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_bca_of_two_groups_agrees_with_scipy():
    source = np.random.default_rng(7)
    a, b = source.exponential(2.0, size=50), source.exponential(1.0, size=70)
    ours = bootstrap_two_groups(lambda x, y: x / y, a, b, draws=40000, method="bca")
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(x, axis=axis) / np.mean(y, axis=axis),
        n_resamples=40000,
        method="BCa",
        rng=np.random.default_rng(0),
        batch=4000,
        confidence_level=1 - 2 * widened_tail(54),  # of Welch's degrees of freedom, 53
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_bca_acceleration_of_a_mean_is_its_skewness_over_six_root_n():
    sample = np.random.default_rng(8).exponential(size=90)
    group = bootstrap._group([sample], "group 0")
    plugin = group.split(group.centred.mean(axis=0, keepdims=True))
    acceleration = bootstrap._acceleration(bootstrap._influences(lambda mean: mean, [group], plugin))
    assert acceleration == pytest.approx(scipy.stats.skew(sample) / (6 * np.sqrt(90)))


def test_bca_acceleration_of_a_difference_of_groups_adds_their_third_and_second_moments():
    source = np.random.default_rng(16)
    a, b = source.exponential(size=6), source.exponential(3.0, size=40)
    groups = [bootstrap._group([a], "group 0"), bootstrap._group([b], "group 1")]
    plugin = [a.mean(keepdims=True), b.mean(keepdims=True)]
    third = scipy.stats.moment(a, 3) / 6**2 - scipy.stats.moment(b, 3) / 40**2
    expected = third / (6 * (a.var() / 6 + b.var() / 40) ** 1.5)
    influences = bootstrap._influences(lambda x, y: x - y, groups, plugin)
    assert bootstrap._acceleration(influences) == pytest.approx(expected)


def test_weights_are_multinomial_counts():
    weights = resampling_weights(25, 4000, seed=0)
    counts = weights * 25
    assert weights.shape == (4000, 25)
    assert np.allclose(counts, np.round(counts))
    assert np.allclose(weights.sum(axis=1), 1)
    assert counts.mean() == pytest.approx(1)
    assert counts.var() == pytest.approx(1 - 1 / 25, rel=0.03)
    assert np.mean(counts == 0) == pytest.approx((1 - 1 / 25) ** 25, abs=0.01)


def test_more_draws_extend_a_run_and_blocks_do_not_change_it(monkeypatch):
    whole = resampling_weights(37, 500, seed=3)
    assert np.array_equal(resampling_weights(37, 120, seed=3), whole[:120])
    values = np.random.default_rng(9).normal(size=(37, 11))
    before = bootstrap_mean(values, draws=500, method="bca")
    monkeypatch.setattr(bootstrap, "BLOCK_ELEMENTS", 37 * 7)
    monkeypatch.setattr(bootstrap, "COLUMNS_AT_ONCE", 4)
    assert np.array_equal(resampling_weights(37, 500, seed=3), whole)
    after = bootstrap_mean(values, draws=500, method="bca")
    for end in ("estimate", "low", "high"):
        assert np.allclose(getattr(before, end), getattr(after, end), rtol=0, atol=1e-12)


def test_mean_is_the_statistic_identity_and_the_weights_applied_by_hand():
    values = np.random.default_rng(10).normal(size=(30, 2, 3))
    direct = bootstrap_mean(values, seed=5, method="percentile")
    general = bootstrap_statistic(lambda mean: mean, values, seed=5, method="percentile")
    tail = widened_tail(30)
    by_hand = np.quantile(np.tensordot(resampling_weights(30, 2000, seed=5), values, axes=1), [tail, 1 - tail], axis=0)
    assert direct.low.shape == (2, 3)
    assert np.allclose(direct.low, general.low)
    assert np.allclose(direct.low, by_hand[0])
    assert np.allclose(direct.high, by_hand[1])


def test_studentised_interval_measures_each_draw_by_its_own_standard_error():
    sample = np.random.default_rng(17).exponential(size=25)
    resampled = [np.repeat(sample, np.round(25 * w).astype(int)) for w in resampling_weights(25, 2000, seed=1)]
    t = [(draw.mean() - sample.mean()) / (draw.std() / 5) for draw in resampled]
    low, high = np.quantile(t, [0.025, 0.975])
    interval = bootstrap_mean(sample, seed=1)
    assert interval.low == pytest.approx(sample.mean() - high * sample.std() / 5)
    assert interval.high == pytest.approx(sample.mean() - low * sample.std() / 5)


@pytest.mark.parametrize("method", METHODS)
def test_interval_of_a_share_stays_between_0_and_1(method):
    successes = np.arange(12)[:, None] < np.arange(13)  # (sample, number of successes)
    interval = bootstrap_mean(successes, method=method)
    assert np.all(interval.low >= -1e-12)
    assert np.all(interval.high <= 1 + 1e-12)
    assert np.all((interval.low < interval.estimate)[1:-1] & (interval.estimate < interval.high)[1:-1])


def test_percentile_interval_of_few_samples_is_as_wide_as_that_of_students_t():
    values = np.random.default_rng(18).normal(size=(8, 400))
    interval = bootstrap_mean(values, draws=4000, method="percentile")
    exact = 2 * scipy.stats.t.ppf(0.975, 7) * values.std(axis=0, ddof=1) / np.sqrt(8)
    assert np.median((interval.high - interval.low) / exact) == pytest.approx(1, abs=0.06)


def test_paired_arrays_are_resampled_in_step_and_groups_are_not():
    values = np.random.default_rng(11).normal(5.0, 1.0, size=100)
    paired = bootstrap_statistic(lambda a, b: a / b, values, values)
    assert paired.low == paired.high == 1.0
    independent = bootstrap_two_groups(lambda a, b: a / b, values, values)
    assert independent.low < 0.99 < 1.01 < independent.high


def test_variance_of_a_difference_of_groups_is_the_sum_of_theirs():
    source = np.random.default_rng(12)
    a, b = source.normal(size=300), source.normal(0, 2.0, size=300)
    interval = bootstrap_two_groups(lambda x, y: x - y, a, b, draws=20000)
    expected = 2 * 1.959964 * np.sqrt(a.var() / 300 + b.var() / 300)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.03)


def test_statistic_may_reduce_trailing_axes():
    effects = np.random.default_rng(13).gamma(2.0, size=(50, 8))

    def effective_heads(mean):
        return mean.sum(axis=-1) ** 2 / (mean**2).sum(axis=-1)

    interval = bootstrap_statistic(effective_heads, effects)
    assert interval.estimate == pytest.approx(effective_heads(effects.mean(axis=0)))
    assert interval.low < interval.high <= 8.0


@pytest.mark.parametrize("method", METHODS)
def test_constant_values_have_an_interval_of_no_width(method):
    interval = bootstrap_mean(np.full((20, 3), 0.1), method=method)
    assert np.array_equal(interval.estimate, np.full(3, 0.1))
    assert np.array_equal(interval.low, interval.estimate)
    assert np.array_equal(interval.high, interval.estimate)


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_has_an_estimate_and_no_interval(method):
    interval = bootstrap_mean(np.array([[1.0, 2.0]]), method=method)
    assert np.array_equal(interval.estimate, [1.0, 2.0])
    assert np.isnan(interval.low).all()
    assert np.isnan(interval.high).all()
    lonely = bootstrap_two_groups(lambda a, b: a - b, np.arange(5.0), np.array([1.0]), method=method)
    assert lonely.estimate == 1.0
    assert np.isnan(lonely.low)


def test_bca_is_undefined_where_every_draw_lies_on_one_side():
    values = np.random.default_rng(15).normal(size=50)
    centre = values.mean()
    interval = bootstrap_statistic(lambda mean: (mean - centre) ** 2, values, method="bca")
    assert interval.estimate == pytest.approx(0.0, abs=1e-25)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)


def test_ratio_with_an_empty_denominator_has_no_interval():
    interval = bootstrap_statistic(lambda a, b: a / b, np.zeros(10), np.zeros(10))
    assert np.isnan(interval.estimate)
    assert np.isnan(interval.low)


def test_a_column_without_interval_leaves_the_others_alone():
    values = np.random.default_rng(14).normal(3.0, 1.0, size=(20, 2)) * [1, 0]
    interval = bootstrap_statistic(lambda mean: 1 / mean, values)
    assert np.isfinite(interval.low[0])
    assert not np.isfinite(interval.estimate[1])


@given(
    data=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    shift=st.floats(-100, 100),
    scale=st.floats(0.1, 10),
)
@settings(max_examples=50, deadline=None)
def test_percentile_interval_moves_with_shift_and_scale(data, shift, scale):
    values = np.array(data)
    before, after = bootstrap_mean(values, draws=100), bootstrap_mean(shift + scale * values, draws=100)
    assert after.low == pytest.approx(shift + scale * before.low, rel=1e-9, abs=1e-7)
    assert after.high == pytest.approx(shift + scale * before.high, rel=1e-9, abs=1e-7)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.sampled_from(METHODS))
@settings(max_examples=50, deadline=None)
def test_higher_confidence_never_narrows_an_interval(data, method):
    narrow, wide = (bootstrap_mean(np.array(data), draws=200, confidence=c, method=method) for c in (0.8, 0.95))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


def test_scalar_results_are_plain_floats_and_integers_are_welcome():
    interval = bootstrap_mean([1, 2, 3, 4])
    assert [type(end) for end in (interval.estimate, interval.low, interval.high)] == [float] * 3
    assert interval.estimate == 2.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_refused_by_name_and_count(bad):
    values = np.ones((4, 2))
    values[1, 0] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite values of 8"):
        bootstrap_mean(values)


@pytest.mark.unchecked
def test_mistakes_are_named():
    values = np.ones(5)
    with pytest.raises(ValueError, match="array 1 of group 0 has 4 samples, array 0 has 5"):
        bootstrap_statistic(lambda a, b: a - b, values, np.ones(4))
    with pytest.raises(ValueError, match="must keep draws along axis 0"):
        bootstrap_statistic(lambda mean: mean.mean(), values)
    with pytest.raises(ValueError, match="draws is 0"):
        bootstrap_mean(values, draws=0)
    with pytest.raises(ValueError, match="draws is 0"):
        resampling_weights(5, 0, seed=0)
    with pytest.raises(ValueError, match="n=0"):
        resampling_weights(0, 5, seed=0)
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_mean(values, confidence=95)
    with pytest.raises(ValueError, match="method is 'normal'"):
        bootstrap_mean(values, method="normal")
    with pytest.raises(ValueError, match="single number"):
        bootstrap_mean(3.0)
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap_mean(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="holds no array"):
        bootstrap_two_groups(lambda a: a, values, [])
