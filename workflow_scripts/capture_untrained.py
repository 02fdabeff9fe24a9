"""Observe untrained twins of the denoiser."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.untrained import capture_untrained
    from diffmech.config.study import UntrainedConfig

    capture_untrained(
        list(job.input.latents),
        job.input.model,
        job.output[0],
        untrained=job.section(UntrainedConfig, "untrained"),
        runtime=job.runtime,
    )
