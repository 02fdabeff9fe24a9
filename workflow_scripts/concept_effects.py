"""Tabulate what edits of concepts change."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.effects import concept_effects

    concept_effects(
        dict(zip(job.params.names, job.input.originals, strict=True)),
        list(job.input.evaluations),
        job.output.rates,
        job.output.effects,
        job.output.quality,
        **job.params.settings,
        seed=job.params.seed,
    )
