"""Compare how many heads, keys and dimensions each domain uses."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import ComplexityConfig
    from diffmech.mechanisms.complexity import circuit_complexity

    domains, given = job.params.domains, job.input
    circuit_complexity(
        dict(zip(domains, (list(given.attention_first), list(given.attention_second)), strict=True)),
        dict(zip(domains, given.untrained, strict=True)),
        dict(zip(domains, (list(given.ablation_first), list(given.ablation_second)), strict=True)),
        job.output[0],
        complexity=job.section(ComplexityConfig, "complexity"),
        method=job.params.method,
        seed=job.params.seed,
        groups=job.groups,
    )
