"""Score slices by what networks predict together."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.anomaly.rounds import read_parts
    from diffmech.anomaly.scoring import score_predicting
    from diffmech.config.anomaly import ScoreConfig, UncertaintyConfig
    from diffmech.config.studies.anomaly import ENSEMBLE

    scored = job.wildcards.scored
    score_predicting(
        [Path(path).parent for path in job.input.records],
        read_parts(job.input.slices, job.input.table, job.wildcards.round),
        job.output.scores,
        job.output.prediction,
        alone=None if scored == ENSEMBLE else scored,
        uncertainty=job.section(UncertaintyConfig, "uncertainty"),
        scores=job.section(ScoreConfig, "scores"),
        runtime=job.runtime,
    )
