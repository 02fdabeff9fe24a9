"""Tabulate what the judge sees in images of which it is known what they were told."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.concepts.confusion import judge_confusion
    from diffmech.config.images import ImagesConfig
    from diffmech.config.judging import JudgesConfig
    from diffmech.config.models import RecognitionConfig

    judge_confusion(
        job.input.model,
        next(iter(job.input.judge), None),
        dict(zip(job.params.names, job.input.originals, strict=True)),
        job.output[0],
        images=job.section(ImagesConfig, "images"),
        recognition=job.section(RecognitionConfig, "recognition"),
        judges=job.section(JudgesConfig, "judges"),
        confidence=job.params.settings["confidence"],
        runtime=job.runtime,
        root=job.root,
    )
