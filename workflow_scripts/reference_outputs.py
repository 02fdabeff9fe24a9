"""Keep the clean head outputs of reference images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.data.reference_images import read_references
    from diffmech.interventions.reference import reference_outputs

    reference_outputs(
        dict(zip(job.params.domains, (list(job.input.first), list(job.input.second)), strict=True)),
        job.input.model,
        job.output[0],
        reference_ids=read_references(job.input.chosen) if job.input.chosen else job.params.reference_ids,
        runtime=job.runtime,
        timesteps=job.params.timesteps,
    )
