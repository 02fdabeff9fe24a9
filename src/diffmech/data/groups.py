"""Which images belong together: the table that the rule `image_groups` writes, and how analyses read it.

One small table per data set, of columns sample (the number of an image in the data set store) and group. Only analyses
read it: nothing that runs the denoiser to observe it does.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffmech.errors import StoreError

# Paths of the tables of groups by domain; domains without groups are not in it.
GroupTables = Mapping[str, Path | str]
FEWEST = 2
UNIT = "unit"  # the coordinate of samples, in memory, that says which belong together


def read_groups(path: Path | str) -> dict[int, str]:
    """Return the group of each image by its number. Raises StoreError for a table that is not whole."""
    try:
        # not as a table of numbers: 7 and 07 are two groups, and NA is one
        with Path(path).open(encoding="utf-8", newline="") as stream:
            rows = [(int(row["sample"]), row["group"]) for row in csv.DictReader(stream)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StoreError(
            f"{path}: cannot be read as a table of groups ({error}); delete it and let the workflow make it anew"
        ) from error
    if len(dict(rows)) < len(rows) or not all(group for _, group in rows):
        raise StoreError(f"{path}: does not give each image one group; delete it to have it made anew")
    return dict(rows)


def groups_of(tables: GroupTables, domain: str, samples: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """Return the groups of some images of a domain, `(sample,)` of text, None where it has no groups.

    Raises StoreError where an image has no group, and where the images are of fewer than two, of which nothing can be
    resampled.
    """
    if domain not in tables:
        return None
    path, ids = tables[domain], [int(sample) for sample in samples]
    known = read_groups(path)
    if missing := [sample for sample in ids if sample not in known]:
        raise StoreError(f"{path}: has no group of image {missing[0]}; delete it to have it made anew")
    found = np.array([known[sample] for sample in ids], dtype=str)
    if len(set(found.tolist())) < FEWEST:
        raise StoreError(
            f"{path}: the {len(ids)} {domain} images that are studied (numbers {min(ids, default=0)} to "
            f"{max(ids, default=0)}) are of {len(set(found.tolist()))} group, and statistics need at least {FEWEST}; "
            "study more images, or images of more groups"
        )
    return found
