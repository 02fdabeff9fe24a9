"""Train the judge of generated images."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.images import ImagesConfig
    from diffmech.config.models import RecognitionConfig
    from diffmech.judging.judge import make_judge

    make_judge(
        job.input.model,
        job.output[0],
        recognition=job.section(RecognitionConfig, "recognition"),
        images=job.section(ImagesConfig, "images"),
        runtime=job.runtime,
    )
