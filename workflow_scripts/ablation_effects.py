"""Turn ablations into effects with intervals, controls and corrected p-values."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.interventions.effects import ablation_effects

    # Paths are grouped by what their rule promised of them, never by taking them apart.
    stores = {
        domain: {group: job.input[name] for group, name in groups.items()}
        for domain, groups in job.params.names.items()
    }
    ablation_effects(
        stores,
        job.output[0],
        ablation=job.section(AblationConfig, "ablation"),
        seed=job.params.seed,
        groups=job.groups,
    )
