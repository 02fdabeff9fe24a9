"""Which of the studied images the denoiser was trained on, and data sets of those that it was not. Ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from diffmech.artifacts import open_store, write_store
from diffmech.data.moments import Matching, measure
from diffmech.data.store import ImageSet, open_dataset, recorded_moments
from diffmech.errors import DataError
from diffmech.models.tables import SEEN
from diffmech.training.record import record_of

BATCH = 256


def seen_images(model_json: Path | str, datasets: Mapping[str, Path], output: Path | str, *, samples: int) -> None:
    """Write domain, sample (id) and seen (was it trained on?) of the first `samples` images of each domain.

    There are no rows of a domain of whose images that is not on record. Raises DataError where a data set of unseen
    images has fewer than `samples`.
    """
    record = record_of(model_json)
    rows: list[dict[str, object]] = []
    for domain, path in datasets.items():
        images = open_dataset(Path(path))
        of_all = images.attrs.get("unseen")
        if of_all is not None and len(images) < samples:
            raise DataError(
                f"capture.images: of the {of_all} images of {images.attrs['dataset']} (domain {domain}) only "
                f"{len(images)} were kept out of training, but capture.samples asks for {samples}; lower it to "
                f"{len(images)} or less (and what is ablated, patched or used for reference with it), add images, or "
                "give capture.images: all"
            )
        known = None if record is None else record.seen(images)
        if known is not None:
            rows += [{"domain": domain, "sample": int(i), "seen": bool(known[i])} for i in images.ids[:samples]]
    SEEN.write(output, SEEN.frame(rows))


def unseen_images(dataset: Path | str, model_json: Path | str, output: Path | str) -> None:
    """Write the images of a data set that were kept out of training as a data set of their own, in the same order.

    Gain and offset stay those of the whole set; moments are those of what is left; the attribute `unseen` holds how
    many images there were. Raises DataError where it is not on record which images were trained on, and where fewer
    than two were not.
    """
    images = open_dataset(Path(dataset))
    record = record_of(model_json)
    known = None if record is None else record.seen(images)
    name = images.attrs["dataset"]
    if known is None:
        raise DataError(
            f"capture.images: it is not on record which images of {name} this denoiser was trained on, so none can be "
            "called unseen; give capture.images: all"
        )
    kept = images.ids[~known]
    if len(kept) < 2:
        raise DataError(
            f"capture.images: {len(kept)} of the {len(images)} images of {name} were kept out of training, at least 2 "
            "are needed; give capture.images: all, or other images"
        )
    data = open_store(dataset).to_dataset().isel(sample=kept)
    data = data.assign_coords(sample=("sample", np.arange(len(kept))))
    after = measure(_chunks(images, kept), images.gain, images.offset)
    matching = Matching(images.gain, images.offset, measure(_chunks(images, kept), 1.0, 0.0), after)
    data.attrs |= {**recorded_moments(matching), "unseen": len(images)}
    write_store(output, data)


def _chunks(images: ImageSet, ids: np.ndarray) -> Iterator[np.ndarray]:
    return (images.raw_images(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH))
