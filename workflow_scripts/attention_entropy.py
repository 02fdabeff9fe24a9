"""Tabulate attention entropy."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import EntropyConfig
    from diffmech.mechanisms.entropy import attention_entropy

    attention_entropy(
        dict(zip(job.params.domains, (list(job.input.first), list(job.input.second)), strict=True)),
        dict(zip(job.params.domains, job.input.untrained, strict=True)),
        job.output[0],
        entropy=job.section(EntropyConfig, "entropy"),
        seed=job.params.seed,
        groups=job.groups,
    )
