"""Ask whether predicted variances are true, and what doubt is worth."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.certainty_tables import NEEDED, certainty_tables
    from diffmech.anomaly.pooling import pool
    from diffmech.config.anomaly import AnomalyEvaluationConfig

    evaluation = job.section(AnomalyEvaluationConfig, "evaluation")
    names = (job.params.settings["reference"], *NEEDED)
    given = (job.input.slices, job.input.table, list(job.input.scores))
    certainty_tables(
        pool(*given, evaluation, names=names, maps=False),
        list(job.input.predictions),
        dict(job.output.items()),
        evaluation=evaluation,
        reference=job.params.settings["reference"],
    )
