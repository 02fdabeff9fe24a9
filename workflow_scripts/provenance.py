"""Print the chain of jobs behind an artifact."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.provenance.chain import described

    print(described(job.params.target, job.params.records, job.root), flush=True)
