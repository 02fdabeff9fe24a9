"""Draw every chart of the report."""

from pathlib import Path

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.report.heads.artifacts import inputs_of_job
    from diffmech.report.heads.draw import draw_charts

    draw_charts(
        inputs_of_job(job.input, job.params.domains),
        Path(job.output.specs[0]).parent,
        ablation=job.section(AblationConfig, "ablation"),
    )
