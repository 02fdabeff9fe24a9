"""Encode images, and set single latents of them."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.config.studies.vae import VaeMeasures
    from diffmech.data.factors.opening import restore_factors
    from diffmech.vae.codes import encode_images

    encode_images(
        Path(job.input.record).parent,
        job.output[0],
        data=restore_factors(job.params.settings["data"]),
        measures=job.section(VaeMeasures, "measures"),
        runtime=job.runtime,
    )
