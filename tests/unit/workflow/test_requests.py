"""What `--config` asks for beside the settings is read as Snakemake hands it on."""

import pytest

from diffmech.errors import ConfigError
from diffmech.workflow.study import switch


@pytest.mark.parametrize(
    ("given", "said"), [(None, False), (True, True), (False, False), ("true", True), ("True", True), ("false", False)]
)
def test_a_switch_is_true_or_false(given, said) -> None:
    assert switch("stores", given) is said


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stores: 'yes' is neither true nor false; say --config stores=true"):
        switch("stores", "yes")
