"""The table of effects: its numbers by hand, its nulls, its corrections and its bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.analysis import AblationConfig
from diffmech.errors import StoreError
from diffmech.interventions.decisions import CAUSAL, DIFFERS, NOT_REMOVED, NOTHING, UNFAIR, UNTOLD
from diffmech.interventions.effects import ablation_effects, effects_of_group
from diffmech.interventions.stores import open_ablation
from diffmech.interventions.tables import EFFECTS
from diffmech.statistics.multiplicity import holm

CONFIG = AblationConfig(draws=500, permutations=999)


def store(
    effects: dict[str, float],
    *,
    samples: range = range(24),
    controls: dict[str, list[float]] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return ablations that raise the loss of every sample by `effects` percent, give or take a little."""
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0.5, 1.5, (100, 2))[samples]
    names, owners, rises = list(effects), [""] * len(effects), list(effects.values())
    for owner, values in (controls or {}).items():
        names += [f"{owner}~control{k:03d}" for k in range(len(values))]
        owners += [owner] * len(values)
        rises += values
    wobble = rng.uniform(-0.5, 0.5, (len(names), 1, 100, 2))[:, :, list(samples)]
    wobble[np.array(rises) == 0] = 0
    text = np.dtypes.StringDType()
    ablated = clean * (1 + np.array(rises)[:, None, None, None] / 100 + 0.01 * wobble)
    dims = ("target", "method", "sample", "timestep")
    return xr.Dataset(
        {
            "mse_ablated": (dims, ablated),
            "shift": (dims, np.abs(ablated - clean)),
            "distance_off": (dims, np.ones_like(ablated)),
            "mse_clean": (dims[2:], clean),
            "members": (("target", "timestep"), np.full((len(names), 2), "x", dtype=text)),
            "control_of": ("target", np.array(owners, dtype=text)),
            "kind": ("target", np.array(["self"] * len(names), dtype=text)),
            "heads": ("target", np.full(len(names), 3)),
            "size": (("target", "timestep"), np.ones((len(names), 2))),
            "controls_fair": ("target", np.array([name in (controls or {}) for name in names])),
        },
        coords={
            "target": np.array(names, dtype=text),
            "method": np.array(["mean"], dtype=text),
            "sample": list(samples),
            "timestep": [100, 700],
        },
    )


def rows(table: pd.DataFrame, timestep: str = "all") -> pd.DataFrame:
    return table[table["timestep"] == timestep].set_index("target")


def test_the_effect_is_the_percentage_by_which_the_mean_loss_rises() -> None:
    data = store({"a": 20.0, "b": -5.0})
    table = effects_of_group({"real": data}, "layers", ablation=CONFIG, seed=0)
    ablated, clean = data["mse_ablated"].values[0, 0], data["mse_clean"].values
    assert rows(table).loc["a", "effect_percent"] == pytest.approx(100 * (ablated.mean() / clean.mean() - 1))
    by_timestep = 100 * (ablated[:, 1].mean() / clean[:, 1].mean() - 1)
    assert rows(table, "700").loc["a", "effect_percent"] == pytest.approx(by_timestep)
    assert (table["low"] <= table["effect_percent"]).all()
    assert (table["effect_percent"] <= table["high"]).all()
    # Ablated and clean are resampled in step: the spread of the losses themselves does not widen the interval.
    assert (table["high"] - table["low"]).max() < 1


def test_no_effect_has_p_one_and_a_consistent_effect_the_smallest_p() -> None:
    table = rows(effects_of_group({"real": store({"none": 0.0, "some": 3.0})}, "layers", ablation=CONFIG, seed=0))
    assert table.loc["none", ["effect_percent", "low", "high", "shift", "p_zero"]].tolist() == [0, 0, 0, 0, 1]
    assert table.loc["some", "p_zero"] == pytest.approx(1 / 1000)


