"""Observe every attention head on one shard of latents."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.attention.capture import capture_attention
    from diffmech.config.study import CaptureConfig

    capture_attention(
        job.input.latents,
        job.input.model,
        job.output[0],
        capture=job.section(CaptureConfig, "capture"),
        runtime=job.runtime,
    )
