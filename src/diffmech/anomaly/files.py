"""What all readers of the user's files share: messages that name the file, and patients that are left out. Ours."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffmech.anomaly.slices import Slices, joined
from diffmech.config.anomaly_data import ByPatient
from diffmech.errors import DataError

logger = logging.getLogger(__name__)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Put `path` before the reason of a DataError, or of a ValueError of arrays that cannot be used."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be used, since {error}; look at it, or leave it out") from error


def read_patients(places: Collection[Path], config: ByPatient, read: Callable[[Path], Slices]) -> Slices:
    """Return what `read` makes of all `places`, in their order; who cannot be read stops it, or is noted and left out.

    Raises DataError where nobody is left.
    """
    parts = []
    for place in places:
        try:
            parts.append(read(place))
        except DataError as error:
            if config.on_bad_patient == "error":
                raise
            logger.warning("left out: %s", error)
    if not parts:
        raise DataError(f"{config.path}: none of its {len(places)} patients can be used; the log says why of each")
    return joined(parts)


def folder_of(config_path: str) -> Path:
    """Return the folder of a data set. Raises DataError where there is none."""
    folder = Path(config_path).expanduser()
    if not folder.is_dir():
        found = "is a file, no folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder}: {found}; let path name the folder of the data set")
    return folder
