"""The settings of the study of anomalies: what contradicts itself is refused before anything runs."""

import pytest
from pydantic import ValidationError

from diffmech.config.studies.anomaly import AnomalyStudy


def test_the_threshold_is_of_a_modality_that_there_is() -> None:
    with pytest.raises(ValidationError, match=r"'t2' is the threshold's, but data has flair; choose from these"):
        AnomalyStudy.model_validate({"scores": {"modality": "t2"}})


def test_published_splits_are_not_cut_into_folds() -> None:
    data = {"kind": "bmad", "path": "x"}
    with pytest.raises(ValidationError, match=r"bmad has the splits that it was published with; take folds out"):
        AnomalyStudy.model_validate({"data": data, "folds": 5})