def test_a_harmful_and_a_helpful_ablation_are_both_effects() -> None:
    table = rows(effects_of_group({"real": store({"helps": -3.0, "harms": 3.0})}, "layers", ablation=CONFIG, seed=0))
    assert (table["p_zero_holm"] < 0.05).all()


def test_control_rank_counts_the_controls_that_hurt_as_much() -> None:
    data = store({"m": 10.0}, controls={"m": [float(k) for k in range(1, 21)]})
    row = rows(effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0)).loc["m"]
    effects = 100 * (data["mse_ablated"].values[:, 0].mean((1, 2)) / data["mse_clean"].values.mean() - 1)
    exceeding = int((effects[1:] >= effects[0]).sum())
    assert row["p_control"] == pytest.approx((1 + exceeding) / 21)
    assert row["control_percentile"] == pytest.approx(100 * (20 - exceeding) / 20)
    assert row["control_mean"] == pytest.approx(effects[1:].mean())
    assert row["control_low"] == pytest.approx(np.quantile(effects[1:], 0.025))


def test_the_effect_that_stands_beside_controls_is_of_their_images() -> None:
    """All images, so that one number stands beside the other."""
    data = store({"m": 10.0}, controls={"m": [9.0] * 20})
    row = rows(effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0)).loc["m"]
    losses = data["mse_ablated"].values[:, 0].mean((1, 2)) / data["mse_clean"].values.mean()
    assert (row["effect_percent"], row["control_mean"]) == pytest.approx(
        (100 * (losses[0] - 1), 100 * (losses[1:].mean() - 1))
    )
    assert row["n"] == data.sizes["sample"]


def test_controls_that_do_not_match_give_no_number() -> None:
    data = store({"m": 10.0}, controls={"m": [1.0] * 20})
    data["controls_fair"].values[:] = False
    row = rows(effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0)).loc["m"]
    assert row[["control_mean", "p_control", "p_control_adjusted"]].isna().all()
    assert row["verdict"] == UNFAIR


def test_the_others_of_its_kind_are_a_yardstick_of_a_head_and_no_test() -> None:
    data = store({f"h{k}": float(k) for k in range(6)})
    data["kind"].values[3:] = "cross"
    table = rows(effects_of_group({"real": data}, "heads", ablation=CONFIG, seed=0))
    assert table["control_percentile"].tolist() == pytest.approx([0, 50, 100] * 2)
    assert table[["p_control", "p_control_adjusted"]].isna().all(axis=None)
    assert set(table["verdict"]) <= {DIFFERS, NOTHING}


def test_a_family_is_all_targets_in_all_domains_and_timesteps_apart_from_their_mean() -> None:
    """Corrected per domain, twice as many studies of two domains would find something where there is nothing."""
    domains = {
        name: store({"a": 0.05, "b": 0.1, "c": 3.0}, seed=seed) for seed, name in enumerate(("real", "synthetic"))
    }
    table = effects_of_group(domains, "layers", ablation=CONFIG, seed=0)
    every = table["timestep"] == "all"
    assert every.sum() == 6
    for chosen in (table[every], table[~every]):
        np.testing.assert_allclose(chosen["p_zero_holm"], holm(chosen["p_zero"]))
        assert (chosen["p_zero_max"] >= chosen["p_zero"] - 1e-9).all()


@pytest.mark.parametrize(("images", "expected"), [(4, UNTOLD), (5, UNTOLD), (6, DIFFERS)])
def test_with_few_images_it_cannot_be_told_whether_there_is_an_effect(images: int, expected: str) -> None:
    """The smallest p of four random signs is 1/8, whatever the effect."""
    row = rows(effects_of_group({"real": store({"a": 63.0}, samples=range(images))}, "layers", ablation=CONFIG, seed=0))
    assert row.loc["a", "verdict"] == expected


