"""Observe images that are told to be of either domain, and nothing."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.told import capture_told
    from diffmech.config.study import ToldConfig, UntrainedConfig

    latents = {job.params.domain: list(job.input.own)}
    if job.input.other:
        latents[job.params.other] = list(job.input.other)
    capture_told(
        latents,
        job.input.model,
        dict(zip(job.params.told, job.output.cells, strict=True)),
        dict(zip(job.params.told, job.output.copies, strict=True)),
        domain=job.params.domain,
        timesteps=job.params.timesteps,
        told=job.section(ToldConfig, "told"),
        untrained=job.section(UntrainedConfig, "untrained"),
        runtime=job.runtime,
    )
