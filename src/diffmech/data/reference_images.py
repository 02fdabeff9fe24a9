"""Which images are apart from those that are studied: whether there are enough, and which are of other groups. Ours.

The first images of a domain are studied, those behind them are reference images, and others find clusters of heads.
Where images belong together, reference images are of no group that is studied.

A person's other images are like the studied one, so that a mean over them takes away less than one over strangers. The
first images behind those that are studied are taken whose group is not studied, and before others those of the half
that tests clusters of heads, so that clusters are not found on what replaces them. Where that half has enough of them,
more images change no choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffmech.data.groups import GroupTables, read_groups
from diffmech.data.store import open_dataset
from diffmech.data.tables import REFERENCES
from diffmech.errors import DataError
from diffmech.statistics.halves import FEWEST, finding

STUDIED = "ablation.samples, discovery.samples, circuit.samples, and patching.samples, which count twice in pairs"
FEWEST_STUDIED = 4  # of circuits, which are chosen on one half of them and judged on the other
FEWEST_REFERENCES = 2


def check_enough(
    stores: Mapping[str, Path | str], *, studied: int, tested: int, first: int, stop: int, count: int
) -> None:
    """Raise DataError unless the data set of each domain has images to study, apart from these, and behind them.

    All but `stores` are those of `choose_references`; FEWEST images behind those tested find clusters of heads. Of
    images that belong together more may be needed, which `choose_references` tells.
    """
    needed = min(stop, tested + FEWEST)
    for domain, store in stores.items():
        there = len(open_dataset(Path(store)))
        if there < needed:
            raise DataError(
                f"{domain}: {needed} images are needed, but the data set holds {there}: {studied} to study, numbers"
                f" {first} to {first + count - 1} (counted from 0) as reference images, which nothing else studies, and"
                f" {FEWEST} behind all that are studied, of reference or seen by untrained copies, which find clusters"
                f" of heads; give at least {needed} images"
                + "".join(_less(there - FEWEST, studied=studied, tested=tested, first=first, count=count))
            )


def _less(room: int, *, studied: int, tested: int, first: int, count: int) -> Iterator[str]:
    """Yield what to lower so that all images that are tested are among the first `room`; nothing where none helps."""
    fewer = min(count, room - FEWEST_STUDIED)
    if fewer < FEWEST_REFERENCES:
        return
    if first + count > room and room - first >= FEWEST_REFERENCES:
        yield f", or lower ablation.reference_samples to {room - first}"
    elif first + count > room:
        # Reference images begin behind those that are studied: fewer of them are as little there as many.
        begin = "ablation.first_reference" if first > studied and studied <= room - fewer else STUDIED
        yield f", or lower what stands before the reference images ({begin}) to at most {room - fewer}"
        yield f" and ablation.reference_samples to {fewer}" if fewer < count else ""
    if tested > max(first + count, room):
        joined = " and" if first + count > room else ", or lower"
        yield f"{joined} untrained.samples to at most {room}"


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
