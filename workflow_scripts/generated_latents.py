"""Take the latents of one block from what was generated."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.generated import generated_latents
    from diffmech.config.study import LatentsConfig

    generated_latents(
        job.input.generated,
        job.input.model,
        job.output[0],
        dataset=job.wildcards.dataset,
        domain=job.params.domain,
        timesteps=job.params.timesteps,
        among=job.params.among,
        sample_ids=job.params.sample_ids,
        latents=job.section(LatentsConfig, "latents"),
    )
