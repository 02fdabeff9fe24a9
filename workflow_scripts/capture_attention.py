"""Observe every attention head on one shard of latents, and on those of the same group of jobs."""

from diffmech.workflow.session import session
from diffmech.workflow.together import take_ahead

with session(snakemake) as job:
    if not take_ahead(job.output[0]):
        from diffmech.attention.capture import capture_shards
        from diffmech.config.study import CaptureConfig
        from diffmech.heads.ahead import shards_ahead

        capture_shards(
            job.input.latents,
            job.input.model,
            job.output[0],
            shards_ahead(dict(job.wildcards.items())),
            capture=job.section(CaptureConfig, "capture"),
            runtime=job.runtime,
        )
