"""Let a classifier judge conditional samples."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.models import RecognitionConfig, SamplingConfig
    from diffmech.judging.recognition import check_recognition

    check_recognition(
        job.input.model,
        job.input.judge,
        job.output[0],
        recognition=job.section(RecognitionConfig, "recognition"),
        sampling=job.section(SamplingConfig, "sampling"),
        runtime=job.runtime,
    )
