"""What a judge is worth: counts by hand, and an interval of balanced accuracy that covers."""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import RecognitionConfig
from diffmech.judging.confusion import confusion, held_out_images
from diffmech.judging.labelled import labelled_images
from diffmech.judging.recognition import wilson_interval
from diffmech.models.storage import find_layout, write_pointer

FACES = Path(__file__).parents[3] / "resources" / "models" / "faces"
RUNTIME = RuntimeConfig(progress=False, device="cpu")


def verdicts(told, seen):
    rows = confusion(np.array(told, dtype=bool), np.array(seen, dtype=bool), confidence=0.95)
    return {(row["told"], row["seen"]): row for row in rows}


def test_verdicts_are_counted_by_what_was_told():
    found = verdicts([1, 1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0, 0])
    assert {key: (row["count"], row["n"]) for key, row in found.items()} == {
        (True, True): (3, 4),
        (True, False): (1, 4),
        (False, True): (1, 5),
        (False, False): (4, 5),
    }
    assert {row["balanced"] for row in found.values()} == {(3 / 4 + 4 / 5) / 2}
    row = found[True, False]
    assert (row["rate"], row["low"], row["high"]) == (1 / 4, *wilson_interval(1, 4, 0.95))


def test_without_images_that_were_not_told_nothing_is_balanced():
    found = verdicts([1, 1], [1, 0])
    assert set(found) == {(True, True), (True, False)}
    assert {row["balanced"] for row in found.values()} == {None}


def test_the_interval_of_balanced_accuracy_covers():
    """Exactly, over all outcomes of 16 images that were told and 16 that were not."""
    n, ones = 16, np.ones(16, dtype=bool)
    told = np.concatenate([ones, ~ones])
    ends = np.empty((n + 1, n + 1, 2))
    for hits in range(n + 1):
        for rejections in range(n + 1):
            seen = np.concatenate([np.arange(n) < hits, np.arange(n) >= rejections])
            row = next(iter(confusion(told, seen, confidence=0.95)))
            ends[hits, rejections] = row["balanced_low"], row["balanced_high"]
    covered = []
    for seen, unseen in product(np.linspace(0.5, 0.99, 8), repeat=2):
        weights = np.outer(*(binom.pmf(np.arange(n + 1), n, share) for share in (seen, unseen)))
        true = (seen + unseen) / 2
        covered.append(weights[(ends[..., 0] <= true) & (true <= ends[..., 1])].sum())
    assert 0.94 < np.mean(covered) < 0.96
    assert min(covered) > 0.9  # counts are whole: near 1 there are few outcomes


def test_faces_that_test_a_judge_are_none_of_those_it_learned_from(tmp_path):
    pointer, images = tmp_path / "model.json", ImagesConfig(size=16)
    write_pointer(pointer, find_layout(FACES), parameters=1, source="bundled")
    recognition = RecognitionConfig(faces=60)
    pixels, there = held_out_images(
        pointer, ["hat", "wings", "glasses"], images=images, recognition=recognition, runtime=RUNTIME
    )
    assert list(there) == ["hat", "glasses"]
    assert pixels.shape == (12, 1, 16, 16)
    _, learned, _ = labelled_images(
        SyntheticFaces(kind="synthetic_faces"),
        images,
        [],
        count=60,
        seed=recognition.seed,
        purpose="faces of the judge",
        runtime=RUNTIME,
    )
    assert not (torch.cdist(pixels.flatten(1), learned.flatten(1)) < 1e-3).any()
    nothing, unknown = held_out_images(pointer, ["wings"], images=images, recognition=recognition, runtime=RUNTIME)
    assert (len(nothing), unknown) == (0, {})
