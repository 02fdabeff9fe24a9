"""What a network is on record to have been trained on, and so which images it has seen. Ours.

The record (`provenance.json`, beside the weights) names the data sets of the training, each by the bytes of its store
and by what made it, and that every n-th of their images was kept out. Needs neither torch nor the weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import file_sha256, folder_of, read_json
from diffmech.data.store import ImageSet, open_dataset

# Kinds of data sets whose image of a number is the same wherever it is made from the same settings.
MADE_ANYWHERE = ("lfw_subset", "synthetic_faces", "planted")
# Keys of such data sets that say which numbers there are, not what an image of a number shows.
WHICH = ("first", "count", "on_bad_file")


def is_held_out(ids: Sequence[int] | np.ndarray, holdout: int) -> np.ndarray:
    """Return which sample ids `(sample,)` are kept out of training: every `holdout`-th one, none where it is 0."""
    ids = np.asarray(ids)
    return ids % holdout == holdout - 1 if holdout else np.zeros(ids.shape, dtype=bool)


@dataclass(frozen=True)
class TrainingRecord:
    """What a network is on record to have been trained on: every `holdout`-th image of `datasets` was kept out.

    `images` is how they were prepared, as far as that is on record.
    """

    holdout: int
    datasets: tuple[dict[str, Any], ...]
    images: Mapping[str, Any] | None = None

    def seen(self, images: ImageSet) -> np.ndarray | None:
        """Return which images of a data set the network was trained on, `(sample,)`; None where that cannot be told.

        A data set is known by the bytes of its store, or, where it can be made again anywhere (drawn images, images
        that a library ships), by what made it: an image of a number that is not among those of the training is unseen,
        and so is one that was drawn by another seed, however the images are prepared. Of an image of the same seed and
        number that was drawn by other settings it cannot be told.
        """
        if images.attrs.get("unseen"):
            return np.zeros(len(images), dtype=bool)
        sha256 = file_sha256(images.path)
        if any(known.get("sha256") == sha256 for known in self.datasets):
            return ~is_held_out(images.ids, self.holdout)
        made = images.attrs["provenance"]["dataset"]
        alike = self._of_kind(made)
        if not alike:
            return None
        numbers = images.ids + int(made.get("first", 0))
        seen = np.zeros(len(numbers), dtype=bool)
        for known in alike:
            places = numbers - int(known.get("first", 0))
            used = (places >= 0) & (places < int(known["count"]))
            if _subject(known) == _subject(made):
                seen |= used & ~is_held_out(places, self.holdout)
            elif known.get("seed") == made.get("seed") and used.any():
                return None
        return seen

    def trained_numbers(self, images: ImageSet) -> np.ndarray:
        """Return the numbers of the images that were trained on and that the settings of this data set make, rising.

        Empty where its images cannot be made again by their number.
        """
        made = images.attrs["provenance"]["dataset"]
        parts = [np.zeros(0, dtype=np.int64)]
        for known in self._of_kind(made):
            if _subject(known) == _subject(made):
                places = np.arange(int(known["count"]))
                parts.append(places[~is_held_out(places, self.holdout)] + int(known.get("first", 0)))
        return np.unique(np.concatenate(parts))

    def _of_kind(self, made: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the settings of the training's data sets of the kind of `made`, none where it cannot be made again."""
        if made["kind"] not in MADE_ANYWHERE:
            return []
        return [known["config"] for known in self.datasets if known.get("config", {}).get("kind") == made["kind"]]


def _subject(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say, with its number, what an image shows."""
    return {key: value for key, value in config.items() if key not in WHICH}


def training_record(directory: Path) -> TrainingRecord | None:
    """Return what lies beside the weights in `directory` about their training, None where nothing does."""
    file = Path(directory) / "provenance.json"
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    holdout = record.get("config", {}).get("training", {}).get("holdout")
    if holdout is None or not record.get("datasets"):
        return None
    return TrainingRecord(int(holdout), tuple(record["datasets"].values()), record.get("images"))


def record_of(model_json: Path | str) -> TrainingRecord | None:
    """Return the record of the training of the network behind the pointer `model_json`."""
    return training_record(folder_of(model_json) / read_json(model_json)["location"])


def datasets_on_record(datasets: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return of each data set (domain -> store) its SHA-256 and what made it, by which its images can be made again."""
    return {
        domain: {"sha256": file_sha256(path), **_made(open_dataset(Path(path)))} for domain, path in datasets.items()
    }


def _made(dataset: ImageSet) -> dict[str, Any]:
    attributes = dataset.attrs
    made = attributes["provenance"]
    return {"config": made["dataset"], "images": made["images"]} | {k: attributes[k] for k in ("gain", "offset")}
