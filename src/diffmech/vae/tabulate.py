"""All tables of the VAEs of one data set, from what was kept of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from diffmech.config.studies.vae import VaeMeasures
from diffmech.config.vae import AnyFamily
from diffmech.data.factors.opening import restore_factors
from diffmech.vae.account import latents_table, models_table
from diffmech.vae.account_factors import factor_tables, read_studies
from diffmech.vae.causal_map import graphs_table
from diffmech.vae.code_swaps import swaps_table
from diffmech.vae.comparison import families_table, relation_table
from diffmech.vae.motif_tables import motif_tables
from diffmech.vae.tables import FAMILIES, GRAPHS, LATENTS, LINKS, MODELS, MOTIFS, RELATION, SWAPS


def tabulate(
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, str],
    *,
    data: Mapping[str, Any],
    families: Mapping[str, Any],
    measures: Mapping[str, Any],
) -> None:
    """Write every table of `outputs`, by name, from the files `records`, `codes`, `factors`, `scores` and `edges`.

    `data`, `families` and `measures` are sections as rules track them. Raises StoreError for what is not whole.
    """
    settings = VaeMeasures.restore(dict(measures))
    paths = {name: [Path(path) for path in files] for name, files in inputs.items()}
    written = {name: Path(path) for name, path in outputs.items()}
    models_table(paths["records"], written[MODELS.name])
    latents_table(paths["codes"], paths["factors"], written[LATENTS.name], measures=settings)
    studies = read_studies(paths["factors"])
    factor_tables(studies, written, measures=settings)
    motif_tables(
        paths["codes"],
        studies,
        written[LINKS.name],
        written[MOTIFS.name],
        data=restore_factors(dict(data)),
        measures=settings,
    )
    swaps_table(paths["codes"], written[SWAPS.name], measures=settings)
    graphs_table(paths["edges"], written[GRAPHS.name], measures=settings)
    kinds: TypeAdapter[AnyFamily] = TypeAdapter(AnyFamily)
    families_table(
        paths["scores"],
        written[MODELS.name],
        written[LATENTS.name],
        written[FAMILIES.name],
        families={name: kinds.validate_python(family) for name, family in families.items()},
        measures=settings,
    )
    relation_table(
        paths["scores"], written[MODELS.name], written[LATENTS.name], written[RELATION.name], measures=settings
    )
