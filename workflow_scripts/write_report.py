"""Write the report page."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.root import Config
    from diffmech.report.heads.artifacts import inputs_of_job
    from diffmech.report.heads.page import write_report

    write_report(
        inputs_of_job(job.input, job.params.domains, job.groups, benchmarks=job.placed("results/benchmarks")),
        list(job.input.charts),
        job.output.page,
        job.output.findings,
        config=Config.restore(job.params.settings),
    )
