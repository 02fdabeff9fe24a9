"""The tables of the study of anomalies, declared once. Ours."""

from diffmech.tables import Table, text, whole

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
