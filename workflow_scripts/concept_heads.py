"""Sum the scores of each head, and hold components against causal heads."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.heads import concept_heads, gradients_of

    settings = dict(job.params.settings)
    concept_heads(
        job.input.model,
        gradients_of(list(job.input.gradients), settings.pop("concepts"), settings.pop("objectives")),
        job.input.effects or None,
        job.output.heads,
        job.output.overlap,
        **settings,
        seed=job.params.seed,
        device=job.runtime.device,
    )
