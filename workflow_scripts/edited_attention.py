"""Watch the attention of a denoiser with and without an edit."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.inside import edited_attention
    from diffmech.config.concept_probes import InsideConfig
    from diffmech.config.studies.concepts import EvaluationConfig, NamedConcept

    edited_attention(
        job.input.model,
        job.input.mask,
        job.output[0],
        concept=job.section(NamedConcept, "concept"),
        evaluation=job.section(EvaluationConfig, "evaluation"),
        inside=job.section(InsideConfig, "inside"),
        runtime=job.runtime,
    )
