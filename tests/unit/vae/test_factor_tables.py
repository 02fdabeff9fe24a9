"""The tables of what factors do inside VAEs: closed forms of what stands in the stores, and a study from end to end."""

import json

import numpy as np
import pytest
import xarray as xr

from diffmech.artifacts import open_store, write_store
from diffmech.config.factor_data import DSpritesLikeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.errors import StoreError
from diffmech.vae.account_factors import (
    WRITERS,
    Study,
    factor_tables,
    mediation_table,
    modularity_table,
    patching_table,
    read_studies,
)
from diffmech.vae.effects import modularity
from diffmech.vae.factor_images import FactorImages
from diffmech.vae.factor_study import study_factor
from diffmech.vae.tables import EFFECTS, MEDIATION, MODULARITY, PATCHING, UNITS
from diffmech.vae.training import train_vae

MEASURES = VaeMeasures(pairs=20, twins=2, share=0.25, draws=200, permutations=100)
TABLES = {table.name: table for table in (EFFECTS, UNITS, PATCHING, MEDIATION, MODULARITY)}
SPRITES = DSpritesLikeConfig(kind="dsprites_like", size=8)


def study(factor: str = "x", **layer: np.ndarray) -> Study:
    """Return what changing a factor of 20 pairs does to a layer of three units; pairs are weighed 1, 2, 1, 2, ..."""
    alone = np.tile([0.1, 0.6, 0.3], (20, 1))
    alone[10:] = [0.2, 0.4, 0.4]
    mediation = np.tile([[1.0], [0.25], [0.5], [0.25]], (1, 10))
    arrays = {
        "activity": np.ones((20, 3)),
        "signed": np.random.default_rng(0).normal(size=(20, 3)),
        "alone": alone,
        "chosen": np.array([1]),
        "together": np.tile([0.0, 0.6], 5),
        "random_together": np.array([[0.1, 0.4] * 5, [0.2, 0.2] * 5]),
        "mediation": mediation,
        "random_indirect": np.array([0.1, 0.3]),
        "twins_signed": np.tile(np.arange(20.0)[None, :, None], (2, 1, 3)),
    }
    root = {"before": np.zeros(20), "encoder_weight": np.tile([1.0, 2.0], 10)}
    return Study("vae", 0, factor, 2, root, {"encoder.conv1": arrays | layer})


def test_shares_are_of_the_sum_of_all_changes(tmp_path) -> None:
    patching_table([study()], tmp_path / "p.csv", measures=MEASURES)
    row = PATCHING.read(tmp_path / "p.csv").iloc[0]
    assert row.share == pytest.approx(2 * 0.6 / 3, rel=1e-5)  # pairs weigh 1 and 2
    assert row.low < row.share < row.high
    assert row.random == pytest.approx((0.3 + 0.2) / 2, rel=1e-5)
    assert 0.2 <= row.random_low < row.random_high <= 0.3
    assert row.half == 2  # 0.4 and 0.4, in the order of the first half of pairs
    assert (row.units, row.of) == (1, 3)


def test_units_that_never_carry_half_are_not_counted_and_no_change_has_no_share(tmp_path) -> None:
    none = study(alone=np.full((20, 3), 0.1))
    still = study("y", together=np.zeros(10), random_together=np.zeros((2, 10)), alone=np.zeros((20, 3)))
    still.root["encoder_weight"][:] = 0
    patching_table([none, still], tmp_path / "p.csv", measures=MEASURES)
    found = PATCHING.read(tmp_path / "p.csv")
    assert found.half.isna().all()
    assert np.isnan(found.share[1])
    assert np.isnan(found.random[1])


def test_mediated_effects_are_means_over_pairs_and_add_up(tmp_path) -> None:
    mediation_table([study()], tmp_path / "m.csv", measures=MEASURES)
    row = MEDIATION.read(tmp_path / "m.csv").iloc[0]
    assert [row.total, row.direct, row.indirect, row.interaction] == pytest.approx([1, 0.25, 0.5, 0.25])
    assert row.residual == 0
    assert row.random == pytest.approx(0.2)
    assert row.latent == 2
    broken = study()
    broken.layers["encoder.conv1"]["mediation"][3, 4] = 0  # a part is lost in one pair
    mediation_table([broken], tmp_path / "m.csv", measures=MEASURES)
    assert MEDIATION.read(tmp_path / "m.csv").residual[0] == pytest.approx(0.25)


def test_units_that_change_alike_are_no_modules_and_permuted_ones_are(tmp_path) -> None:
    alike = np.random.default_rng(1).normal(size=(20, 1)) * np.array([1.0, -2, 3])
    modularity_table([study(signed=alike), study("y", signed=alike)], tmp_path / "m.csv", measures=MEASURES)
    row = MODULARITY.read(tmp_path / "m.csv").iloc[0]
    assert row.modularity == pytest.approx(0, abs=1e-6)
    assert row.ceiling > 0.6
    assert row.untrained == pytest.approx(0, abs=1e-6)
    assert row.units == 3


