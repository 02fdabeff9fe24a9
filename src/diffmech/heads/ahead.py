"""What a capture can do for the other captures of its group; apart from the study, on which no job depends."""

from collections.abc import Mapping
from pathlib import Path

from diffmech.heads.files import ATTENTION, LATENTS
from diffmech.workflow.together import made_ahead, other_members


def shards_ahead(own: Mapping[str, str]) -> dict[Path, Path]:
    """Return, by their latents, the stores that other jobs of this group are to make of other shards of the same block.

    `own` are the wildcards of this capture. Latents that are not there yet are left to the job that comes after them.
    """
    found = {}
    for member in other_members("capture_attention", own, but_for="shard"):
        latents, place = Path(LATENTS.format(**member)), made_ahead(ATTENTION.format(**member))
        if place is not None and latents.is_file() and not place.exists():
            found[latents] = place
    return found
