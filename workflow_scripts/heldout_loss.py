"""Measure whether the model denoises, and its loss on seen and unseen images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.models.heldout import heldout_loss

    capture = job.params.settings["capture"]
    heldout_loss(
        job.input.model,
        dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True)),
        job.output.heldout,
        job.output.denoising,
        timesteps=capture["timesteps"],
        samples=capture["samples"],
        condition=job.params.settings["latents"]["condition"],
        seed=job.params.seed,
        unseen=capture["images"] == "unseen",
        runtime=job.runtime,
        groups=job.groups,
    )
