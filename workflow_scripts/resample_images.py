"""Sample a part of the removals of one domain."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.images import Prompts
    from diffmech.config.models import SamplingConfig
    from diffmech.config.resampling import ResamplingConfig
    from diffmech.resampling.images import resample_images

    resample_images(
        job.input.model,
        job.input.heads,
        list(job.input.reference),
        job.output[0],
        domain=job.wildcards.domain,
        part=int(job.wildcards.part),
        resampling=job.section(ResamplingConfig, "resampling"),
        sampling=job.section(SamplingConfig, "sampling"),
        prompts=job.section(Prompts, "prompts") if "prompts" in job.params.settings else None,
        size=job.params.settings.get("size", 0),
        seed=job.params.seed,
        runtime=job.runtime,
    )
