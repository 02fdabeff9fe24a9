"""Keep the clean head outputs of reference images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.interventions.reference import reference_outputs

    reference_outputs(
        dict(zip(job.params.domains, (list(job.input.first), list(job.input.second)), strict=True)),
        job.input.model,
        job.output[0],
        ablation=job.section(AblationConfig, "ablation"),
        runtime=job.runtime,
        timesteps=job.params.timesteps,
    )
