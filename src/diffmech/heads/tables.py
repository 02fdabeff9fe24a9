"""Which tables the report of the main study reads."""

from diffmech.declared import measured_tables
from diffmech.interventions.tables import DOSES, EFFECTS, PATCHING, WINDOWS
from diffmech.mechanisms.tables import (
    ACCOUNT,
    CLUSTERS,
    COMPLEXITY,
    DIVERGENCE,
    ENTROPY,
    FACTORIAL,
    MECHANISMS,
    PHASES,
    SEEN_DIVERGENCE,
)
from diffmech.models.tables import DENOISING, HELDOUT, SEEN
from diffmech.resampling.tables import RESAMPLING
from diffmech.tables import Table

_OF_THE_STUDY = (
    *(SEEN, SEEN_DIVERGENCE, HELDOUT, DENOISING),
    *(ENTROPY, DIVERGENCE, FACTORIAL, PHASES, CLUSTERS, MECHANISMS, COMPLEXITY),
    *(EFFECTS, WINDOWS, PATCHING, DOSES, RESAMPLING, ACCOUNT),
)


def reported() -> dict[str, Table]:
    """Return the tables that the report reads, by name: those of the study and those of further measures."""
    return {table.name: table for table in (*_OF_THE_STUDY, *measured_tables())}
