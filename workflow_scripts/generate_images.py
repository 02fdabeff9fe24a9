"""Generate the images of one shard of prompts."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.generated import generate_images
    from diffmech.config.images import Prompts
    from diffmech.config.models import SamplingConfig

    generate_images(
        job.input.model,
        job.output[0],
        prompts=job.section(Prompts, "dataset"),
        sampling=job.section(SamplingConfig, "sampling"),
        size=job.params.settings["images"]["size"],
        sample_ids=job.params.sample_ids,
        runtime=job.runtime,
    )
