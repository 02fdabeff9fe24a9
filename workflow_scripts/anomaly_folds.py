"""Say who tests in which round of a cross-validation."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.rounds import tabulate_folds

    tabulate_folds(job.params.folds, job.params.seed, job.input.slices, job.output[0])
