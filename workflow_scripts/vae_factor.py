"""Change one factor of images, and watch the latents and the units of a VAE."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.config.studies.vae import VaeMeasures
    from diffmech.data.factors.opening import restore_factors
    from diffmech.vae.factor_study import study_factor

    study_factor(
        Path(job.input.record).parent,
        job.input.codes,
        job.output[0],
        data=restore_factors(job.params.settings["data"]),
        factor=job.wildcards.factor,
        measures=job.section(VaeMeasures, "measures"),
        runtime=job.runtime,
    )
