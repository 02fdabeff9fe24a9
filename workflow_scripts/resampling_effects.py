"""Measure what removed heads change in whole images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.resampling import ResamplingConfig
    from diffmech.resampling.effects import resampling_effects

    resampling_effects(
        {domain: job.input[name] for domain, name in job.params.names.items()},
        job.output.table,
        job.output.examples,
        judge=next(iter(job.input.judge), None),
        resampling=job.section(ResamplingConfig, "resampling"),
        why_none=job.params.why_none,
        seed=job.params.seed,
        runtime=job.runtime,
        root=job.root,
    )
