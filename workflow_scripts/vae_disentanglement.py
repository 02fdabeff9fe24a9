"""Score how well factors are told apart in the latents of one VAE, and read their causal graph from them."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.config.studies.vae import VaeMeasures
    from diffmech.data.factors.opening import restore_factors
    from diffmech.vae.causal_map import causal_map
    from diffmech.vae.disentanglement import disentanglement

    settings = job.params.settings
    for measure, output in ((disentanglement, job.output.scores), (causal_map, job.output.edges)):
        measure(
            Path(job.input.record).parent,
            job.input.codes,
            output,
            data=restore_factors(settings["data"]),
            factors=settings["factors"],
            measures=job.section(VaeMeasures, "measures"),
            runtime=job.runtime,
        )
