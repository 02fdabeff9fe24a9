"""Effects per window of timesteps: equal to means by hand, with their own nulls and matched controls."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import kstest

from diffmech.artifacts import write_json, write_store
from diffmech.config.analysis import AblationConfig
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.windows import ablation_windows, resolve_windows, sign_flip_max_p, windows_of_group

CONFIG = AblationConfig(draws=200, permutations=999)
TIMESTEPS = [100, 300, 700, 900]
WINDOWS = [(0, 399), (400, 999)]


def ablated(rises: np.ndarray, *, owners: list[str] | None = None, noise: float = 0.002, seed: int = 0) -> xr.Dataset:
    """Return ablations of 16 samples that raise the loss by `rises` (target, timestep), give or take `noise`."""
    rng = np.random.default_rng(seed)
    targets = len(rises)
    names = [f"h{k:02d}" for k in range(targets)]
    clean = rng.uniform(0.5, 1.5, (16, len(TIMESTEPS)))
    wobble = noise * rng.normal(size=(targets, 1, *clean.shape))
    text = np.dtypes.StringDType()
    mse = clean * (1 + rises[:, None, None, :]) + wobble
    dims = ("target", "method", "sample", "timestep")
    return xr.Dataset(
        {
            "mse_ablated": (dims, mse),
            "shift": (dims, np.abs(mse - clean)),
            "distance_off": (dims, np.ones_like(mse)),
            "mse_clean": (dims[2:], clean),
            "members": (("target", "timestep"), np.full((targets, len(TIMESTEPS)), "x", dtype=text)),
            "control_of": ("target", np.array(owners or [""] * targets, dtype=text)),
            "kind": ("target", np.array(["self"] * targets, dtype=text)),
            "heads": ("target", np.ones(targets, dtype=np.int64)),
            "size": (("target", "timestep"), np.ones((targets, len(TIMESTEPS)))),
            "controls_fair": ("target", np.full(targets, bool(owners))),
        },
        coords={
            "target": np.array(names, dtype=text),
            "method": np.array(["mean"], dtype=text),
            "sample": np.arange(16),
            "timestep": TIMESTEPS,
        },
    )


def table_of(data: xr.Dataset, group: str = "heads", config: AblationConfig = CONFIG) -> pd.DataFrame:
    return windows_of_group({"real": data}, group, WINDOWS, ablation=config, seed=0).set_index(["target", "window"])


def test_a_method_that_ran_on_fewer_images_has_its_windows_from_these() -> None:
    whole = ablated(np.array([[0.1, 0.3, 0, 0], [0, 0, 0.05, 0.02]]))
    text = np.dtypes.StringDType()
    second = whole.assign_coords(method=np.array(["zero"], dtype=text))
    data = xr.concat([whole, second], "method", data_vars="minimal", coords="minimal", compat="override")
    data = data.transpose("target", "method", "sample", "timestep", ...)
    data["mse_ablated"] = data["mse_ablated"].where((data["method"] == "mean") | (data["sample"] < 9))
    table = windows_of_group({"real": data}, "heads", WINDOWS, ablation=CONFIG, seed=0)
    found = table[table["method"] == "zero"].reset_index(drop=True)
    expected = windows_of_group({"real": second.isel(sample=slice(9))}, "heads", WINDOWS, ablation=CONFIG, seed=0)
    assert set(found["n"]) == {9}
    pd.testing.assert_frame_equal(found, expected)
    assert set(table.loc[table["method"] == "mean", "n"]) == {16}


def test_the_effect_in_a_window_is_the_change_of_the_mean_loss_over_its_passes() -> None:
    rises = np.array([[0.1, 0.3, 0, 0], [0, 0, 0.05, 0.02]])
    data = ablated(rises)
    table = table_of(data)
    clean = data["mse_clean"].values
    for row, target in enumerate(("h00", "h01")):
        for window, columns in (("0-399", slice(0, 2)), ("400-999", slice(2, 4))):
            mse = data["mse_ablated"].values[row, 0]
            expected = 100 * (mse[:, columns].mean() / clean[:, columns].mean() - 1)
            assert table.loc[(target, window), "effect_percent"] == pytest.approx(expected)
            assert table.loc[(target, window), "shift"] == pytest.approx(np.abs(mse - clean)[:, columns].mean())
    assert table["timesteps"].tolist() == [2] * 4
    assert table["window_first"].tolist() == [0, 400, 0, 400]
    assert (table["p_zero_max"] < 0.01).tolist() == [True, False, False, True]


def test_the_distance_off_counts_only_timesteps_at_which_heads_were_replaced() -> None:
    data = ablated(np.zeros((1, 4)))
    data["members"].values[0, 0] = ""
    data["distance_off"].values[:] = [0, 5, 1, 3]
    assert table_of(data)["off_distribution"].tolist() == pytest.approx([5, 2])


def test_a_mechanism_beats_its_controls_in_the_window_in_which_it_matters_only() -> None:
    rng = np.random.default_rng(1)
    rises = np.zeros((22, 4))
    rises[0, 2:] = 0.2
    rises[2:, :] = 0.02 * rng.normal(size=(20, 1))
    names = ["", ""] + ["h00"] * 10 + ["h01"] * 10
    table = table_of(ablated(rises, owners=names), "mechanisms")
    assert table.loc[("h00", "400-999"), "p_control"] == pytest.approx(1 / 11)
    assert table.loc[("h00", "400-999"), "control_percentile"] == 100
    assert table.loc[("h00", "0-399"), "p_control"] > 0.15
    assert (table["p_control_adjusted"] >= table["p_control"]).all()


def test_p_values_of_effects_that_are_none_are_uniform_and_keep_the_family_wise_error() -> None:
    quick = AblationConfig(draws=2, permutations=199)
    p, smallest = [], []
    for seed in range(60):
        table = table_of(ablated(np.zeros((6, 4)), seed=seed), config=quick)
        p += table["p_zero"].tolist()
        smallest.append(table["p_zero_max"].min())
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(smallest) <= 0.1) < 0.2  # 0.1 expected, 60 families


def test_the_maximum_statistic_finds_what_holm_cannot_with_few_images_and_many_tests() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(8, 144))
    differences[:, 7] = 1 + 0.1 * rng.normal(size=8)
    p = sign_flip_max_p(differences, permutations=999, seed=0)
    assert p[7] < 0.02
    assert (np.delete(p, 7) > 0.05).all()
    assert (sign_flip_max_p(np.zeros((8, 3)), permutations=99, seed=0) == 1).all()


def test_phases_and_thirds_without_a_pass_are_left_out(tmp_path: Path) -> None:
    spans = [(0, 1, 0, 90), (50, 1, 0, 90), (100, 2, 100, 200), (900, 3, 900, 950)]
    columns = ["timestep", "phase", "phase_first", "phase_last"]
    pd.DataFrame(spans, columns=columns).to_csv(tmp_path / "phases.csv", index=False)
    assert resolve_windows("phases", [150, 920], 1000, tmp_path / "phases.csv") == [(100, 200), (900, 950)]
    assert resolve_windows("thirds", [10, 999], 1000) == [(0, 332), (667, 999)]
    assert resolve_windows("thirds", range(100), 100) == [(0, 32), (33, 66), (67, 99)]
    with pytest.raises(StoreError, match=r"none\.csv: cannot be read as a table"):
        resolve_windows("phases", [150], 1000, tmp_path / "none.csv")


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the window 0 to 1000 is outside the schedule.*within 0 to 999"):
        resolve_windows([(0, 1000)], TIMESTEPS, 1000)
    with pytest.raises(ConfigError, match=r"the window 110 to 290 holds none of the timesteps \[100, 300"):
        resolve_windows([(0, 999), (110, 290)], TIMESTEPS, 1000)


def test_a_model_that_does_not_say_how_long_its_schedule_is_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", {"kind": "diffusers"})
    with pytest.raises(StoreError, match=r"model\.json: does not say how many timesteps it has; delete it to have it"):
        ablation_windows({}, tmp_path / "model.json", None, tmp_path / "w.csv", ablation=CONFIG, seed=0)


def test_the_table_is_written_sorted_from_stores(tmp_path: Path) -> None:
    write_store(tmp_path / "a.zarr.zip", ablated(np.zeros((2, 4))))
    write_json(tmp_path / "model.json", {"timesteps": 1000})
    stores = {"synthetic": {"heads": [tmp_path / "a.zarr.zip"]}, "real": {"heads": [tmp_path / "a.zarr.zip"]}}
    config = CONFIG.model_copy(update={"windows": [(500, 999), (0, 400)]})
    for name in ("one", "two"):
        ablation_windows(stores, tmp_path / "model.json", None, tmp_path / f"{name}.csv", ablation=config, seed=0)
    table = pd.read_csv(tmp_path / "one.csv")
    assert table["domain"].tolist() == ["real"] * 4 + ["synthetic"] * 4
    assert table["window"].tolist() == ["0-400", "500-999"] * 4
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
