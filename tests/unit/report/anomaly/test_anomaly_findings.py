"""What the page of anomalies says follows from its tables: each verdict is planted, and its opposite."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from diffmech.anomaly import tables as declared
from diffmech.anomaly.curves import KINDS
from diffmech.config.studies.anomaly import AnomalyStudy
from diffmech.report.anomaly import charts
from diffmech.report.anomaly.findings import competitors, findings, least_patients, words
from diffmech.report.anomaly.inputs import Tables

STUDY = AnomalyStudy()
MODEL = STUDY.scores.model
OWN, RIVALS = (MODEL, "reconstruction", "one_member"), ("position", "threshold", "atlas", "denoising_autoencoder")
SCORES = (*OWN, "untrained", "random", *RIVALS)
PATIENTS = 21


def judged(value: float, difference: float, half: float) -> dict[str, float]:
    """Return the columns of a measure, and of the model minus it."""
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
        "patients": PATIENTS,
        "patients_with_lesions": PATIENTS,
    }


def planted(*, value: float = 0.8, half: float = 0.05, ahead: float = 0.2) -> Tables:
    """Return tables of a study in which the model has `value`, all others `ahead` less, with intervals of `half`."""
    slices, pixels = [], []
    for score in SCORES:
        own = judged(value if score == MODEL else value - ahead, np.nan if score == MODEL else ahead, half)
        for matching in ("overall", "matched"):
            for measure, floor in (("roc_auc", 0.5), ("average_precision", 0.3)):
                for adjusted in (False, True):
                    of = {"score": score, "measure": measure, "matching": matching, "adjusted": adjusted}
                    slices.append({**of, **own, "floor": floor, "lift": own["value"] / floor, "lesions": 90})
        for group, of_what in (("all", "all"), ("iso", "kind")):
            for measure in ("pixel_average_precision", "dice", "best_dice"):
                of = {"score": score, "measure": measure, "group": group, "of": of_what}
                pixels.append({**of, **own, "floor": 0.03, "lift": own["value"] / 0.03})
    ablations = [
        {
            "lacking": lacking,
            "measure": measure,
            "matching": matching,
            "group": "all",
            **{f"{part}{end}": value for part in ("whole", "without") for end in ("", "_low", "_high")},
            **{key: own for key, own in judged(value, ahead, half).items() if key.startswith(("difference", "patien"))},
        }
        for lacking in ("attention", "uncertainty", "ensemble")
        for measure, matching in (("roc_auc", "matched"), ("pixel_average_precision", "overall"))
    ]
    heads = [
        {
            "round": "split",
            "network": "member0",
            "head": head,
            "matching": matching,
            "with_lesion": 3.0,
            "without": 2.9,
            "auc": 0.5 + ahead * head,
            **{
                f"{part}{end}": 0.5 + ahead * (head == 1) + sign * half
                for part in ("", "corrected_")
                for end, sign in ENDS
            },
            "patients_with_lesions": PATIENTS,
            "lesions": 90,
        }
        for head in (0, 1)
        for matching in ("overall", "matched")
    ]
    risk = [
        {"doubt": doubt, "area": 0.1, "low": 0.05, "high": 0.15, "random": 0.1 + ahead, "best": 0.02}
        | {k: own for k, own in judged(value, ahead, half).items() if k.startswith("difference") or k == "patients"}
        for doubt in ("distance", "uncertainty", "epistemic")
    ]
    risk.append({**risk[-1], "doubt": "untrained", **{f"difference{end}": 0.0 for end in ("", "_low", "_high")}})
    calibration = [
        {"model": of, "quantity": "slice_correlation", **judged(0.1 + more, 0, half)}
        for of, more in (("model", ahead), ("untrained", 0.0))
    ]
    deviations = [("model", n, 0.1 + n / 10, 0.1 + n / 10, 0.05, 0.2 + n / 10) for n in range(3)]
    curve = [(doubt, at, 0.1, 0.05, 0.15) for doubt in ("distance", "epistemic") for at in (0.5, 1.0)]
    rows = {
        "data": [("split", "test", PATIENTS, 400, 120, 0.01)],
        "trainings": [(f"fold{n}", "member0", 90, 600, 600, 0.1, 9, 1.0) for n in range(5)],
        "slice_measures": slices,
        "curves": [(score, kind, x, 0.5 + x / 2, x, 1.0, x) for score in SCORES for kind in KINDS for x in (0.0, 1.0)],
        "pixel_measures": pixels,
        "ablations": ablations,
        "heads": heads,
        "calibration": [{k: v for k, v in row.items() if "differ" not in k and "with" not in k} for row in calibration],
        "coverage": [("model", 0.5, 0.52, 0.5, 0.54)],
        "deviations": deviations,
        "reliability": [],
        "risk": risk,
        "risk_curve": curve,
        "review": [],
    }
    return Tables(**{name: getattr(declared, name.upper()).frame(own) for name, own in rows.items()})


ENDS = (("low", -1), ("high", 1))
DECIDED = (
    "Does the model tell slices",
    "Is the model above slice position",
    "Is the model above every competitor",
    "Do the model's maps find",
    "Are lesions found whose intensity",
    "Does attention help",
    "Does uncertainty help",
    "Does an ensemble help",
    "Does the error of a slice rise",
    "Are decisions right more often",
    "Do heads attend otherwise",
)


def verdicts(tables: Tables) -> dict[str, str]:
    return {finding.question: finding.verdict for finding in findings(tables, STUDY, None)}


def of(question: str, tables: Tables):
    return next(finding for finding in findings(tables, STUDY, None) if finding.question.startswith(question))


def test_effects_whose_intervals_lie_above_are_found():
    found = verdicts(planted())
    assert [next(v for q, v in found.items() if q.startswith(asked)) for asked in DECIDED] == ["found"] * len(DECIDED)
    assert found["What must not be concluded?"] == "caution"


@pytest.mark.parametrize(
    "tables",
    [planted(value=0.5, ahead=0.0, half=0.08), planted(value=0.55, ahead=0.04, half=0.08)],
    ids=["nothing", "less than its interval"],
)
def test_an_untrained_model_is_said_to_do_nothing(tables):
    assert "found" not in verdicts(tables).values()


@pytest.mark.parametrize(("confidence", "comparisons"), [(0.95, 1), (0.95, 12), (0.99, 3), (0.75, 1)])
def test_the_least_patients_are_the_fewest_whose_signs_could_tell(confidence, comparisons):
    least = least_patients(confidence, comparisons)
    at_stake = (1 - confidence) / comparisons
    assert binomtest(least, least).pvalue <= at_stake * (1 + 1e-9) < binomtest(least - 1, least - 1).pvalue


def test_nothing_is_decided_by_fewer_patients_than_could_tell_by_their_signs():
    tables = planted()
    for few, verdict in ((7, "found"), (5, "cannot be told")):  # three ablations are told by seven

        def of_few(frame: pd.DataFrame, few: int = few) -> pd.DataFrame:
            here = {
                name: few for name in ("patients", "patients_with_lesions") if name in frame and "split" not in frame
            }
            return frame.assign(**here)

        changed = {name: of_few(getattr(tables, name)) for name in vars(tables)}
        found = verdicts(replace(tables, **changed))
        assert {next(v for q, v in found.items() if q.startswith(asked)) for asked in DECIDED} == {verdict}
        answer = of("Do the model's maps find", replace(tables, **changed)).answer
        assert answer.startswith("Not decided by 5 patients" if few == 5 else "Yes, above all")


def test_what_untrained_networks_do_as_well_is_not_found():
    """They know the atlas of healthy brains: whatever the intervals against all else, nothing is said of training."""
    tables = planted()
    for name in ("slice_measures", "pixel_measures"):
        frame = getattr(tables, name).copy()
        frame.loc[frame["score"] == "untrained", "difference_low"] = -0.01
        tables = replace(tables, **{name: frame})
    calibration = tables.calibration.assign(value=0.8, low=0.7, high=0.9)
    risk = tables.risk.copy()
    risk.loc[risk["doubt"] == "untrained", "difference_high"] = 0.2
    found = list(findings(replace(tables, calibration=calibration, risk=risk), STUDY, None))
    assert {each.verdict for each in found} == {"cannot be told", "caution"}
    first = found[0]
    assert first.answer.startswith("Not shown to be learned. ROC AUC within bins of position 0.800")
    assert first.details[0].startswith("The same networks before any training")


def test_one_training_decides_nothing():
    """Two ensembles of untrained networks can differ by their seeds alone, whatever the interval over patients says."""
    once = replace(planted(), trainings=planted().trainings.assign(round="split"))
    assert set(verdicts(once).values()) == {"cannot be told", "caution"}
    for question in ("Does the model tell slices", "Does attention help"):
        assert of(question, once).answer.startswith("Not decided. ")
        assert of(question, once).details[0] == "Trained once: another seed might give another difference."


def test_losing_once_decides_nothing_either():
    worse = replace(planted(ahead=-0.2), trainings=planted().trainings.assign(round="split"))
    assert set(verdicts(worse).values()) == {"cannot be told", "caution"}
    assert "not found" in verdicts(planted(ahead=-0.2)).values()
    for question in ("Is the model above every competitor", "Do the model's maps find"):
        assert "win" not in of(question, worse).answer
        assert of(question, worse).answer.startswith("Not decided by 1 training of each; the nearest is")


def test_a_part_that_harms_networks_that_learned_nothing_is_no_finding():
    tables = planted()
    change = {"difference": -0.1, "difference_low": -0.15, "difference_high": -0.05}
    worse = replace(tables, ablations=tables.ablations.assign(**change))
    assert of("Does an ensemble help", worse).verdict == "not found"
    assert of("Does an ensemble help", worse).answer.startswith("It does harm. In average precision over pixels")
    frame = tables.pixel_measures.copy()
    frame.loc[frame["score"] == "untrained", "difference_low"] = -0.01
    finding = of("Does an ensemble help", replace(worse, pixel_measures=frame))
    assert finding.verdict == "cannot be told"
    assert finding.answer.startswith("Not shown to be learned. In average precision over pixels")


def test_doubt_that_misleads_is_a_finding_only_where_it_misled_less_before_training():
    tables, risk = planted(), planted().risk
    change = {"difference": -0.2, "difference_low": -0.25, "difference_high": -0.15}
    own = risk["doubt"] == "epistemic"
    for column, value in change.items():
        risk.loc[own, column] = value
    assert of("Are decisions right", replace(tables, risk=risk)).verdict == "not found"
    both = risk.assign(**change)
    finding = of("Are decisions right", replace(tables, risk=both))
    assert finding.verdict == "cannot be told"
    assert finding.details[0].endswith("save −0.200 (−0.250 to −0.150) of their own decisions.")


def test_heads_are_decided_by_rounds_with_enough_patients_alone():
    tables = planted()
    few = tables.heads.assign(round="fold1", patients_with_lesions=5, auc=0.99)
    assert of("Do heads attend", replace(tables, heads=pd.concat([few, tables.heads]))).answer.startswith(
        "1 of 2 heads do. Farthest from 0.5 is head 1 of member0 in split"
    )
    finding = of("Do heads attend", replace(tables, heads=few))
    assert finding.verdict == "cannot be told"
    assert finding.answer.startswith("Not decided by 5 patients of a round.")


def test_a_threshold_below_chance_is_no_proof_of_iso_lesions():
    tables = planted(value=0.2, ahead=0.15, half=0.1)
    frame = tables.pixel_measures.assign(floor=0.15)
    assert of("Are lesions found whose intensity", replace(tables, pixel_measures=frame)).verdict == "cannot be told"


def test_a_competitor_that_wins_is_named():
    tables = planted()
    for name in ("slice_measures", "pixel_measures"):
        frame = getattr(tables, name).copy()
        ahead = frame["score"] == "atlas"
        for column, value in (("difference", -0.1), ("difference_low", -0.15), ("difference_high", -0.05)):
            frame.loc[ahead, column] = value
        tables = replace(tables, **{name: frame})
    for question in ("Is the model above every competitor", "Do the model's maps find"):
        finding = of(question, tables)
        assert finding.verdict == "not found"
        assert finding.answer.startswith("No: an atlas of healthy brains wins.")
        assert finding.estimate.value == pytest.approx(-0.1)


def test_one_open_comparison_leaves_the_whole_open():
    tables = planted()
    frame = tables.slice_measures.copy()
    frame.loc[frame["score"] == "denoising_autoencoder", "difference_low"] = -0.01
    finding = of("Is the model above every competitor", replace(tables, slice_measures=frame))
    assert finding.verdict == "cannot be told"
    assert "no interval tells it from a denoising autoencoder." in finding.answer


def test_the_floor_of_a_random_score_is_said():
    assert "where chance has 0.5" in of("Does the model tell", planted()).answer
    assert "a random map 0.0300" in of("Do the model's maps find", planted()).details[0]
    assert "A random map has 0.0300" in of("Are lesions found whose intensity", planted()).answer


def test_without_an_interval_nothing_is_decided():
    tables = planted()
    frame = tables.pixel_measures.copy()
    frame[["difference_low", "difference_high"]] = np.nan
    finding = of("Are lesions found whose intensity", replace(tables, pixel_measures=frame))
    assert finding.verdict == "cannot be told"
    assert "(no interval)" in finding.answer


def test_scores_of_the_model_and_what_lacks_a_part_are_no_competitors():
    named = competitors(pd.Series(SCORES))
    assert named == ["untrained", "random", *RIVALS]
    assert words("atlas") == "an atlas of healthy brains"


def drawn(chart) -> list[str]:
    """Return the lines of the one table that a chart draws."""
    (text,) = chart.to_dict()["datasets"].values()
    return text.splitlines()


def test_charts_hold_every_score_and_what_a_random_one_has():
    tables = planted()
    for chart in (charts.slice_scores(tables.slice_measures, MODEL), charts.pixel_scores(tables.pixel_measures, MODEL)):
        spec = chart.to_dict()
        rows = drawn(chart)
        assert len(rows) == 1 + 2 * len(SCORES)
        assert sum("the score that is judged" in row for row in rows) == 2
        assert "9 scores in 2 panels" in spec["description"]
    text = charts.slice_curves(tables.curves, MODEL).to_dict()["description"]
    assert all(words(score) in text for score in SCORES)
    assert "random order, 0.3" in charts.risk(tables.risk_curve, tables.risk).to_dict()["description"]
    assert len(drawn(charts.parts(tables.ablations))) == 1 + 6
    assert "3 bins" in charts.reliability(tables.deviations).to_dict()["description"]


def test_what_was_not_measured_is_said_in_place_of_a_chart():
    empty = {name: getattr(declared, name.upper()).frame() for name in vars(planted())}
    for chart in (
        charts.slice_scores(empty["slice_measures"], MODEL),
        charts.slice_curves(empty["curves"], MODEL),
        charts.pixel_scores(empty["pixel_measures"], MODEL),
        charts.parts(empty["ablations"]),
        charts.reliability(empty["deviations"]),
        charts.risk(empty["risk_curve"], empty["risk"]),
    ):
        assert chart.to_dict()["mark"]["style"] == "note"
