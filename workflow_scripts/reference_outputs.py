"""Keep the clean head outputs of reference images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.interventions.reference import reference_outputs

    reference_outputs(
        dict(zip(job.params.domains, (list(job.input.first), list(job.input.second)), strict=True)),
        job.input.model,
        job.output[0],
        reference_ids=job.params.reference_ids,
        runtime=job.runtime,
        timesteps=job.params.timesteps,
    )
