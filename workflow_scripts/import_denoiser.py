"""Check a bundled or foreign denoiser."""

from pathlib import Path

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.import_check import check_imported
    from diffmech.config.images import ImagesConfig
    from diffmech.config.models import DenoiserConfig
    from diffmech.models.importing import import_denoiser

    import_denoiser(
        job.section(DenoiserConfig, "model"),
        job.output[0],
        images=job.section(ImagesConfig, "images"),
        root=job.root,
    )
    check_imported(Path(job.output[0]))
