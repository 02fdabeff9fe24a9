"""Which maps (sample, channel, row, column) the modules around an attention call are given. Ours.

Places that are few and lie behind many layers hear of the whole image, so that what they hear does not tell them from
channels or from tokens of another kind; that a module is given a map of as many rows and columns does.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from diffmech.attention.modules import modules_by_path

# By path of a module, the samples, rows and columns of the maps that it was given.
Maps = Mapping[str, set[tuple[int, int, int]]]


@contextmanager
def noted_maps(model: nn.Module) -> Iterator[Maps]:
    """Yield the maps that the modules of `model` are given within, but for the model itself."""
    found: dict[str, set[tuple[int, int, int]]] = {}

    def noting(path: str) -> Any:
        def note(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            maps = (each.shape for each in (*inputs, *named.values()) if isinstance(each, Tensor) and each.dim() == 4)
            found.setdefault(path, set()).update((samples, rows, columns) for samples, _, rows, columns in maps)

        return note

    modules = {path: module for path, module in modules_by_path(model).items() if path}
    handles = [module.register_forward_pre_hook(noting(path), with_kwargs=True) for path, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def is_given(maps: Maps, path: str, rows: int, columns: int) -> bool:
    """Return whether the module at `path`, or one around it, is given a map of so many rows and columns."""
    return any(given[1:] == (rows, columns) for each in _around(path) for given in maps.get(each, ()))


def several(maps: Maps, path: str) -> tuple[str, int] | None:
    """Return the outermost module around the one at `path` that is given several maps of one image, and how many."""
    for each in _around(path)[:-1]:
        most = max((samples for samples, *_ in maps.get(each, ())), default=1)
        if most > 1:
            return each, most
    return None


def _around(path: str) -> list[str]:
    """Return the paths of the modules around one, the outermost first, and its own."""
    parts = path.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
