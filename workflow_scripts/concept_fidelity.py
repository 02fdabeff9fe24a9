"""Hold what scores of one concept predict against what happens."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.attribution import concept_fidelity
    from diffmech.config.studies.concepts import AttributionConfig, FidelityConfig, NamedConcept

    settings = job.params.settings
    concept_fidelity(
        job.input.model,
        job.output[0],
        concept=job.section(NamedConcept, "concept"),
        groups=settings["groups"],
        attribution=job.section(AttributionConfig, "attribution"),
        check=job.section(FidelityConfig, "fidelity"),
        **settings["inference"],
        runtime=job.runtime,
    )
