"""Take the images of a data set that the denoiser was not trained on."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.models.seen import unseen_images

    unseen_images(job.input.dataset, job.input.model, job.output[0])
