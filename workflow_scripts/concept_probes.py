"""Tabulate how much of the concepts the probes bring back."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.recovery import concept_probes

    concept_probes(
        dict(zip(job.params.names, job.input.originals, strict=True)),
        list(job.input.evaluations),
        list(job.input.probes),
        job.output[0],
        **job.params.settings,
        seed=job.params.seed,
    )
