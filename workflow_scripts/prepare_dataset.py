"""Prepare the images of one data set."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pydantic import TypeAdapter

    from diffmech.config.images import AnyDataset, ImagesConfig
    from diffmech.data.store import prepare_dataset

    prepare_dataset(
        TypeAdapter(AnyDataset).validate_python(job.params.settings["dataset"]),
        job.section(ImagesConfig, "images"),
        job.output[0],
        name=job.wildcards.dataset,
        runtime=job.runtime,
        generated=list(job.input.generated),
    )
