"""The settings of the study of VAEs: what cannot be trained is refused before anything runs."""

import pytest
from pydantic import ValidationError

from diffmech.config.studies.vae import VaeStudy
from diffmech.config.vae import BetaTcVae, VaeConfig


def test_a_vae_of_the_study_has_its_family_and_its_seed() -> None:
    study = VaeStudy.model_validate({"families": {"tc": {"kind": "beta_tc_vae", "beta": 3}}, "seeds": [4, 7]})
    config = study.vae("tc", 7)
    assert (config.family, config.training.seed) == (BetaTcVae(beta=3), 7)
    assert VaeConfig.restore(config.canonical()) == config
    assert study.vae("tc", 4).model_copy(update={"training": config.training}) == config


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"network": {"latents": 0}}, r"network\.latents\n.*greater than or equal to 1"),
        ({"seeds": [0, 1, 0]}, r"seeds of VAEs must differ, found \[0, 1, 0\]"),
        ({"families": {"x": {"kind": "gamma_vae"}}}, r"families\.x\n.*'gamma_vae'"),
        ({"families": {}}, "at least 1 item"),
        ({"training": {"batch_size": 1}}, "greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VaeStudy.model_validate(wrong)
