"""Patch every head between the passes of one data set and their counterfactuals."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.patching import PatchingConfig
    from diffmech.interventions.patching_study import patch_data_set

    patch_data_set(
        list(job.input.latents),
        job.input.model,
        job.output[0],
        source=job.params.source,
        contrast=job.params.contrast,
        patching=job.section(PatchingConfig, "patching"),
        timesteps=job.params.timesteps,
        runtime=job.runtime,
    )
