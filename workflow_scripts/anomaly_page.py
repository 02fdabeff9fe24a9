"""Write the page on unusual brains."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.studies.anomaly import AnomalyStudy
    from diffmech.report.anomaly.page import write_page

    write_page(
        dict(job.input.items()),
        job.output.page,
        job.output.findings,
        job.output.picture,
        anomaly=job.section(AnomalyStudy, "anomaly"),
    )
