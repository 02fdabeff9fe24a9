"""Which images are reference images where images belong together: none of a group that is studied. Ours.

A person's other images are like the studied one, so that a mean over them takes away less than one over strangers. The
first images behind those that are studied are taken whose group is not studied, and before others those of the half
that tests clusters of heads, so that clusters are not found on what replaces them. Where that half has enough of them,
more images change no choice.
"""

from collections.abc import Sequence
from pathlib import Path

from diffmech.data.groups import GroupTables, read_groups
from diffmech.data.tables import REFERENCES
from diffmech.errors import DataError
from diffmech.statistics.halves import finding


def choose_references(
    groups: GroupTables,
    domains: Sequence[str],
    output: Path | str,
    *,
    studied: int,
    tested: int,
    first: int,
    stop: int,
    count: int,
) -> None:
    """Write the numbers of `count` reference images of each domain (domain, sample), ascending.

    They are sought from number `first` to below `stop`; images below `studied` are those that are studied, below
    `tested` those that find no clusters in any case (`statistics.halves`). Of a domain without groups they are the
    first ones. Raises DataError where there are too few.
    """
    rows = []
    for domain in domains:
        known = read_groups(groups[domain]) if domain in groups else dict.fromkeys(range(stop), "")
        taken = {known[sample] for sample in range(studied) if sample in known} if domain in groups else set()
        apart = [sample for sample in range(first, stop) if sample in known and known[sample] not in taken]
        if len(apart) < count:
            raise DataError(
                f"{groups[domain]}: {count} reference images are asked for, but only {len(apart)} of the {domain} "
                f"images from number {first} on are of groups that none of the {studied} studied images is of; give "
                "more images (capture.samples), or lower ablation.reference_samples or the numbers of studied images "
                "(ablation.samples, discovery.samples, circuit.samples, patching.samples)"
            )
        if domain in groups:
            names = list(known)
            finds = dict(zip(names, finding(names, tested, [known[name] for name in names]), strict=True))
            apart.sort(key=lambda sample: (finds[sample], sample))
        rows += [(domain, sample) for sample in sorted(apart[:count])]
    REFERENCES.write(output, REFERENCES.frame(rows))


def read_references(path: Path | str) -> dict[str, list[int]]:
    """Return the numbers of the reference images of each domain. Raises StoreError for a table that is not whole."""
    table = REFERENCES.read(path)
    return {str(domain): own["sample"].astype(int).tolist() for domain, own in table.groupby("domain", sort=False)}
