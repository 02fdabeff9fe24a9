"""Note which images of one data set belong together."""

from diffmech.workflow.session import session

with session(snakemake) as job:
    from pydantic import TypeAdapter

    from diffmech.config.images import AnyDataset
    from diffmech.data.grouping import image_groups

    image_groups(TypeAdapter(AnyDataset).validate_python(job.params.dataset), job.input.dataset, job.output[0])
