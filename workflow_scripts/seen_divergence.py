"""Compare the entropies of seen and unseen images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import EntropyConfig
    from diffmech.mechanisms.seen_divergence import seen_divergence

    seen_divergence(
        dict(zip(job.params.domains, (list(job.input.first), list(job.input.second)), strict=True)),
        job.input.seen,
        job.output[0],
        entropy=job.section(EntropyConfig, "entropy"),
        seed=job.params.seed,
        grouped=job.params.grouped,
    )
