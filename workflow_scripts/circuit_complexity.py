"""Compare how many heads, keys and dimensions each domain uses."""

from diffmech.workflow.cells import cells
from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import ComplexityConfig
    from diffmech.mechanisms.complexity import circuit_complexity

    domains, given = job.params.domains, job.input
    circuit_complexity(
        *cells(dict(given.items()), domains),
        dict(zip(domains, (list(given.ablation_first), list(given.ablation_second)), strict=True)),
        job.output[0],
        domains=domains,
        complexity=job.section(ComplexityConfig, "complexity"),
        method=job.params.method,
        seed=job.params.seed,
        groups=job.groups,
    )
