"""Where images belong together, persons take the place of images: in the tables of ablation, patching, attribution."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_attribution_table import inputs, make_table  # noqa: F401
from test_patching_study import QUICK, grid_of
from test_windows_of_ablation import CONFIG, TIMESTEPS, WINDOWS, ablated

from diffmech.artifacts import write_json, write_store
from diffmech.config.analysis import AblationConfig
from diffmech.errors import StoreError
from diffmech.interventions.effects import ablation_effects, effects_of_group
from diffmech.interventions.patching_table import dose_response, effects_of_source, patching_effects
from diffmech.interventions.stores import in_units, with_units
from diffmech.interventions.windows import ablation_windows, windows_of_group
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.units import over_units

PERSONS = np.array(list("abacdbbefagcdhha"))
RISES = np.array([[0.1, 0.3, 0, 0], [0, 0, 0.05, 0.02], [0.01, 0, 0, 0], [0.02, 0.02, 0, 0]])


def write_groups(path, groups=PERSONS):
    pd.DataFrame({"sample": range(len(groups)), "group": groups}).to_csv(path, index=False)
    return path


def of_persons(data: xr.Dataset) -> xr.Dataset:
    """Return a store of one image per person, which has the means over the images of this person."""
    names = [name for name in data.data_vars if "sample" in data[name].dims]
    means = {
        name: (data[name].dims, over_units(data[name].values, PERSONS, axis=data[name].get_axis_num("sample")))
        for name in names
    }
    return data.drop_dims("sample").assign(means).assign_coords(sample=np.arange(len(set(PERSONS))))


def test_effects_and_windows_of_persons_are_those_of_one_image_each(tmp_path):
    data = ablated(RISES, noise=0.1)
    persons = effects_of_group({"real": with_units(data, PERSONS)}, "heads", ablation=CONFIG, seed=0)
    expected = effects_of_group({"real": of_persons(data)}, "heads", ablation=CONFIG, seed=0)
    pd.testing.assert_frame_equal(persons, expected)
    assert persons["n"].unique().tolist() == [8]
    of_images = effects_of_group({"real": data}, "heads", ablation=CONFIG, seed=0)
    assert (persons["effect_percent"] - of_images["effect_percent"]).abs().max() > 0.1
    windows = windows_of_group({"real": with_units(data, PERSONS)}, "heads", WINDOWS, ablation=CONFIG, seed=0)
    pd.testing.assert_frame_equal(
        windows, windows_of_group({"real": of_persons(data)}, "heads", WINDOWS, ablation=CONFIG, seed=0)
    )


def test_one_domain_may_have_persons_and_the_other_none(tmp_path):
    stores = {}
    for seed, domain in enumerate(("real", "synthetic")):
        write_store(tmp_path / domain, ablated(RISES, noise=0.1, seed=seed))
        stores[domain] = {"heads": [tmp_path / domain]}
    groups = {"real": write_groups(tmp_path / "groups.csv")}
    ablation_effects(stores, tmp_path / "effects.csv", ablation=CONFIG, seed=0, groups=groups)
    table = pd.read_csv(tmp_path / "effects.csv").groupby("domain")["n"].unique()
    assert (table["real"].tolist(), table["synthetic"].tolist()) == ([8], [16])
    write_json(tmp_path / "model.json", {"timesteps": 1000})
    given = (stores, tmp_path / "model.json", None, tmp_path / "windows.csv")
    ablation_windows(*given, ablation=CONFIG.model_copy(update={"windows": WINDOWS}), seed=0, groups=groups)
    table = pd.read_csv(tmp_path / "windows.csv").groupby("domain")["n"].unique()
    assert (table["real"].tolist(), table["synthetic"].tolist()) == ([8], [16])
    alone = {"synthetic": write_groups(tmp_path / "alone.csv", ["x"] * 16)}
    with pytest.raises(StoreError, match=r"the 16 synthetic images that are studied .* are of 1 group"):
        ablation_effects(stores, tmp_path / "none.csv", ablation=CONFIG, seed=0, groups=alone)
    assert not (tmp_path / "none.csv").exists()


def test_a_method_that_ran_on_some_images_has_the_persons_of_these():
    whole = ablated(RISES, noise=0.1)
    second = whole.assign_coords(method=np.array(["zero"], dtype=np.dtypes.StringDType()))
    data = xr.concat([whole, second], "method", data_vars="minimal", coords="minimal", compat="override")
    data = data.transpose("target", "method", "sample", "timestep", ...)
    data["mse_ablated"] = data["mse_ablated"].where((data["method"] == "mean") | (data["sample"] < 5))
    table = effects_of_group({"real": with_units(data, PERSONS)}, "heads", ablation=CONFIG, seed=0)
    some = with_units(second.isel(sample=slice(5)), PERSONS[:5])
    expected = effects_of_group({"real": some}, "heads", ablation=CONFIG, seed=0)
    pd.testing.assert_frame_equal(table[table["method"] == "zero"].reset_index(drop=True), expected)
    assert expected["n"].unique().tolist() == [4]


def test_intervals_of_ablation_effects_cover_by_persons_and_not_by_images():
    """2,000 studies, each a timestep, of 30 persons with 4 to 8 images, whose changes share 0.8 within a person."""
    rng, studies, persons = np.random.default_rng(0), 2000, 30
    person = rng.permutation(np.repeat(np.arange(persons), rng.integers(4, 9, persons)))

    def alike():
        own, each = rng.standard_normal((persons, studies)), rng.standard_normal((len(person), studies))
        return 0.8**0.5 * own[person] + 0.2**0.5 * each

    clean = 1 + 0.1 * alike()
    mse = 1.1 * clean + 0.1 * alike()
    text, dims = np.dtypes.StringDType(), ("target", "method", "sample", "timestep")
    data = xr.Dataset(
        {
            **dict.fromkeys(("mse_ablated", "shift", "distance_off"), (dims, mse[None, None])),
            "mse_clean": (dims[2:], clean),
            "members": (("target", "timestep"), np.full((1, studies), "x", dtype=text)),
            **{
                name: ("target", np.array([value], dtype=text))
                for name, value in (("control_of", ""), ("kind", "self"))
            },
            "heads": ("target", np.ones(1, dtype=int)),
        },
        coords={
            "target": np.array(["h"], dtype=text),
            "method": np.array(["mean"], dtype=text),
            "sample": np.arange(len(person)),
            "timestep": np.arange(studies),
        },
    )
    config, covered = AblationConfig(draws=400, permutations=1), []
    for marked in (with_units(data, person), data):
        table = effects_of_group({"real": marked}, "layers", ablation=config, seed=0).query("timestep != 'all'")
        covered.append(((table["low"] <= 10) & (table["high"] >= 10)).mean())
    assert 0.93 <= covered[0] <= 0.97
    assert covered[1] < 0.75


def test_patching_moves_the_share_of_persons(tmp_path):
    share = np.random.default_rng(0).normal(0.3, 0.1, (4, 3, 2, 16, 3))
    share[..., 2, :, :, :] += 0.1
    difference = np.ones((16, 3))
    difference[[3, 11], 0] = 0  # one person has no other images: its two passes do not differ
    grid = grid_of(share, [0.5, 1.0, 2.0], difference=difference)
    kept = np.setdiff1d(np.arange(16), [3, 11])
    marked = with_units(grid, PERSONS)
    table = effects_of_source(marked, [(0, 400), (401, 999)], patching=QUICK, seed=0)
    assert table["n"].unique().tolist() == [7]
    rows = table[table["dose"] == 1.0].set_index(["target", "direction", "window"])
    persons = over_units(share[2, 1, 0][kept].mean(-1), PERSONS[kept])
    expected = bootstrap_mean(persons, draws=QUICK.draws, confidence=QUICK.confidence, seed=0)
    found = rows.loc[("h02", "denoising", "all"), ["effect", "low", "high"]].tolist()
    assert found == pytest.approx([expected.estimate, expected.low, expected.high], rel=1e-6)
    response = dose_response(marked, patching=QUICK, seed=0)
    assert response["n"].unique().tolist() == [7]
    write_store(tmp_path / "grid.zarr.zip", grid)
    stores, out = {"real": {"sample": tmp_path / "grid.zarr.zip"}}, (tmp_path / "e.csv", tmp_path / "d.csv")
    groups = {"real": write_groups(tmp_path / "groups.csv")}
    patching_effects(stores, None, *out, patching=QUICK, windows="thirds", seed=0, groups=groups)
    assert [pd.read_csv(path)["n"].unique().tolist() for path in out] == [[7], [7]]


def test_attribution_has_intervals_over_persons(tmp_path, inputs, model_json, latents, monkeypatch):  # noqa: F811
    images, _ = make_table(tmp_path, inputs, model_json, latents)
    import test_attribution_table as plain

    groups = {"real": write_groups(tmp_path / "groups.csv", list("aabcb"))}
    original = plain.attribution_table
    monkeypatch.setattr(plain, "attribution_table", lambda *given, **named: original(*given, **named, groups=groups))
    persons, _ = make_table(tmp_path, inputs, model_json, latents)
    assert persons.groupby("domain")["n"].unique().map(list).to_dict() == {"real": [3], "synthetic": [5]}
    same = persons["domain"] == "synthetic"
    pd.testing.assert_frame_equal(persons[same], images[same])
    assert (persons["estimate"] != images["estimate"])[~same].mean() > 0.9


def test_marks_change_no_image():
    data = ablated(RISES)
    assert in_units(data) is data
    assert with_units(data, None) is data
    assert list(data["timestep"].values) == list(TIMESTEPS)
    xr.testing.assert_allclose(
        in_units(with_units(data, np.arange(16)))["mse_ablated"].drop_vars("sample"),
        data["mse_ablated"].drop_vars("sample"),
    )
