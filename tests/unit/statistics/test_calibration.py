"""Intervals of 95 % cover in 93 to 97 % of studies, and p-values are uniform where there is nothing, table by table.

Studies run through the code that fills each table, many at once along an axis that the table keeps apart. A coverage
may leave the bounds by three standard errors of the simulation, which its number of studies tells.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.analysis import AblationConfig, ComplexityConfig, EntropyConfig
from diffmech.interventions.effects import effects_of_group
from diffmech.mechanisms.complexity import compare, effective_number
from diffmech.mechanisms.entropy import attention_entropy, divergence_interval
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.controls import rank_p
from diffmech.statistics.permutation import label_permutation, permutation_p

STUDIES = 1000
ALPHA = 0.05


def noise_of(share: float, studies: int) -> float:
    """Return three standard errors of a simulated share."""
    return 3 * np.sqrt(share * (1 - share) / studies)


def assert_covers(low, high, truth, *, at_least=0.93, at_most=0.97) -> None:
    low, high = np.asarray(low), np.asarray(high)
    share = np.mean((low <= truth) & (truth <= high))
    assert at_least - noise_of(at_least, low.size) <= share <= at_most + noise_of(at_most, low.size)


def assert_uniform(p, resolution: float) -> None:
    """Assert that p-values in steps of `resolution` are as even as those of `p.size` studies can be."""
    p = np.asarray(p)
    # the p-value of a uniform one on the grid, blurred within its step, is uniform on [0, 1]
    blurred = p - resolution * np.random.default_rng(99).random(p.shape)
    assert scipy.stats.kstest(blurred, "uniform").pvalue > 0.001
    assert np.mean(p <= ALPHA) <= ALPHA + noise_of(ALPHA, p.size)


def ablations(changes: np.ndarray, clean: np.ndarray, shift: np.ndarray | None = None) -> xr.Dataset:
    """Return a store of ablations that change the losses `clean` (sample, timestep) by `changes`.

    These are (target, sample, timestep), or (target, method, sample, timestep). A study may be a timestep, which the
    table treats one by one, or a method, since each has its own family of targets.
    """
    names, text = [f"h{k}" for k in range(len(changes))], np.dtypes.StringDType()
    changes = changes if changes.ndim == 4 else changes[:, None]
    shift = np.ones_like(changes) if shift is None else shift[:, None]
    dims = ("target", "method", "sample", "timestep")
    return xr.Dataset(
        {
            "mse_ablated": (dims, clean + changes),
            "shift": (dims, shift),
            "distance_off": (dims, np.ones_like(changes)),
            "mse_clean": (dims[2:], clean),
            "members": (("target", "timestep"), np.full((len(names), clean.shape[1]), "x", dtype=text)),
            "control_of": ("target", np.array([""] * len(names), dtype=text)),
            "kind": ("target", np.full(len(names), "self", dtype=text)),
            "heads": ("target", np.ones(len(names), dtype=int)),
        },
        coords={
            "target": np.array(names, dtype=text),
            "method": np.array([f"study{k:04d}" for k in range(changes.shape[1])], dtype=text),
            "sample": np.arange(len(clean)),
            "timestep": np.arange(clean.shape[1]),
        },
    )


def each_timestep(data: xr.Dataset, config: AblationConfig) -> pd.DataFrame:
    table = effects_of_group({"real": data}, "layers", ablation=config, seed=0)
    return table[table["timestep"] != "all"]


def each_method(data: xr.Dataset, config: AblationConfig, group: str) -> pd.DataFrame:
    table = effects_of_group({"real": data}, group, ablation=config, seed=0)
    return table[table["timestep"] == "all"]


def family_wise_error(table: pd.DataFrame, column: str) -> float:
    return float((table.groupby("method")[column].min() <= ALPHA).mean())


# Differences of losses as the bundled model shows them: of 48 heads most have a skewness below 1, a few of 2.
DIFFERENCES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: (rng.gamma(4.0, size=shape) - 4) / 2,
    "very skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "heavy tails": lambda rng, shape: rng.standard_t(5, shape),
}


@pytest.mark.parametrize("images", [16, 100])
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_intervals_of_ablation_effects_and_shifts_cover_with_few_images(kind, images):
    rng = np.random.default_rng(images)
    shape = (images, STUDIES)
    clean = rng.gamma(8.0, 1 / 8, shape)
    changes = 0.1 * clean + 0.1 * DIFFERENCES[kind](rng, shape)
    shift = rng.lognormal(0.0, 0.5, shape)
    config = AblationConfig(draws=600, permutations=1)
    table = each_timestep(ablations(changes[None], clean, shift[None]), config)
    assert len(table) == STUDIES
    assert_covers(table["low"], table["high"], 10.0)
    assert_covers(table["shift_low"], table["shift_high"], np.exp(0.125))


def test_percentile_intervals_would_not_cover_with_few_images():
    """The reason for studentised ones."""
    values = np.random.default_rng(0).exponential(size=(16, STUDIES))
    covered = {}
    for method in ("studentised", "percentile"):
        interval = bootstrap_mean(values, draws=600, method=method)
        covered[method] = np.mean((interval.low <= 1) & (interval.high >= 1))
    assert covered["percentile"] < 0.93 < covered["studentised"] + noise_of(0.93, STUDIES)


def test_p_values_of_no_effect_are_uniform():
    rng = np.random.default_rng(1)
    clean = rng.gamma(8.0, 1 / 8, (16, STUDIES))
    config = AblationConfig(draws=2, permutations=499)
    table = each_timestep(ablations(0.1 * rng.laplace(size=(1, 16, STUDIES)), clean), config)
    assert_uniform(table["p_zero"], 1 / 500)


def test_holm_keeps_the_family_wise_error_of_twelve_dependent_heads():
    rng, studies = np.random.default_rng(2), 250
    shared = rng.standard_normal((1, studies, 16, 1))
    changes = 0.1 * (shared + rng.standard_normal((12, studies, 16, 1)))
    table = each_method(ablations(changes, np.ones((16, 1))), AblationConfig(draws=2, permutations=499), group="layers")
    assert len(table) == 12 * studies
    assert family_wise_error(table, "p_zero") > 2 * ALPHA
    assert family_wise_error(table, "p_zero_holm") <= ALPHA + noise_of(ALPHA, studies)


def test_ranks_among_controls_are_uniform():
    """What they hold together, over targets and domains: tests/unit/interventions/test_decisions.py."""
    rng, controls = np.random.default_rng(3), 20
    p = rank_p(rng.normal(size=STUDIES), rng.normal(size=(controls, STUDIES)))
    assert_uniform(p, 1 / (1 + controls))


@pytest.mark.parametrize("images", [16, 100])
def test_intervals_of_entropies_cover(images, tmp_path):
    rng = np.random.default_rng(images)
    entropies = 3 - rng.gamma(4.0, 0.1, (images, 1, STUDIES))  # bounded from above, so skewed
    for name, lead in (("captured", ()), ("twins", (2,))):
        write_entropies(tmp_path / name, np.broadcast_to(entropies, (*lead, *entropies.shape)))
    table_of_heads = tmp_path / "heads.csv"
    attention_entropy(
        {"real": [tmp_path / "captured"]},
        {"real": tmp_path / "twins"},
        table_of_heads,
        entropy=EntropyConfig(draws=600),
        seed=0,
    )
    table = pd.read_csv(table_of_heads)
    assert len(table) == STUDIES
    assert_covers(table["low"], table["high"], 3 - 0.4)


def write_entropies(path: Path, entropies: np.ndarray) -> None:
    """Write ([twin,] sample, timestep, head) as a capture would be."""
    dims = ("twin", "sample", "timestep", "head")[4 - entropies.ndim :]
    coords = {
        "sample": np.arange(entropies.shape[-3]),
        "timestep": np.arange(entropies.shape[-2]),
        **({"twin": np.arange(len(entropies))} if "twin" in dims else {}),
    }
    site = "mid.0.self"
    root = xr.Dataset(
        {"loss": (dims[:-1], np.ones(entropies.shape[:-1]))}, coords=coords, attrs={"domain": "real", "sites": [site]}
    )
    values = {
        "entropy": (dims, entropies),
        "received": ((*dims, "key"), np.ones((*entropies.shape, 1), dtype=np.float16)),
    }
    attrs = {"kind": "self", "n_keys": 25, "h_max": float(np.log(25)), "grid": [5, 5]}
    heads = [f"{site}.h{index:04d}" for index in range(entropies.shape[-1])]
    write_store(path, xr.DataTree.from_dict({"/": root, f"/{site}": xr.Dataset(values, {"head": heads}, attrs)}))


@pytest.mark.parametrize(
    ("differing", "at_most"),
    [
        (1.0, 0.97),
        # where some differences are 0 either end takes its bound, so that coverage may be larger, never smaller
        (0.5, 1.0),
        (0.0, 1.0),
    ],
)
def test_intervals_of_the_divergence_cover_also_where_heads_do_not_differ(differing, at_most):
    rng = np.random.default_rng(5)
    heads, images, studies = 8, 50, 500
    difference = 0.5 * rng.choice([-1.0, 1.0], heads) * (np.arange(heads) < differing * heads)
    shape = (images, studies, heads)
    a, b = difference + rng.gumbel(0, 0.3, shape), rng.gumbel(0, 0.3, shape)
    weights = np.full((heads, 1), 1 / heads)
    low, high = divergence_interval(a, b, weights, draws=400, confidence=0.95, seed=0)
    assert_covers(low, high, np.abs(difference).mean(), at_most=at_most)


def test_p_values_of_the_divergence_are_uniform_where_the_domains_do_not_differ():
    rng = np.random.default_rng(6)
    a, b = (rng.gumbel(size=(20, STUDIES, 4)) for _ in range(2))
    p = permutation_p(*label_permutation(lambda x, y: np.abs(x - y).mean(axis=-1), a, b, permutations=199))
    assert_uniform(p, 1 / 200)


@pytest.mark.parametrize("images", [16, 100])
def test_intervals_of_complexity_ratios_cover(images):
    """Images differ in how much all heads matter, which makes effects of heads depend on each other."""
    rng = np.random.default_rng(images)
    studies = 300
    config = ComplexityConfig(draws=400, permutations=1)
    strength = {domain: rng.gamma(1.0, size=12) for domain in ("real", "synthetic")}
    number = {domain: float(effective_number(effects[None])[0]) for domain, effects in strength.items()}
    found = []
    for _ in range(studies):
        shifts = {
            domain: effects * rng.gamma(4.0, 0.25, (images, 1)) * rng.gamma(6.0, 1 / 6, (images, 12))
            for domain, effects in strength.items()
        }
        row = compare("effective_heads", shifts, effective_number, config, 0)
        found.append((row["low"], row["high"]))
    assert_covers(*np.array(found).T, number["real"] / number["synthetic"])
