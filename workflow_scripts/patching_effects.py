"""Turn patched passes into effects per window and dose, with intervals, controls and corrected p-values."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.patching import PatchingConfig
    from diffmech.interventions.patching_table import patching_effects

    patching_effects(
        {domain: {s: job.input[name] for s, name in sources.items()} for domain, sources in job.params.names.items()},
        next(iter(job.input.phases), None),
        job.output.effects,
        job.output.doses,
        patching=job.section(PatchingConfig, "patching"),
        windows=job.params.windows,
        seed=job.params.seed,
        groups=job.groups,
    )
