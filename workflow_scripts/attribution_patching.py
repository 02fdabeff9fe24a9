"""Estimate the effect of ablating every head from gradients, beside the exact ones."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.circuit import CircuitConfig
    from diffmech.interventions.attribution_table import attribution_table

    domains, given = job.params.domains, job.input
    attribution_table(
        dict(zip(domains, (list(given.latents_first), list(given.latents_second)), strict=True)),
        given.model,
        list(given.reference),
        dict(zip(domains, (list(given.ablation_first), list(given.ablation_second)), strict=True)),
        job.output.table,
        job.output.agreement,
        circuit=job.section(CircuitConfig, "circuit"),
        method=job.params.method,
        samples=job.params.samples,
        timesteps=job.params.timesteps,
        seed=job.params.seed,
        groups=job.groups,
        runtime=job.runtime,
    )
