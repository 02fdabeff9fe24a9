"""SCORES of one VAE: a VAE that reads the factors has the largest scores, and what is undefined says why."""

import numpy as np
import pytest
import torch
from linear_vae import CPU, Bars, encode, linear_vae

from diffmech.config.studies.vae import VaeMeasures
from diffmech.errors import DataError
from diffmech.vae.disentanglement import DCI, INFOMEC, MEASURES, disentanglement, representation, scores
from diffmech.vae.families import GridVae, build_vae
from diffmech.vae.metrics.dci import dci
from diffmech.vae.metrics.infomec import infomec
from diffmech.vae.metrics.mig import mig
from diffmech.vae.metrics.representation import Representation
from diffmech.vae.metrics.sap import sap
from diffmech.vae.stores import Codes
from diffmech.vae.tables import SCORES

MEASURED = VaeMeasures(images=400, floors=2, votes=40)


def written(path, factors: list[str]):
    output = path.parent / "scores.csv"
    disentanglement(path.parent, path, output, data=Bars(), factors=factors, measures=MEASURED, runtime=CPU)
    return SCORES.read(output).set_index("measure")


def test_a_vae_that_reads_each_factor_by_one_latent_has_the_largest_scores(tmp_path, monkeypatch) -> None:
    found = written(encode(linear_vae(), tmp_path, monkeypatch), ["row", "column"])
    assert tuple(found.index) == MEASURES
    score = found["score"]
    by_chance = 7 * 7 / (2 * 400) / np.log(8)  # what the other latent tells of a factor (Miller 1955)
    assert score["mig"] == pytest.approx(1 - by_chance, abs=0.01)
    assert score["factor_vae"] == found["fit"]["factor_vae"] == 1
    assert score[list(DCI)].min() > 0.97
    assert score["sap"] == pytest.approx((1 + 7 / 8) / 2, abs=0.07)  # 1 of the number, 1 - 1/8 of the class
    assert score["infomec_modularity"] == pytest.approx(1, abs=0.1)
    assert (found["floor"] <= found["floor_high"]).all()
    known = ["mig", "sap", "dci_informativeness", "factor_vae", "infomec_explicitness"]
    assert (found["floor_high"] < score)[known].all()
    assert found["fit"].notna()[["dci_informativeness", "infomec_explicitness"]].all()
    said = found["inputs"]
    assert said.str.startswith("means of the posterior of 400 images, 3 latents; classes: column; numbers: row;").all()
    assert "left out for a standard deviation below 0.05: [1]" in said["factor_vae"]
    assert "floor of 2 draws" in said["mig"]


def test_one_factor_alone_is_scored_where_a_score_is_defined(tmp_path, monkeypatch) -> None:
    found = written(encode(linear_vae(), tmp_path, monkeypatch), ["row"])
    assert found["score"].isna().tolist() == [measure == "infomec_modularity" for measure in MEASURES]
    assert found["score"]["mig"] > 0.96


def test_numbers_of_codes_have_scores_that_count_information(tmp_path, monkeypatch, settings) -> None:
    vae = build_vae((1, 8, 8), settings("vq_vae", codes=4)).eval().requires_grad_(False)
    assert isinstance(vae, GridVae)
    encoded = vae.encoder(torch.from_numpy(Bars().images_at([0, 63])))
    vae.codebook.codes.copy_(encoded.movedim(1, -1).flatten(0, -2)[::2])  # so that more than one is chosen
    path = encode(vae, tmp_path, monkeypatch, family="vq_vae")
    found = written(path, ["row", "column"])
    defined = found["score"].notna()
    assert defined[defined].index.tolist() == ["mig", *INFOMEC]
    assert found["inputs"][~defined].str.startswith("undefined of numbers of codes: ").all()
    assert found["inputs"]["mig"].startswith("numbers of codes of 400 images, 4 latents;")
    assert found["floor"].isna().equals(~defined)


def test_more_factors_than_latents_are_scored_and_said() -> None:
    source = np.random.default_rng(0)
    factors = source.integers(3, size=(120, 3)).astype(float)
    represented = Representation(factors[:, :2], factors, ("a", "b", "c"), (False,) * 3)
    found = list(scores(represented, MEASURED))
    assert len(found) == 8
    assert all("3 factors but 2 latents: not every factor can have a latent of its own" in s.inputs for s in found)


def test_a_factor_of_one_value_is_refused(tmp_path, monkeypatch) -> None:
    path = encode(linear_vae(), tmp_path, monkeypatch)
    kept = Codes("bars", "vae", 0, ("row", "column"), np.ones((9, 2)), np.zeros(9), np.eye(9), None, None, None)
    with pytest.raises(DataError, match="factor 'row' has one value in these 9 samples"):
        representation(kept, Bars(), ["row"])
    with pytest.raises(DataError, match="has no factor 'colum'; did you mean 'column'"):
        written(path, ["colum"])


# Circular factors.


def on_a_circle(count: int = 600) -> tuple[np.ndarray, Representation]:
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, count)
    other = np.random.default_rng(1).integers(3, size=count)
    factors = np.column_stack([angle, other])
    codes = np.column_stack([angle, other])
    return angle, Representation(codes, factors, ("turn", "other"), (False, False), "means", (2 * np.pi, None))


def test_a_circular_factor_is_classes_of_its_period_or_a_point_on_the_circle() -> None:
    angle, represented = on_a_circle()
    assert represented.labels(0).max() == 19
    assert np.array_equal(represented.labels(0), np.floor(angle / (2 * np.pi) * 20))
    cosine, sine = represented.targets(0)
    assert cosine == pytest.approx(np.cos(angle))
    assert sine == pytest.approx(np.sin(angle))
    assert represented.statement()["circular"] == ["turn"]
    ends = Representation(
        np.eye(4), np.array([[0.0], [np.pi], [2 * np.pi], [1.0]]), ("turn",), (False,), "means", (2 * np.pi,)
    )
    labels = ends.labels(0)
    assert labels[0] == labels[2]  # a whole turn is none
    assert len(set(labels.tolist())) == 3


def test_a_code_of_the_angle_has_the_largest_scores_wherever_its_circle_is_cut() -> None:
    angle, represented = on_a_circle()
    assert mig(represented).score > 0.97
    assert sap(represented).gaps[0] > 0.8
    found = dci(represented)
    assert min(found.disentanglement, found.completeness, found.prediction[0]) > 0.97
    turned = np.column_stack([(angle + 2) % (2 * np.pi), represented.codes[:, 1]])
    other = dci(
        Representation(turned, represented.factors, ("turn", "other"), (False, False), "means", (6.2831853, None))
    )
    assert other.prediction[0] > 0.97


def test_constant_latents_score_as_if_they_were_not_there() -> None:
    source = np.random.default_rng(0)
    factors = source.integers(4, size=(400, 2)).astype(float)
    codes = factors + 0.01 * source.standard_normal((400, 2))
    plain = Representation(codes, factors, ("a", "b"), (False, False))
    more = Representation(np.column_stack([codes, np.ones(400)]), factors, ("a", "b"), (False, False))
    assert mig(more).score == mig(plain).score
    assert dci(more).disentanglement == pytest.approx(dci(plain).disentanglement, abs=1e-9)
    assert infomec(more).modularity == pytest.approx(infomec(plain).modularity, abs=1e-9)
    nothing = infomec(Representation(np.ones((400, 2)), factors, ("a", "b"), (False, False)))
    assert np.isnan([nothing.modularity, nothing.compactness]).all()
    assert nothing.explicitness == pytest.approx(0, abs=1e-6)
