"""Write the page on VAEs."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.studies.vae import VaeStudy
    from diffmech.report.vae.page import write_page

    write_page(
        dict(job.input.items()),
        job.output.page,
        job.output.findings,
        job.output.picture,
        vae=job.section(VaeStudy, "vae"),
    )
