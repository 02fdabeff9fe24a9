"""Watch the heads of one network through the tap."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.anomaly.rounds import read_parts
    from diffmech.anomaly.scoring import entropies_table

    entropies_table(
        Path(job.input.record).parent,
        read_parts(job.input.slices, job.input.table, job.wildcards.round),
        job.output[0],
        runtime=job.runtime,
    )
