"""Say who trains, validates and tests."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pydantic import TypeAdapter

    from diffmech.anomaly.rounds import tabulate_splits
    from diffmech.config.anomaly_data import AnyBrains, SplitConfig

    data = TypeAdapter(AnyBrains).validate_python(job.params.settings["data"])
    tabulate_splits(data, job.section(SplitConfig, "splits"), job.input.slices, job.output[0])
