"""Score slices by the error of an autoencoder."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.anomaly.rounds import read_parts
    from diffmech.anomaly.scoring import score_autoencoder
    from diffmech.config.anomaly import ScoreConfig

    score_autoencoder(
        job.wildcards.rival,
        Path(job.input.record).parent,
        read_parts(job.input.slices, job.input.table, job.wildcards.round),
        job.output[0],
        scores=job.section(ScoreConfig, "scores"),
        runtime=job.runtime,
    )
