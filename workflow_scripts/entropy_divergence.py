"""Test what the images and what the denoiser is told of them do to attention."""

from diffmech.workflow.cells import cells
from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import EntropyConfig
    from diffmech.mechanisms.factorial import entropy_factorial

    entropy_factorial(
        *cells(dict(job.input.items()), job.params.domains),
        job.output.divergence,
        job.output.factorial,
        domains=job.params.domains,
        entropy=job.section(EntropyConfig, "entropy"),
        seed=job.params.seed,
        groups=job.groups,
    )
