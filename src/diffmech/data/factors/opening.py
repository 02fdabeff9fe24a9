"""A data set of factors from its section of config.yaml. Ours."""

import importlib
from typing import Any, cast

from pydantic import TypeAdapter

from diffmech.config.factor_data import AnyFactorData, FactorDataConfig
from diffmech.data.factors.dataset import FactorData


def open_factors(config: FactorDataConfig) -> FactorData:
    """Return the data set that `config.implementation` (`module:Class`) names; only that module is imported.

    Raises DataError or ConfigError, as its class does, for files that are missing or of another version.
    """
    module, _, name = config.implementation.partition(":")
    return cast(FactorData, getattr(importlib.import_module(module), name)(**config.arguments()))


def restore_factors(canonical: dict[str, Any]) -> FactorData:
    """Return the data set of a section as rules track it. Raises what `open_factors` raises."""
    config: FactorDataConfig = TypeAdapter(AnyFactorData).validate_python(canonical)
    return open_factors(config)
