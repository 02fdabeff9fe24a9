"""Turn ablations into effects with intervals, controls and corrected p-values."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.interventions.effects import ablation_effects

    from diffmech.config.analysis import AblationConfig

    ablation_effects(
        list(job.input),
        job.output[0],
        domains=job.params.domains,
        ablation=job.section(AblationConfig, "ablation"),
        seed=job.params.seed,
    )
