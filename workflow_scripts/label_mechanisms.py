"""Name each cluster after its strongest probe, where that beats its nulls."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import MechanismsConfig
    from diffmech.mechanisms.labels import label_mechanisms

    label_mechanisms(
        job.input.features,
        job.input.phases,
        job.input.members,
        job.output[0],
        mechanisms=job.section(MechanismsConfig, "mechanisms"),
    )
