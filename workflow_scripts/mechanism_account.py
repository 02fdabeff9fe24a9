"""Put together what ablation, its windows and resampled images show of each mechanism."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.mechanisms.account import mechanism_account

    tables = (job.input[name] for name in ("heads", "effects", "windows", "resampling"))
    mechanism_account(*tables, job.output[0], method=job.params.method, alpha=job.params.alpha)
