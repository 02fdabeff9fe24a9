"""Sample the images of one concept that no edit of single weights changes."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.evaluation import original_images
    from diffmech.config.judging import JudgesConfig
    from diffmech.config.studies.concepts import EvaluationConfig, NamedConcept

    original_images(
        job.input.model,
        next(iter(job.input.judge), None),
        job.output[0],
        concept=job.section(NamedConcept, "concept"),
        evaluation=job.section(EvaluationConfig, "evaluation"),
        judges=job.section(JudgesConfig, "judges"),
        uce=job.params.settings["uce"],
        runtime=job.runtime,
        root=job.root,
    )
