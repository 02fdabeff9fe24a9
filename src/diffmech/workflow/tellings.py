"""Which jobs tell images something else than what they are, and who reads it, as pure functions of the study."""

from diffmech.config.study import NOTHING
from diffmech.workflow.study import Study

TOLD = "results/told/{model}/{dataset}/{told}.zarr.zip"
TOLD_COPIES = "results/told/{model}/{dataset}/{told}.untrained.zarr.zip"


def told_names(study: Study) -> list[str]:
    """Return what every image is told: nothing, or a domain."""
    return [NOTHING, *study.domains]


def told_files(study: Study, pattern: str) -> list[str]:
    """Return the outputs of one job, in the order of `told_names`, with the wildcards of `pattern` but the telling."""
    return [pattern.replace("{told}", name) for name in told_names(study)]


def told_latents(study: Study, dataset: str) -> list[str]:
    """Return the latents of the images of `dataset` that are told something else."""
    steps, samples = set(study.config.told_timesteps), study.config.told.samples
    blocks = [block for block, there in study.blocks.items() if steps & set(there)]
    return [path for block in blocks for path in study.latents_of_block(dataset, block, samples)]


def lending_latents(study: Study, dataset: str) -> list[str]:
    """Return the latents whose prompts the images of `dataset` are told too, none where domains are told by name."""
    if study.config.model.source != "pipeline":
        return []
    return told_latents(study, study.domains[study.other_domain(dataset)])


def named_cells(study: Study) -> dict[str, list[str]]:
    """Return the attention stores under one and the same condition, by the names that `workflow.cells` reads.

    Where nothing else can be told, or images are told nothing anyway, they are those of the capture.
    """
    if not study.config.keeps_telling_apart:
        own = {f"cell_0_{place}": study.attention(dataset) for place, dataset in enumerate(study.datasets)}
        return own | {f"copies_0_{place}": [path] for place, path in enumerate(study.untrained())}
    return {
        f"{kind}_{index}_{place}": [pattern.format(model=study.model, dataset=dataset, told=told)]
        for kind, pattern in (("cell", TOLD), ("copies", TOLD_COPIES))
        for index, told in enumerate(told_names(study))
        for place, dataset in enumerate(study.datasets)
    }
