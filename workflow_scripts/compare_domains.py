"""Measure what still differs between the matched domains."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.data.comparison import compare_domains
    from diffmech.data.reference_images import check_enough

    stores = dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True))
    check_enough(stores, **job.params.among)
    compare_domains(stores, job.output[0], samples=job.params.samples)
