"""Write the page on concepts."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.studies.concepts import ConceptsStudy
    from diffmech.report.concepts.page import write_page

    write_page(
        dict(job.input.items()),
        job.output.page,
        job.output.findings,
        list(job.output.pictures),
        concepts=job.section(ConceptsStudy, "concepts"),
    )
