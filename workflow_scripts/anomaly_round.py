"""Take the digests of what one round sees and tests."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.anomaly.rounds import digest_round

    digest_round(job.input.slices, job.input.table, job.wildcards.round, seen=job.output.seen, tested=job.output.tested)
