"""Judge how well scores tell slices apart."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.pooling import pool
    from diffmech.anomaly.tabulate import curves_table, slice_table
    from diffmech.config.anomaly import AnomalyEvaluationConfig

    evaluation = job.section(AnomalyEvaluationConfig, "evaluation")
    pooled = pool(job.input.slices, job.input.table, list(job.input.scores), evaluation, maps=False)
    reference = job.params.settings["reference"]
    slice_table(pooled, job.output.measures, evaluation=evaluation, reference=reference)
    curves_table(pooled, job.output.curves, evaluation=evaluation, reference=reference)
