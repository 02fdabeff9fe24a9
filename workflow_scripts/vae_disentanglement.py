"""Score how well factors are told apart in the latents of one VAE, and read their causal graph from them."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pathlib import Path

    from diffmech.config.studies.vae import VaeMeasures
    from diffmech.data.factors.opening import restore_factors
    from diffmech.vae.causal_map import causal_map
    from diffmech.vae.disentanglement import disentanglement

    asked = {
        "data": restore_factors(job.params.settings["data"]),
        "factors": job.params.settings["factors"],
        "measures": job.section(VaeMeasures, "measures"),
        "runtime": job.runtime,
    }
    directory = Path(job.input.record).parent
    disentanglement(directory, job.input.codes, job.output.scores, **asked)
    causal_map(directory, job.input.codes, job.output.edges, **asked)