def test_without_stores_the_tables_have_no_rows(tmp_path) -> None:
    outputs = {name: tmp_path / f"{name}.csv" for name in TABLES}
    factor_tables([], outputs, measures=MEASURES)
    assert set(WRITERS) == set(TABLES)
    for name, table in TABLES.items():
        assert table.read(outputs[name]).empty


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE and a VQ-VAE after one step, with what a codes store says of the spread of their latents."""
    from diffmech.config.analysis import RuntimeConfig
    from diffmech.config.vae import VaeConfig

    runtime = RuntimeConfig(device="cpu", progress=False)
    root = tmp_path_factory.mktemp("sprites")
    for kind in ("vae", "vq_vae"):
        config = VaeConfig.model_validate(
            {
                "family": {"kind": kind},
                "network": {"channels": [4, 4], "hidden": 8, "latents": 3},
                "training": {"steps": 1, "batch_size": 8},
            }
        )
        folder = root / kind / "0"
        images = FactorImages(DSpritesLike(8))
        train_vae(images, config, folder, root / "checkpoint", runtime=runtime, dataset={"kind": "sprites"})
        codes(folder, kind, 3)
        for factor in ("scale", "x"):
            study_factor(
                folder,
                folder / "codes.zarr.zip",
                folder / f"{factor}.zarr.zip",
                data=DSpritesLike(8),
                factor=factor,
                measures=MEASURES,
                runtime=runtime,
            )
    return root, runtime


def codes(folder, kind: str, latents: int, name: str = "codes") -> None:
    root = xr.Dataset(attrs={"data": "sprites", "family": kind, "vae_seed": 0, "continuous": kind == "vae"})
    groups = {"latents": xr.Dataset({"deviation": ("latent", np.full(latents, 0.5))})} if kind == "vae" else {}
    write_store(folder / f"{name}.zarr.zip", xr.DataTree.from_dict({"/": root, **groups}))


def test_a_study_goes_from_vaes_to_tables(trained, tmp_path) -> None:
    root, _ = trained
    stores = [root / kind / "0" / f"{factor}.zarr.zip" for kind in ("vae", "vq_vae") for factor in ("scale", "x")]
    outputs = {name: tmp_path / f"{name}.csv" for name in TABLES}
    factor_tables(read_studies(stores), outputs, measures=MEASURES)
    found = {name: table.read(outputs[name]) for name, table in TABLES.items()}
    effects = found[EFFECTS.name]
    assert set(effects.family) == {"vae"}  # a VQ-VAE has no latents
    moved = open_store(stores[1])["moved"].values
    assert effects[effects.factor == "x"].change.to_numpy() == pytest.approx(np.abs(moved).mean(0), rel=1e-4)
    assert (effects.untrained > 10 * effects.change).all()  # in their own spread, which a fresh posterior is beyond
    units = found[UNITS.name]
    assert set(units.family) == {"vae", "vq_vae"}
    of_vae = units[units.family == "vae"].groupby("layer", sort=False).size()
    names = ("encoder.conv1", "encoder.conv2", "encoder.hidden", "decoder.hidden", "decoder.grid", "decoder.deconv1")
    assert tuple(of_vae.index) == names
    assert of_vae.tolist() == [4, 4, 8, 8, 4, 4]
    assert set(found[MEDIATION.name].family) == {"vae"}
    assert found[MEDIATION.name].residual.max() < 1e-6
    assert len(found[PATCHING.name]) == 2 * (6 + 4)
    assert len(found[MODULARITY.name]) == 6 + 4


def test_codes_of_another_vae_and_stores_that_are_no_studies_are_refused(trained) -> None:
    root, runtime = trained
    folder = root / "vae" / "0"
    codes(folder, "vae", 5, "others")
    codes(folder, "vq_vae", 0, "none")
    for name, count in (("others", 5), ("none", 0)):
        with pytest.raises(StoreError, match=f"tells the spread of {count} latents, but its VAE has 3"):
            study_factor(
                folder,
                folder / f"{name}.zarr.zip",
                folder / "never.zarr.zip",
                data=DSpritesLike(8),
                factor="x",
                measures=MEASURES,
                runtime=runtime,
            )
    with pytest.raises(StoreError, match="is no whole study of a factor"):
        read_studies([folder / "others.zarr.zip"])


def test_a_store_says_what_it_is_of_and_is_the_same_again(trained, tmp_path) -> None:
    root, runtime = trained
    folder = root / "vae" / "0"
    arguments = {"data": DSpritesLike(8), "factor": "x", "measures": MEASURES, "runtime": runtime}
    study_factor(folder, folder / "codes.zarr.zip", tmp_path / "x.zarr.zip", **arguments)
    assert (tmp_path / "x.zarr.zip").read_bytes() == (folder / "x.zarr.zip").read_bytes()
    attrs = open_store(folder / "x.zarr.zip").attrs
    assert (attrs["data"], attrs["family"], attrs["vae_seed"], attrs["factor"]) == ("sprites", "vae", 0, "x")
    assert json.loads(attrs["provenance"])["measures"]["pairs"] == 20


def test_units_are_counted_in_the_order_of_pairs_on_which_they_are_not_measured(tmp_path) -> None:
    alone = np.tile([0.6, 0.3, 0.1], (20, 1))
    alone[10:] = [0.1, 0.3, 0.6]
    patching_table([study(alone=alone)], tmp_path / "p.csv", measures=MEASURES)
    assert PATCHING.read(tmp_path / "p.csv").half[0] == 3  # the last of these carries most of the other pairs


def test_modularity_of_twins_is_their_own(tmp_path) -> None:
    source = np.random.default_rng(2)
    alike, apart = (source.normal(size=(20, size)) * np.array([1.0, -2, 3]) for size in (1, 3))
    for own, twins in ((alike, apart), (apart, alike)):
        given = [study(name, signed=own, twins_signed=np.stack([twins, twins])) for name in ("x", "y")]
        modularity_table(given, tmp_path / "m.csv", measures=MEASURES)
        row = MODULARITY.read(tmp_path / "m.csv").iloc[0]
        expected = [modularity(np.tile(changes, (2, 1)))[0] for changes in (own, twins)]
        assert [row.modularity, row.untrained] == pytest.approx(expected, abs=1e-5)
        assert abs(row.modularity - row.untrained) > 0.3
