"""Tabulate the splits and the trainings."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.tabulate import data_table, trainings_table

    data_table(job.input.slices, job.input.table, job.params.rounds, job.output.data)
    trainings_table(list(job.input.records), job.output.trainings)
