"""Which jobs tell images something else than what they are, and who reads it, as pure functions of the study."""

from diffmech.config.study import NOTHING
from diffmech.heads.paths import Heads

TOLD = "results/told/{model}/{dataset}/{told}.zarr.zip"
TOLD_COPIES = "results/told/{model}/{dataset}/{told}.untrained.zarr.zip"


def told_names(heads: Heads) -> list[str]:
    """Return what every image is told: nothing, or a domain."""
    return [NOTHING, *heads.domains]


def told_files(heads: Heads, pattern: str) -> list[str]:
    """Return the outputs of one job, in the order of `told_names`, with the wildcards of `pattern` but the telling."""
    return [pattern.replace("{told}", name) for name in told_names(heads)]


def told_latents(heads: Heads, dataset: str) -> list[str]:
    """Return the latents of the images of `dataset` that are told something else."""
    blocks, samples = heads.blocks_at(heads.config.told_timesteps), heads.config.told.samples
    return [path for block in blocks for path in heads.latents_of_block(dataset, block, samples)]


def lending_latents(heads: Heads, dataset: str) -> list[str]:
    """Return the latents whose prompts the images of `dataset` are told too, none where domains are told by name."""
    if heads.config.model.source != "pipeline":
        return []
    return told_latents(heads, heads.domains[heads.study.other_domain(dataset)])


def named_cells(heads: Heads) -> dict[str, list[str]]:
    """Return the attention stores under one and the same condition, by the names that `workflow.cells` reads.

    Where nothing else can be told, or images are told nothing anyway, they are those of the capture.
    """
    if not heads.config.keeps_telling_apart:
        own = {f"cell_0_{place}": heads.attention(dataset) for place, dataset in enumerate(heads.datasets)}
        return own | {f"copies_0_{place}": [path] for place, path in enumerate(heads.untrained())}
    return {
        f"{kind}_{index}_{place}": [pattern.format(model=heads.model, dataset=dataset, told=told)]
        for kind, pattern in (("cell", TOLD), ("copies", TOLD_COPIES))
        for index, told in enumerate(told_names(heads))
        for place, dataset in enumerate(heads.datasets)
    }
