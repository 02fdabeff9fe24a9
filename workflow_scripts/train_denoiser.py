"""Train one denoiser on both domains."""

from pathlib import Path

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.images import ImagesConfig
    from diffmech.config.models import DenoiserConfig
    from diffmech.models.train import train_denoiser

    train_denoiser(
        job.section(DenoiserConfig, "model"),
        dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True)),
        output_dir=Path(job.output[0]).parent,
        checkpoint_dir=job.params.checkpoints,
        images=job.section(ImagesConfig, "images"),
        runtime=job.runtime,
    )
