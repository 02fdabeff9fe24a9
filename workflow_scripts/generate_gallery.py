"""Generate images with and without each attribute."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.models import SamplingConfig
    from diffmech.models.sampling import generate_gallery

    generate_gallery(
        job.input.model, job.output[0], sampling=job.section(SamplingConfig, "sampling"), runtime=job.runtime
    )
