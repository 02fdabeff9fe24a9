"""The tables of the study of anomalies, declared once. Ours."""

from diffmech.tables import Table, flag, interval, number, text, whole

PATIENT = text("name of the patient, as the data set has it")
SPLITS = Table(
    "anomaly_splits",
    "results/anomaly/splits.csv",
    "a patient",
    "Which patients train, which choose epochs and thresholds, and which test.",
    {"patient": PATIENT, "split": text("train, validation or test: by a hash of the name, or as published")},
)
FOLDS = Table(
    "anomaly_folds",
    "results/anomaly/folds.csv",
    "a patient",
    "In which round of a cross-validation a patient tests.",
    {"patient": PATIENT, "fold": whole("number of the fold, by a hash of the name")},
)

PATIENTS = "bootstrap over patients"
APART = "bootstrap over patients, those with such lesions apart from the others"
WIDENED = "of several rounds widened by that over rounds"
ROUNDS = f"{APART}; {WIDENED}"
ROUND = text("round of the study: split, or fold0 and so on")
SCORE = text("score, as the study calls it")
GUO = "Guo et al. 2017"
DISCRIMINATION = "Hanley & McNeil 1982; Davis & Goadrich 2006"
ABLATED = text("what the model lacks: attention, uncertainty or ensemble")
MATCHING = text("`overall`, or `matched`: compared within bins of slice position")
GROUP = text("which lesions: all, or those of a size or kind, each beside all slices without a lesion")
TESTED = whole("patients that test", "patients")
HOLDING = whole("patients of these who have such a lesion", "patients")
COUNTED = {"patients": TESTED, "patients_with_lesions": HOLDING}

