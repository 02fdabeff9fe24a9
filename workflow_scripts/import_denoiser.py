"""Check a bundled or foreign denoiser."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.images import ImagesConfig
    from diffmech.config.models import DenoiserConfig
    from diffmech.models.importing import import_denoiser

    import_denoiser(
        job.section(DenoiserConfig, "model"),
        job.output[0],
        images=job.section(ImagesConfig, "images"),
        root=job.root,
    )
