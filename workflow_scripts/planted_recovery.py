"""Compare what was found of planted heads with what was planted."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.config.study import UntrainedConfig
    from diffmech.planted.recovery import recover

    recover(
        job.input.model,
        job.input.heads,
        job.input.effects,
        {domain: job.input[f"latents_{domain}"] for domain in job.params.symmetric},
        job.input.reference,
        heads_output=job.output.heads,
        pairs_output=job.output.pairs,
        summary_output=job.output.summary,
        symmetric=job.params.symmetric,
        ablation=job.section(AblationConfig, "ablation"),
        untrained=job.section(UntrainedConfig, "untrained"),
        seed=job.params.seed,
        runtime=job.runtime,
    )
