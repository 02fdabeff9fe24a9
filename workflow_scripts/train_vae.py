"""Train one VAE."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.config.vae import VaeConfig
    from diffmech.data.factors.opening import restore_factors
    from diffmech.vae.factor_images import FactorImages
    from diffmech.vae.training import train_vae

    settings = job.params.settings
    train_vae(
        FactorImages(restore_factors(settings["data"])),
        job.section(VaeConfig, "vae"),
        Path(job.output.record).parent,
        job.placed(job.params.checkpoints),
        runtime=job.runtime,
        dataset=settings["data"],
    )
