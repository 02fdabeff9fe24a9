"""Read or make the slices of all patients."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pydantic import TypeAdapter

    from diffmech.anomaly.rounds import prepare_brains
    from diffmech.config.anomaly_data import AnyBrains

    data = TypeAdapter(AnyBrains).validate_python(job.params.settings["data"])
    prepare_brains(data, job.output.slices, job.output.digest)
