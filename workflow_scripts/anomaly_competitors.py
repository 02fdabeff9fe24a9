"""Score slices by all that needs no training of its own."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.anomaly.rounds import read_parts
    from diffmech.anomaly.scoring import score_competitors
    from diffmech.config.anomaly import ScoreConfig

    score_competitors(
        [Path(path).parent for path in job.input.records],
        read_parts(job.input.slices, job.input.table, job.wildcards.round),
        job.output[0],
        scores=job.section(ScoreConfig, "scores"),
        seed=job.params.settings["seed"],
        runtime=job.runtime,
    )
