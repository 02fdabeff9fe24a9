"""Any set of brains as slices and splits, by the kind of its settings. Ours.

Only the module that reads that kind is imported, as for data sets of images: what reads another may change.
"""

import importlib
from typing import cast

from diffmech.anomaly.slices import Slices
from diffmech.anomaly.splits import split_patients
from diffmech.config.anomaly_data import AnyBrains, Bmad, MedIAnomaly, SplitConfig


def read_brains(config: AnyBrains) -> Slices:
    """Return all slices of a data set. Raises DataError naming the file that cannot be used."""
    module, _, function = config.implementation.partition(":")
    return cast(Slices, getattr(importlib.import_module(module), function)(config))


def splits_of(config: AnyBrains, slices: Slices, splits: SplitConfig) -> dict[str, str]:
    """Return the split of each patient of `slices`: the published one of a benchmark, else by hash.

    Raises DataError for a split without a patient.
    """
    if not isinstance(config, MedIAnomaly | Bmad):
        return split_patients(slices.patients, splits)
    from diffmech.anomaly.published import published_splits

    return split_patients(slices.patients, splits, published_splits(config, splits))
