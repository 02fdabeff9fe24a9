"""Train one denoiser on both domains."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.models.train import train_denoiser

    from diffmech.config.models import DenoiserConfig

    train_denoiser(
        job.section(DenoiserConfig, "model"),
        dict(zip(job.params.domains, (job.input.first, job.input.second), strict=True)),
        output_dir=f"results/models/{job.wildcards.model}",
        checkpoint_dir=job.params.checkpoints,
        runtime=job.runtime,
    )
