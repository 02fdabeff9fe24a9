"""Settings of data sets of brains: one kind each, and what cannot be meant is refused."""

import importlib
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from diffmech.config.anomaly_data import AnyBrains, SyntheticBrains

BRAINS = get_args(get_args(AnyBrains)[0])
ANY = TypeAdapter(AnyBrains)


def test_every_kind_is_told_by_its_name_and_names_what_reads_it() -> None:
    for section in BRAINS:
        fields = {} if section is SyntheticBrains else {"path": "somewhere"}
        kind = section.model_fields["kind"].annotation.__args__[0]
        config = ANY.validate_python({"kind": kind, **fields})
        assert type(config) is section
        assert section.restore(config.canonical()) == config
        module, _, function = section.implementation.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert all(field.description or name in ("kind",) for name, field in section.model_fields.items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "ct"}, "does not match any of the expected tags"),
        ({"kind": "brats"}, r"brats\.path\n.*Field required"),
        ({"kind": "synthetic_brains", "modalities": []}, "at least 1 item"),
        ({"kind": "synthetic_brains", "modalities": ["t1", "t1"]}, "name each modality once, found t1, t1"),
        ({"kind": "lgg", "path": "x", "modalities": ["t2"]}, "'flair', 't1' or 't1ce'"),
        ({"kind": "synthetic_brains", "lesions": {"radius": [9, 5]}}, "smallest radius, 9 mm, is above the largest"),
        ({"kind": "synthetic_brains", "lesions": {"kinds": ["huge"]}}, "'bright', 'faint', 'dark' or 'iso'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ANY.validate_python(wrong)
