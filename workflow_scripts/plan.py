"""Tell what the study will take, before it runs."""

from pathlib import Path

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.plan_study import Workload, plan_study
    from diffmech.config.root import Config

    plan = plan_study(
        Config.restore(job.params.config),
        Workload(**job.params.workload),
        results=Path("results"),
        root=job.root,
        generated=Path(job.params.generated) if job.params.generated else None,
    )
    print(plan, flush=True)
