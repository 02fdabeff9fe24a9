"""Noise the images of one shard to the timesteps of one block."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.latents import make_latents
    from diffmech.config.study import LatentsConfig

    make_latents(
        job.input.dataset,
        job.input.model,
        job.output[0],
        domain=job.params.domain,
        timesteps=job.params.timesteps,
        sample_ids=job.params.sample_ids,
        latents=job.section(LatentsConfig, "latents"),
    )
