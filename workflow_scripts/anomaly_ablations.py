"""Hold the model against what lacks a part of it."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.pooling import pool
    from diffmech.anomaly.tabulate import COMPARED, ablations_table
    from diffmech.config.anomaly import AnomalyEvaluationConfig

    evaluation = job.section(AnomalyEvaluationConfig, "evaluation")
    reference = job.params.settings["reference"]
    names = (reference, *COMPARED)
    pooled = pool(job.input.slices, job.input.table, list(job.input.scores), evaluation, names=names)
    ablations_table(pooled, job.output[0], evaluation=evaluation, reference=reference)
