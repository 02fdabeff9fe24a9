"""Score the weights of a denoiser for one concept."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.attribution import attribute_concept
    from diffmech.config.studies.concepts import AttributionConfig, NamedConcept

    settings = job.params.settings
    attribute_concept(
        job.input.model,
        {objective: job.output[objective] for objective in settings["objectives"]},
        job.output.map,
        concept=job.section(NamedConcept, "concept"),
        groups=settings["groups"],
        attribution=job.section(AttributionConfig, "attribution"),
        curvature=settings["curvature"],
        runtime=job.runtime,
    )
