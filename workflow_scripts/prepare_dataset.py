"""Prepare the images of one data set."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pydantic import TypeAdapter

    from diffmech.config.images import AnyDataset, ImagesConfig
    from diffmech.data.store import prepare_dataset

    # Which column says what belongs together is no attribute, and nothing that an image depends on: it is not tracked.
    group = job.config["datasets"][job.wildcards.dataset].get("group")
    named = {"group": group} if group else {}
    prepare_dataset(
        TypeAdapter(AnyDataset).validate_python(job.params.settings["dataset"] | named),
        job.section(ImagesConfig, "images"),
        job.output.store,
        digest=job.output.digest,
        name=job.wildcards.dataset,
        runtime=job.runtime,
        generated=list(job.input.generated),
    )
