"""Measure the denoising loss on seen and unseen images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.models import DenoiserConfig
    from diffmech.models.heldout import heldout_loss

    capture = job.params.settings["capture"]
    heldout_loss(
        job.input.model,
        dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True)),
        job.output[0],
        holdout=job.section(DenoiserConfig, "model").training.holdout,
        timesteps=capture["timesteps"],
        samples=capture["samples"],
        seed=job.params.seed,
        runtime=job.runtime,
    )