def test_beside_what_is_not_found_stands_what_would_have_been() -> None:
    """Alone, a mechanism has to exceed all of its 20 sets, in four of five studies."""
    data = store({"m": 0.02}, controls={"m": np.random.default_rng(0).normal(size=20).tolist()})
    row = rows(effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0)).loc["m"]
    controls = 100 * (data["mse_ablated"].values[1:, 0].mean((1, 2)) / data["mse_clean"].values.mean() - 1)
    assert row["control_sd"] == pytest.approx(controls.std(ddof=1))
    width = (row["high"] - row["low"]) / 2
    margin = row["smallest_effect_control"] - controls.max()
    assert margin == pytest.approx(0.84 * width / 2.07, rel=0.2)  # Student's t of 23 images
    assert 1.2 * width < row["smallest_effect"] < 1.8 * width


def test_controls_that_are_moved_less_at_a_timestep_give_no_number_there() -> None:
    """Over all timesteps they match; at one of them they do not, whatever the mechanism costs there."""
    data = store({"m": 9.0}, controls={"m": np.random.default_rng(0).normal(size=20).tolist()})
    data["size"].values[1:, 1] = 0.7
    table = effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0).set_index("timestep")
    assert dict(table["verdict"]) == {"all": CAUSAL, "100": CAUSAL, "700": UNFAIR}
    assert np.isnan(table.loc["700", "p_control_adjusted"])


def test_a_mechanism_without_heads_at_a_timestep_is_not_called_without_effect_there() -> None:
    data = store({"m": 9.0}, controls={"m": np.random.default_rng(0).normal(size=20).tolist()})
    data["members"].values[:, 1] = ""
    data["mse_ablated"].values[..., 1] = data["mse_clean"].values[:, 1]
    table = effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0).set_index("timestep")
    assert table.loc["700", "verdict"] == NOT_REMOVED
    assert np.isnan(table.loc["700", "smallest_effect"])


def test_one_mechanism_beyond_all_controls_survives_correction_among_twelve() -> None:
    rng = np.random.default_rng(1)
    effects = {f"m{k:02d}": float(rng.normal()) for k in range(11)} | {"strong": 30.0}
    data = store(effects, controls={name: rng.normal(size=20).tolist() for name in effects})
    table = rows(effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0))
    assert table.loc["strong", "p_control_adjusted"] == pytest.approx(1 / 21)
    assert (table.drop("strong")["p_control_adjusted"] > 0.05).all()
    assert (table["p_control_adjusted"] >= table["p_control"]).all()


def test_without_controls_their_columns_are_empty() -> None:
    table = effects_of_group({"real": store({"a": 1.0})}, "mechanisms", ablation=CONFIG, seed=0)
    assert table[["control_mean", "p_control", "p_control_adjusted"]].isna().all(axis=None)


def test_the_table_is_sorted_complete_and_the_same_in_every_run(tmp_path: Path) -> None:
    whole = store({"b": 2.0, "a": 1.0})
    parts = [whole.isel(sample=slice(0, 10)), whole.isel(sample=slice(10, None))]
    paths = [tmp_path / f"{k}.zarr.zip" for k in range(3)]
    for path, part in zip(paths, [*parts, whole], strict=True):
        write_store(path, part)
    tables = [tmp_path / f"{k}.csv" for k in range(2)]
    stores = {"synthetic": {"layers": paths[2:]}, "real": {"layers": paths[:2]}}
    ablation_effects(stores, tables[0], ablation=CONFIG, seed=0)
    stores = {"real": {"layers": paths[1::-1]}, "synthetic": {"layers": paths[2:]}}
    ablation_effects(stores, tables[1], ablation=CONFIG, seed=0)
    assert tables[0].read_bytes() == tables[1].read_bytes()
    table = pd.read_csv(tables[0])
    assert list(table) == list(EFFECTS.columns)
    assert table["domain"].tolist() == ["real"] * 6 + ["synthetic"] * 6
    assert table["target"].tolist() == ["a", "a", "a", "b", "b", "b"] * 2
    assert table["timestep"].tolist() == ["all", "100", "700"] * 4
    real, synthetic = (table[table["domain"] == name].drop(columns="domain") for name in ("real", "synthetic"))
    assert (table["n"] == 24).all()
    pd.testing.assert_frame_equal(real.reset_index(drop=True), synthetic.reset_index(drop=True))


