"""Ask whether heads attend otherwise on slices with lesions."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.head_tables import heads_table
    from diffmech.config.anomaly import AnomalyEvaluationConfig

    heads_table(
        job.input.slices,
        job.input.table,
        list(job.input.entropies),
        job.output[0],
        evaluation=job.section(AnomalyEvaluationConfig, "evaluation"),
    )
