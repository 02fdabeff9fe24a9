"""Train one network of a round."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.anomaly.rounds import read_parts
    from diffmech.anomaly.training import train_anomaly_vae
    from diffmech.config.anomaly import AnomalyModelConfig

    parts = read_parts(job.input.slices, job.input.table, job.wildcards.round)
    train_anomaly_vae(
        parts.training,
        parts.validation,
        job.section(AnomalyModelConfig, "model"),
        Path(job.output.record).parent,
        job.placed(job.params.checkpoints),
        runtime=job.runtime,
        dataset={"round": job.wildcards.round, "digest": Path(job.input.seen).read_text().strip()},
    )
