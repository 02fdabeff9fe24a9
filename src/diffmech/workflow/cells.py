"""The inputs of a job by what images were told and by domain; apart from the study, on which no job depends."""

from collections.abc import Mapping, Sequence

from diffmech.config.study import NOTHING

# By what is told, then by domain: the stores of the denoiser's attention, or of its untrained twins.
Cells = dict[str, dict[str, list[str]]]


def cells(given: Mapping[str, str | Sequence[str]], domains: Sequence[str]) -> tuple[Cells, Cells]:
    """Return the stores behind the inputs `cell_{told}_{domain}` and `copies_{told}_{domain}` of a job.

    `told` counts nothing, then the domains; other inputs are left alone.
    """
    names = [NOTHING, *domains]
    found: dict[str, Cells] = {"cell": {}, "copies": {}}
    for key, paths in given.items():
        kind, _, places = key.partition("_")
        if kind in found:
            told, domain = map(int, places.split("_"))
            files = [paths] if isinstance(paths, str) else [str(path) for path in paths]
            found[kind].setdefault(names[told], {})[domains[domain]] = files
    return found["cell"], found["copies"]