DATA = Table(
    "anomaly_data",
    "results/anomaly/data.csv",
    "a split of a round",
    "How many patients, slices and lesions each split has.",
    {
        "round": ROUND,
        "split": text("train, validation or test"),
        "patients": whole("patients", "patients"),
        "slices": whole("slices", "slices"),
        "with_lesions": whole("slices that hold a lesion", "slices"),
        "lesion_share": number("share of brain pixels that are lesion"),
    },
)
TRAININGS = Table(
    "anomaly_trainings",
    "results/anomaly/trainings.csv",
    "a network of a round",
    "How each network was trained, and the step whose weights healthy validation slices chose.",
    {
        "round": ROUND,
        "network": text("network, as the study calls it"),
        "slices": whole("slices without a lesion that it was trained on", "slices"),
        "steps": whole("steps of its training", "steps"),
        "chosen": whole("step whose weights are kept", "steps"),
        "nats": number("negative log-likelihood of healthy validation slices there, per pixel", "nats"),
        "parameters": whole("weights", "weights"),
        "seconds": number("duration of its training", "s"),
    },
)
ENTROPIES = Table(
    "anomaly_entropies",
    "results/anomaly/{round}/entropies/{network}.csv",
    "a head on a test slice",
    "The entropy of the attention of each head of the encoder.",
    {
        "slice": whole("place of the slice among the test slices of the round"),
        "head": whole("head, from 0"),
        "entropy": number("mean over places of the entropy of their attention", "nats"),
    },
)
_APART = {
    "difference": number("that of the model's score minus this one"),
    **interval("that difference", prefix="difference_", how=ROUNDS),
    **COUNTED,
}
SLICE_MEASURES = Table(
    "anomaly_slice_measures",
    "results/anomaly/slice_measures.csv",
    "a score, measure and way of comparing",
    "How well each score tells slices with lesions from those without, overall and among slices of one position.",
    {
        "score": SCORE,
        "adjusted": flag("whether what healthy slices of the same position score was taken away before"),
        "measure": text("roc_auc or average_precision"),
        "matching": MATCHING,
        "value": number("the measure", source=DISCRIMINATION),
        **interval("it", how=APART),
        "floor": number("what a random score has on average: 0.5, or about the prevalence", source="Bestgen 2015"),
        "lift": number("value over floor"),
        **_APART,
        "lesions": whole("slices with lesions that are compared", "slices"),
    },
)
CURVES = Table(
    "anomaly_curves",
    "results/anomaly/curves.csv",
    "a score and a place on one of its curves",
    "Receiver operating characteristic and precision-recall curves of slices, of scores in units that rounds share.",
    {
        "score": SCORE,
        "curve": text("roc or precision_recall"),
        "x": number("share of false alarms among slices without a lesion; of precision_recall the recall"),
        "y": number("share of slices with lesions that are found; of precision_recall the precision"),
        **interval("that, at this place", how=PATIENTS),
        "floor": number("what a random score has"),
    },
)
PIXEL_MEASURES = Table(
    "anomaly_pixel_measures",
    "results/anomaly/pixel_measures.csv",
    "a score, measure and group of lesions",
    "How well each map tells the pixels of lesions from the rest of the brain.",
    {
        "score": SCORE,
        "measure": text(
            "pixel_average_precision; dice at the threshold that healthy validation slices fix; best_dice at the best "
            "threshold, which the labels choose"
        ),
        "of": text("what the group is of: all, size or kind"),
        "group": GROUP,
        "value": number("the measure", source="Dice 1945; Davis & Goadrich 2006"),
        **interval("it", how=APART),
        "floor": number("what a random map has, or of Dice calling all of the brain a lesion"),
        "lift": number("value over floor"),
        **_APART,
    },
)
ABLATIONS = Table(
    "anomaly_ablations",
    "results/anomaly/ablations.csv",
    "what is lacking, a measure and a way of comparing",
    "What attention, uncertainty and an ensemble add, each beside the same without it.",
    {
        "lacking": ABLATED,
        "measure": text("roc_auc, average_precision or pixel_average_precision"),
        "matching": MATCHING,
        "group": GROUP,
        "whole": number("the measure of what has it"),
        **interval("it", prefix="whole_", how=APART),
        "without": number("the measure of what lacks it"),
        **interval("it", prefix="without_", how=APART),
        "difference": number("the first minus the second"),
        **interval("that difference, Bonferroni over what can lack", prefix="difference_", how=ROUNDS),
        **COUNTED,
    },
)
PREDICTING = text("what predicts: model, one_member, no_attention, no_uncertainty or untrained")
CALIBRATION = Table(
    "anomaly_calibration",
    "results/anomaly/calibration.csv",
    "what predicts, and a quantity",
    "Whether predicted variances are true, and whether they say anything.",
    {
        "model": PREDICTING,
        "quantity": text(
            "calibration_error: mean distance of coverage and level; normalised_error: ENCE; variation: of the "
            "predicted deviation over slices; pixel_correlation, slice_correlation: of predicted deviation and error"
        ),
        "value": number("the quantity", source="Kuleshov et al. 2018; Levi et al. 2022; Spearman 1904"),
        **interval("it", how=PATIENTS),
        "patients": TESTED,
    },
)
COVERAGE = Table(
    "anomaly_coverage",
    "results/anomaly/coverage.csv",
    "what predicts, and a level",
    "How many pixels of healthy slices lie within the interval that is predicted for them.",
    {
        "model": PREDICTING,
        "level": number("share that the interval is to hold", source="Kuleshov et al. 2018"),
        "coverage": number("share that it holds"),
        **interval("that share", how=PATIENTS),
    },
)
DEVIATIONS = Table(
    "anomaly_deviations",
    "results/anomaly/deviations.csv",
    "what predicts, and a bin of pixels",
    "How large errors are where the deviation of a size is predicted.",
    {
        "model": PREDICTING,
        "bin": whole("bin of equally many pixels, from the smallest predicted deviation on"),
        "predicted": number("root of the mean predicted variance", "intensity", "Levi et al. 2022"),
        "observed": number("root mean square error", "intensity"),
        **interval("the error", "intensity", how=PATIENTS),
    },
)
RELIABILITY = Table(
    "anomaly_reliability",
    "results/anomaly/reliability.csv",
    "a score and a bin of slices",
    "Whether a probability of a lesion, fitted on validation patients, is one.",
    {
        "score": SCORE,
        "bin": whole("bin of equal width, from 0"),
        "predicted": number("mean probability", source="Platt 1999"),
        "observed": number("share of the slices that hold a lesion", source=GUO),
        **interval("that share", how=PATIENTS),
        "slices": whole("slices", "slices"),
        "calibration_error": number("ECE over all bins", source=GUO),
        **interval("the ECE", prefix="calibration_error_", how=PATIENTS),
    },
)
RISK = Table(
    "anomaly_risk",
    "results/anomaly/risk.csv",
    "a doubt",
    "What is gained by leaving doubtful slices to a reader.",
    {
        "doubt": text(
            "by what slices are ordered: distance to the threshold, uncertainty or epistemic deviation; untrained: the "
            "latter of untrained networks, for decisions of their own"
        ),
        "area": number("area under the curve of risk over coverage", source="Geifman & El-Yaniv 2017"),
        **interval("it", how=PATIENTS),
        "random": number("that of a random order: the share of wrong decisions"),
        "best": number("that of the best possible order"),
        "difference": number("that of a random order minus the area"),
        **interval(
            "that difference", prefix="difference_", how=f"{PATIENTS}; of several rounds widened by that over them"
        ),
        "patients": TESTED,
    },
)
RISK_CURVE = Table(
    "anomaly_risk_curve",
    "results/anomaly/risk_curve.csv",
    "a doubt and a coverage",
    "The share of wrong decisions among the surest slices.",
    {
        "doubt": text("by what slices are ordered"),
        "coverage": number("share of the slices that are decided"),
        "risk": number("share of wrong decisions among them", source="Geifman & El-Yaniv 2017"),
        **interval("it", how=PATIENTS),
    },
)
REVIEW = Table(
    "anomaly_review",
    "results/anomaly/review.csv",
    "a test slice",
    "Test slices in the order in which a reader should look at them.",
    {
        "rank": whole("place, the most unusual first"),
        "patient": PATIENT,
        "position": number("from the bottom (0) to the top (1) of the brain"),
        "model_score": number("the model's score from its threshold on, in deviations of healthy validation slices"),
        "epistemic": number("root of the epistemic variance, mean over the brain", "intensity"),
        "flagged": flag("whether the score is above the threshold"),
        "abnormal": flag("whether it holds a lesion, which no score was told", source="the masks"),
    },
)
HEADS = Table(
    "anomaly_heads",
    "results/anomaly/heads.csv",
    "a head of a network of a round",
    "Whether heads of the encoder attend otherwise on slices with lesions, also among slices of one position.",
    {
        "round": ROUND,
        "network": text("network, as the study calls it"),
        "head": whole("head, from 0"),
        "matching": MATCHING,
        "with_lesion": number("mean entropy on slices with lesions", "nats"),
        "without": number("mean entropy on slices without", "nats"),
        "auc": number("share of pairs in which the slice with a lesion has the higher entropy", source=DISCRIMINATION),
        **interval("that share", how=APART),
        **interval("that share, Bonferroni over all heads and rounds", prefix="corrected_", how=APART),
        "patients_with_lesions": HOLDING,
        "lesions": whole("slices with lesions that are compared", "slices"),
    },
)
# What the rules of certainty and of the page write and read.
OF_CERTAINTY = (CALIBRATION, COVERAGE, DEVIATIONS, RELIABILITY, RISK, RISK_CURVE, REVIEW)
OF_PAGE = (DATA, TRAININGS, SLICE_MEASURES, CURVES, PIXEL_MEASURES, ABLATIONS, HEADS, *OF_CERTAINTY)
