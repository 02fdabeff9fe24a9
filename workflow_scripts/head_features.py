"""Describe every head at every timestep."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import MechanismsConfig
    from diffmech.mechanisms.features import head_features

    domains, given = job.params.domains, job.input
    head_features(
        dict(zip(domains, (list(given.attention_first), list(given.attention_second)), strict=True)),
        dict(zip(domains, (list(given.latents_first), list(given.latents_second)), strict=True)),
        dict(zip(domains, given.datasets, strict=True)),
        dict(zip(domains, given.untrained, strict=True)),
        job.output[0],
        mechanisms=job.section(MechanismsConfig, "mechanisms"),
        tested=job.params.tested,
        seed=job.params.seed,
        groups=job.groups,
        threads=snakemake.threads,
    )
