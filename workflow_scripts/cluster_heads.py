"""Cluster heads by what they do in each phase."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import MechanismsConfig
    from diffmech.mechanisms.clustering import cluster_heads

    cluster_heads(
        job.input.features,
        job.input.phases,
        job.output.members,
        job.output.quality,
        mechanisms=job.section(MechanismsConfig, "mechanisms"),
    )
