"""Turn ablations into effects per window of timesteps, with intervals, controls and corrected p-values."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import AblationConfig
    from diffmech.interventions.windows import ablation_windows

    ablation_windows(
        {domain: {g: job.input[name] for g, name in groups.items()} for domain, groups in job.params.names.items()},
        job.input.model,
        next(iter(job.input.phases), None),
        job.output[0],
        ablation=job.section(AblationConfig, "ablation"),
        seed=job.params.seed,
        groups=job.groups,
    )
