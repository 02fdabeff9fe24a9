"""Tabulate what was found in all VAEs of a data set."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.vae.tabulate import tabulate

    tabulate(
        {name: list(job.input.get(name)) for name in ("records", "codes", "factors", "scores", "edges")},
        dict(job.output.items()),
        **job.params.settings,
    )
