"""Edit the denoiser for one concept and objective at one dose, and sample its images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.evaluation import edit_concept
    from diffmech.config.judging import JudgesConfig
    from diffmech.config.studies.concepts import EditConfig, EvaluationConfig, NamedConcept

    edit_concept(
        job.input.model,
        list(job.input.gradients),
        job.input.originals,
        next(iter(job.input.judge), None),
        *job.output,
        concept=job.section(NamedConcept, "concept"),
        objective=job.wildcards.objective,
        edit=job.section(EditConfig, "edit"),
        dose=float(job.wildcards.dose),
        evaluation=job.section(EvaluationConfig, "evaluation"),
        judges=job.section(JudgesConfig, "judges"),
        runtime=job.runtime,
        root=job.root,
        mechanisms=job.input.mechanisms or None,
    )