def test_shards_that_disagree_or_hold_nothing_are_errors(tmp_path: Path) -> None:
    for name, data in {
        "a": store({"x": 1.0}),
        "b": store({"y": 1.0}),
        "empty": store({"x": 1.0}, samples=range(0)),
    }.items():
        write_store(tmp_path / name, data)
    with pytest.raises(StoreError, match=r"b: its targets differ from those of .*a"):
        open_ablation([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(StoreError, match="empty: holds no sample"):
        open_ablation([tmp_path / "empty"])
    write_store(tmp_path / "moved", store({"x": 1.0}).assign_attrs(measure="shift"))
    with pytest.raises(StoreError, match=r"moved: measures another effect than .*a; make both anew"):
        open_ablation([tmp_path / "a", tmp_path / "moved"])
    assert open_ablation([tmp_path / "a", tmp_path / "empty"]).sizes["sample"] == 24
    write_store(tmp_path / "more", store({"x": 1.0}, samples=range(24, 30)))
    assert open_ablation([tmp_path / "more", tmp_path / "a"])["sample"].values.tolist() == list(range(30))


def test_blocks_and_shards_join_to_the_whole(tmp_path: Path) -> None:
    whole = store({"x": 1.0, "m": 2.0}, controls={"m": [1.0, 3.0]})
    paths = []
    for block in (1, 0):
        for shard in (slice(10, None), slice(0, 10)):
            paths.append(tmp_path / f"{block}-{shard.start}")
            write_store(paths[-1], whole.isel(timestep=[block], sample=shard))
    xr.testing.assert_equal(open_ablation(paths).transpose(*whole.dims), whole)
    with pytest.raises(StoreError, match=r"at timesteps \[700\] hold other samples than those at \[100\]"):
        open_ablation(paths[1:])


def test_a_control_that_differs_between_blocks_is_an_error(tmp_path: Path) -> None:
    data = store({"m": 2.0}, controls={"m": [1.0]})
    data["members"].values[:] = [["a b", "a b"], ["c d", "c e"]]
    write_store(tmp_path / "m", data)
    with pytest.raises(StoreError, match="m~control000 is one set of heads in one block and another in the next"):
        open_ablation([tmp_path / "m"])


def test_stores_of_other_heads_are_refused() -> None:
    """As where one domain, or the ablation of single heads, is older than the other."""
    data = store({"m": 2.0}, controls={"m": [1.0]})
    other = data.assign(members=data["members"].copy(data=np.full((2, 2), "y", np.dtypes.StringDType())))
    with pytest.raises(StoreError, match="synthetic: other mechanisms or controls were ablated than in real; delete"):
        effects_of_group({"real": data, "synthetic": other}, "mechanisms", ablation=CONFIG, seed=0)
    single = {"real": store({"h": 1.0})}
    with pytest.raises(StoreError, match="the ablations of single heads lack x; make them anew with the same model"):
        effects_of_group({"real": data}, "mechanisms", ablation=CONFIG, seed=0, heads=single)


def test_a_store_given_twice_is_refused(tmp_path: Path) -> None:
    """Its images, or its timesteps, would count twice."""
    first, overlap = tmp_path / "first.zarr.zip", tmp_path / "overlap.zarr.zip"
    write_store(first, store({"a": 5.0}))
    write_store(overlap, store({"a": 5.0}).isel(timestep=[0]))
    with pytest.raises(StoreError, match="hold the same sample; give each store once"):
        open_ablation([first, first])
    with pytest.raises(StoreError, match="hold the same timestep; give each store once"):
        open_ablation([first, overlap])


def unequal_losses() -> xr.Dataset:
    """Clean losses of 20 at t = 100 and of 1 at t = 700; a raises the first by 1 % and the second by 50 %."""
    data = store({"a": 0.0})
    clean = np.random.default_rng(0).uniform(0.9, 1.1, (24, 1)) * [20.0, 1.0]
    data["mse_clean"].values[:] = clean
    data["mse_ablated"].values[0, 0] = clean * [1.01, 1.5]
    return data


def test_the_weights_of_timesteps_are_their_shares_of_the_clean_loss() -> None:
    table = effects_of_group({"real": unequal_losses()}, "layers", ablation=CONFIG, seed=0)
    share = dict(zip(table["timestep"], table["weight"] / 100, strict=True))
    assert share["all"] == 1
    assert share["100"] == pytest.approx(20 / 21, rel=0.02)
    row = rows(table).loc["a"]
    assert row["effect_percent"] == pytest.approx(share["100"] * 1 + share["700"] * 50)
    assert row["effect_percent"] < 4


def test_beside_the_pooled_effect_stands_the_mean_over_timesteps_that_counts_each_alike() -> None:
    data = unequal_losses()
    noise = np.random.default_rng(1).normal(size=24)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    data["mse_ablated"].values[0, 0, :, 1] += 0.1 * noise
    table = effects_of_group({"real": data}, "layers", ablation=CONFIG, seed=0)
    row = rows(table).loc["a"]
    means = data.mean("sample")
    percent = 100 * (means["mse_ablated"].values[0, 0] / means["mse_clean"].values - 1)
    assert row["effect_mean"] == pytest.approx(percent.mean())
    assert row["effect_mean"] == pytest.approx(25.5, rel=0.1)
    # 10 % of the second loss over the root of 24 images, halved by the other timestep, 2.07 errors to either side
    assert row["effect_mean_high"] - row["effect_mean_low"] == pytest.approx(2 * 2.07 * 10 / np.sqrt(24) / 2, rel=0.25)
    assert row["effect_mean_low"] < row["effect_mean"] < row["effect_mean_high"]
    assert (
        table.loc[table["timestep"] != "all", ["effect_mean", "effect_mean_low", "effect_mean_high"]]
        .isna()
        .all(axis=None)
    )


def test_a_method_that_ran_on_fewer_images_says_its_own_n_and_takes_their_clean_losses() -> None:
    first, second = store({"a": 10.0, "b": 2.0}), store({"a": 30.0, "b": 4.0})
    data = xr.concat([first, second], "method", data_vars="minimal", coords="minimal", compat="override")
    data = data.assign_coords(method=np.array(["mean", "zero"], dtype=np.dtypes.StringDType()))
    for name in ("mse_ablated", "shift", "distance_off"):
        data[name] = data[name].transpose("target", "method", "sample", "timestep").copy()
        data[name].values[:, 1, 5:] = np.nan
    data["mse_clean"].values[5:] *= 100  # of images that the second method did not see
    data["mse_ablated"].values[:, 0, 5:] *= 100
    table = effects_of_group({"real": data}, "layers", ablation=CONFIG, seed=0)
    assert table.groupby("method")["n"].unique().map(list).to_dict() == {"mean": [24], "zero": [5]}
    assert table["effect_percent"].notna().all()
    assert table[["low", "high", "p_zero", "effect_mean"]][table["timestep"] == "all"].notna().all(axis=None)
    part = second.isel(sample=slice(5))
    part = part.assign_coords(method=np.array(["zero"], dtype=np.dtypes.StringDType()))
    expected = effects_of_group({"real": part}, "layers", ablation=CONFIG, seed=0)
    found = table[table["method"] == "zero"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    assert list(zip(table["target"], table["method"], strict=True)) == sorted(
        zip(table["target"], table["method"], strict=True)
    )
