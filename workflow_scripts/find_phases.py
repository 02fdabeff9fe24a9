"""Cut the timesteps into phases."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from diffmech.config.analysis import MechanismsConfig
    from diffmech.mechanisms.phases import find_phases

    find_phases(job.input[0], job.output[0], mechanisms=job.section(MechanismsConfig, "mechanisms"))
