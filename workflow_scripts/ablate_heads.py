"""Ablate heads, layers or mechanisms on one shard of latents."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.interventions.ablation import ablate_heads

    ablate_heads(
        list(job.input.latents),
        job.input.model,
        list(job.input.reference),
        job.output[0],
        group=job.wildcards.group,
        heads_csv=job.input.get("heads") or None,
        timesteps=job.params.timesteps,
        sample_ids=job.params.sample_ids,
        ablation=job.section(AblationConfig, "ablation"),
        seed=job.params.seed,
        runtime=job.runtime,
    )
