"""List which of the studied images the denoiser was trained on."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.models.seen import seen_images

    datasets = dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True))
    seen_images(job.input.model, datasets, job.output[0], samples=job.params.samples)
