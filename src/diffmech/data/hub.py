"""A data set of the Hugging Face `datasets` library, from the hub, its cache, or a folder on this machine.

Images are decoded here and not by that library, so that truncated files are noticed and all modes are treated alike.
"""

import importlib.util
import io
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffmech.config.images import HuggingFace, ImagesConfig
from diffmech.data.draw import drawn_order
from diffmech.data.preparation import check_pixels, decode_image, kept_area, prepare_image, read_image
from diffmech.data.source import BadFile, Sample, attribute_row
from diffmech.errors import DataError

if TYPE_CHECKING:
    import datasets

HUB_TIMEOUT = 10.0  # seconds until the hub counts as not reachable; the library itself would retry for half a minute


class HuggingFaceSource:
    """One split with an image column and numeric columns as attributes; its rows are drawn by their number.

    Raises DataError if `datasets` is not installed, the hub cannot be reached, or split or columns do not exist.
    """

    def __init__(self, config: HuggingFace, images: ImagesConfig) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise DataError("kind huggingface needs the package datasets; run: pip install 'diffmech[huggingface]'")
        import datasets

        table = load_table(config)
        for column in [config.image_column, *config.attributes]:
            if column not in table.column_names:
                near = get_close_matches(column, table.column_names, n=1, cutoff=0.0)[0]
                there = ", ".join(table.column_names)
                raise DataError(f"{config.name}: has no column {column!r}, only {there}; did you mean {near!r}?")
        if isinstance(table.features[config.image_column], datasets.Image):
            table = table.cast_column(config.image_column, datasets.Image(decode=False))
        self._table = table.select_columns([config.image_column, *config.attributes])
        # Rows have no name but their number: to read all images for one of their content would take the whole set.
        self._rows = [int(row) for row in drawn_order(map(str, range(len(table))), config.seed)]
        self._config = config
        self._images = images
        self.location = f"{config.name}:{config.split}"
        self.attribute_names = tuple(config.attributes)
        self.part_names: tuple[str, ...] = ()
        self.misfits: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Decode and prepare the rows of `indices`. Raises DataError for an attribute that is no number in [0, 1]."""
        return [self._sample(self._rows[index]) for index in indices]

    def _sample(self, index: int) -> Sample | BadFile:
        config, size = self._config, self._images.size
        row = self._table[index]
        cell = row[config.image_column]
        file = f"row {index}"
        if isinstance(cell, dict) and cell.get("path"):
            file = f"row {index} ({Path(cell['path']).name})"
        values = attribute_row(
            self.attribute_names, [row[name] for name in self.attribute_names], f"{self.location}: {file}"
        )
        try:
            pixels = _pixels(cell)
        except DataError as error:
            return BadFile(file, str(error))
        image = prepare_image(pixels, self._images, config.crop)
        masks = np.empty((0, size, size), dtype=np.uint8)
        return Sample(file, image, values, masks, kept_area(pixels, config.crop))


def _pixels(cell: Any) -> np.ndarray:
    if cell is None:
        raise DataError("has no image")
    if isinstance(cell, dict):
        if cell.get("bytes"):
            return decode_image(io.BytesIO(cell["bytes"]))
        return read_image(Path(cell.get("path") or ""))
    try:
        array = np.asarray(cell)
    except ValueError as error:
        raise DataError("is no image, since its rows differ in length; give each row the same number") from error
    # lists of integers come back as int64; they are pixels if they fit in a byte
    if np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    return check_pixels(array)


def load_table(config: HuggingFace) -> "datasets.Dataset":
    """Return the split that `config` names. Raises DataError where it cannot be loaded."""
    import datasets

    folder = Path(config.name).expanduser()
    saved = [name for name in ("state.json", "dataset_dict.json") if (folder / name).is_file()]
    try:
        if saved:
            found = datasets.load_from_disk(str(folder))
        else:
            if not folder.is_dir():
                _reach_hub(config)
            found = datasets.load_dataset(str(folder) if folder.is_dir() else config.name, revision=config.revision)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        remedy = (
            "write it anew with save_to_disk"
            if saved
            else "check `name` and `revision`, or give a folder written by save_to_disk"
        )
        raise DataError(f"{config.name}: cannot be loaded ({reason}); {remedy}") from error
    if isinstance(found, datasets.DatasetDict):
        if config.split not in found:
            raise DataError(f"{config.name}: has no split {config.split!r}; set `split` to one of {', '.join(found)}")
        return found[config.split]
    return found


def _reach_hub(config: HuggingFace) -> None:
    """Ask the hub for the data set once. With HF_HUB_OFFLINE=1 nothing is asked and the local cache must have it."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(config.name, revision=config.revision, timeout=HUB_TIMEOUT)
    except (errors.HFValidationError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(
            f"{config.name}: the hub has no such data set, or not in revision {config.revision or 'main'}, or it needs "
            "a login, and there is no such folder here; check `name` and `revision`, or run: hf auth login"
        ) from error
    except (
        Exception
    ) as error:  # the HTTP library behind the hub client, and so its error classes, changes with versions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{config.name}: is no local folder and the hub could not be reached ({reason}); connect, or give a folder "
            "written by save_to_disk, or set HF_HUB_OFFLINE=1 if the data set was downloaded before"
        ) from error
