"""Which images a denoiser was trained on is told from its record, and images that it never saw can be studied alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from diffmech.artifacts import read_json
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImageFolder, ImagesConfig, LfwSubset, SyntheticFaces
from diffmech.data.made_again import MadeAgain
from diffmech.data.moments import measure
from diffmech.data.store import ImageSet, matched, open_dataset, prepare_dataset
from diffmech.errors import DataError
from diffmech.models.heldout import heldout_loss, moments
from diffmech.models.load import load_denoiser
from diffmech.models.seen import seen_images, unseen_images
from diffmech.training.record import is_held_out, record_of, training_record

ROOT = Path(__file__).parents[3]
Prepare = Callable[..., ImageSet]


@pytest.fixture
def prepare(tmp_path: Path, images_config: ImagesConfig, quiet: RuntimeConfig) -> Prepare:
    """Prepare a data set under a name; keywords are settings of drawn faces, unless `config` is given."""

    def run(name: str, config: object = None, images: ImagesConfig | None = None, **faces: object) -> ImageSet:
        output = tmp_path / f"{name}.zarr.zip"
        settings = config or SyntheticFaces(kind="synthetic_faces", **{"count": 20, **faces})
        prepare_dataset(settings, images or images_config, output, name=name, runtime=quiet)
        return open_dataset(output)

    return run


def seen(pointer: Path, images: ImageSet) -> list[bool] | None:
    record = record_of(pointer)
    assert record is not None
    known = record.seen(images)
    return None if known is None else known.tolist()


def test_drawn_faces_are_seen_by_their_number_and_seed(trained: Path, prepare: Prepare) -> None:
    # thirty faces, numbers 0 to 29 of seed 0, without every fifth
    assert seen(trained, prepare("fresh", first=30)) == [False] * 20
    across = [number < 30 and number % 5 != 4 for number in range(20, 40)]
    assert seen(trained, prepare("across", first=20)) == across
    assert seen(trained, prepare("again", first=3, count=7)) == [number % 5 != 4 for number in range(3, 10)]
    assert seen(trained, prepare("seed", seed=7)) == [False] * 20


def test_how_images_are_prepared_does_not_make_them_unseen(trained: Path, prepare: Prepare) -> None:
    other = ImagesConfig(size=8, match=None)
    assert seen(trained, prepare("plain", images=other, first=28, count=4)) == [True, False, False, False]


def test_of_the_same_faces_drawn_in_another_way_it_cannot_be_told(trained: Path, prepare: Prepare) -> None:
    assert seen(trained, prepare("closer", zoom=1.5)) is None
    assert seen(trained, prepare("hats", fixed={"hat": 1})) is None
    assert seen(trained, prepare("further", zoom=1.5, first=30)) == [False] * 20


def test_images_of_no_recorded_data_set_are_neither_seen_nor_unseen(trained: Path, prepare: Prepare) -> None:
    assert seen(trained, prepare("lfw", LfwSubset(kind="lfw_subset", count=10))) is None


def test_the_default_study_has_no_drawn_face_of_the_training_and_says_which_photographs_are(prepare: Prepare) -> None:
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())["datasets"]
    record = training_record(ROOT / "resources" / "models" / "faces")
    assert record is not None
    drawn = SyntheticFaces.restore({**settings["synthetic_faces"], "count": 12})  # in a study: 2,000 from there on
    fresh = record.seen(prepare("drawn", drawn))
    assert fresh is not None
    assert not fresh.any()
    photographs = record.seen(prepare("lfw", LfwSubset.restore(settings["lfw_subset"])))
    assert photographs is not None
    assert photographs.sum() == 80
    trained_on = record.seen(prepare("trained", drawn.model_copy(update={"first": 1990, "count": 20})))
    assert trained_on is not None
    assert trained_on.tolist() == [n < 2000 and n % 5 != 4 for n in range(1990, 2010)]


def test_images_of_the_training_are_made_again_as_they_were(
    trained: Path, stores: dict[str, Path], prepare: Prepare
) -> None:
    fresh, training = prepare("fresh", first=30), open_dataset(stores["synthetic"])
    record = record_of(trained)
    assert record is not None
    numbers = record.trained_numbers(fresh)
    assert numbers.tolist() == [n for n in range(30) if n % 5 != 4]
    again = MadeAgain(fresh, numbers[[0, 5, 17]])
    wanted = matched(training.raw_images(numbers[[0, 5, 17]]), fresh.gain, fresh.offset)
    np.testing.assert_array_equal(again.images(again.ids), wanted)
    np.testing.assert_array_equal(again.images(again.ids[1:]), wanted[1:])
    assert again.attributes == training.attributes
    np.testing.assert_array_equal(again.attribute_values(again.ids), training.attribute_values(numbers[[0, 5, 17]]))
    assert not set(again.ids.tolist()) & set(fresh.ids.tolist())  # or they would share its noise


def test_a_study_of_labelled_images_is_compared_with_faces_of_the_training(
    trained: Path, stores: dict[str, Path], prepare: Prepare, quiet: RuntimeConfig, tmp_path: Path
) -> None:
    fresh = prepare("fresh", first=30)
    sets = {"real": stores["real"], "synthetic": fresh.path}
    heldout_loss(trained, sets, tmp_path / "h.csv", tmp_path / "d.csv", timesteps=[10, 30], samples=16, runtime=quiet)
    table = pd.read_csv(tmp_path / "h.csv")
    rows = table[(table["domain"] == "synthetic") & (table["timestep"].astype(str) == "10")].set_index("split")
    assert rows["n"].to_dict() == {"heldout": 11, "train": 5}
    assert np.isfinite(rows.loc["heldout", ["relative", "relative_low", "relative_high"]].astype(float)).all()
    # the page's table of skill is of the studied images alone
    fits = pd.read_csv(tmp_path / "d.csv")
    assert set(fits[fits["domain"] == "synthetic"]["n"]) == {11}
    record = record_of(trained)
    assert record is not None
    numbers = record.trained_numbers(fresh)
    again = MadeAgain(fresh, numbers[np.linspace(0, len(numbers) - 1, 5).astype(int)])
    denoiser = load_denoiser(trained, device="cpu")
    loss = moments(denoiser, again, "synthetic", again.ids, 10, 0, 16).loss
    assert rows.loc["train", "loss"] == pytest.approx(loss.mean(), rel=1e-5)


def test_unseen_images_are_those_kept_out_in_their_order(
    trained: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    whole = open_dataset(stores["synthetic"])
    unseen_images(stores["synthetic"], trained, tmp_path / "unseen.zarr.zip")
    images = open_dataset(tmp_path / "unseen.zarr.zip")
    kept = whole.ids[is_held_out(whole.ids, 5)]
    assert images.ids.tolist() == list(range(6))
    assert images.files == tuple(whole.files[i] for i in kept)
    np.testing.assert_array_equal(images.images(images.ids), whole.images(kept))
    np.testing.assert_array_equal(images.masks(images.ids), whole.masks(kept))
    np.testing.assert_array_equal(images.attribute_values(images.ids), whole.attribute_values(kept))
    after = measure([whole.raw_images(kept)], whole.gain, whole.offset)
    assert images.attrs["moments_after"] == pytest.approx({"mean": after.mean, "contrast": after.contrast})
    assert images.attrs["unseen"] == 30


def test_a_list_says_which_of_the_studied_images_were_trained_on(
    trained: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    seen_images(trained, stores, tmp_path / "seen.csv", samples=12)
    table = pd.read_csv(tmp_path / "seen.csv")
    counts = table.groupby("domain")["seen"].agg(["sum", "size"])
    assert counts.loc["real"].tolist() == [9, 11]  # there are 11, of which 4 and 9 were kept out
    assert counts.loc["synthetic"].tolist() == [10, 12]
    unseen_images(stores["synthetic"], trained, tmp_path / "unseen.zarr.zip")
    seen_images(trained, {"synthetic": tmp_path / "unseen.zarr.zip"}, tmp_path / "none.csv", samples=6)
    assert pd.read_csv(tmp_path / "none.csv")["seen"].tolist() == [False] * 6


def test_too_few_unseen_images_are_an_error_with_numbers(
    trained: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    unseen_images(stores["synthetic"], trained, tmp_path / "unseen.zarr.zip")
    with pytest.raises(DataError) as error:
        seen_images(trained, {"synthetic": tmp_path / "unseen.zarr.zip"}, tmp_path / "seen.csv", samples=7)
    message = str(error.value)
    assert "\n" not in message
    assert "of the 30 images of drawn (domain synthetic) only 6 were kept out of training" in message
    assert "capture.samples asks for 7" in message
    assert not (tmp_path / "seen.csv").exists()


def test_without_a_record_none_is_called_unseen(trained: Path, prepare: Prepare, tmp_path: Path) -> None:
    photographs = prepare("lfw", LfwSubset(kind="lfw_subset", count=10))
    with pytest.raises(DataError, match="not on record which images of lfw this denoiser was trained on"):
        unseen_images(photographs.path, trained, tmp_path / "unseen.zarr.zip")
    seen_images(trained, {"real": photographs.path}, tmp_path / "seen.csv", samples=10)
    assert pd.read_csv(tmp_path / "seen.csv").empty


def test_one_unseen_image_is_too_few(stores: dict[str, Path], trained: Path, prepare: Prepare, tmp_path: Path) -> None:
    few = prepare("few", first=0, count=5)
    with pytest.raises(DataError, match="1 of the 5 images of few were kept out of training, at least 2"):
        unseen_images(few.path, trained, tmp_path / "unseen.zarr.zip")


def test_whether_a_study_of_unseen_images_denoises_is_measured_on_unseen_ones(
    trained: Path, stores: dict[str, Path], quiet: RuntimeConfig, tmp_path: Path
) -> None:
    measured = {}
    for unseen in (False, True):
        out = [tmp_path / f"{name}{unseen}.csv" for name in ("h", "d")]
        heldout_loss(trained, stores, *out, timesteps=[10], samples=64, unseen=unseen, runtime=quiet)
        measured[unseen] = [pd.read_csv(path) for path in out]
    pd.testing.assert_frame_equal(measured[True][0], measured[False][0])
    assert measured[False][1].set_index("domain")["n"].to_dict() == {"real": 11, "synthetic": 30}
    assert measured[True][1].set_index("domain")["n"].to_dict() == {"real": 2, "synthetic": 6}
    heldout = measured[True][0].set_index(["domain", "split", "timestep"])["loss"]
    for row in measured[True][1].itertuples():
        assert row.loss == pytest.approx(heldout[(row.domain, "heldout", "10")], rel=1e-6)


def test_the_seen_images_of_a_folder_are_known_by_the_bytes_of_its_store(
    trained: Path, stores: dict[str, Path], prepare: Prepare, tmp_path: Path
) -> None:
    made = open_dataset(stores["real"]).attrs["provenance"]["dataset"]
    assert seen(trained, prepare("gradients", ImageFolder.restore(made))) == [n % 5 != 4 for n in range(11)]
    assert seen(trained, prepare("other", ImageFolder.restore({**made, "count": 10}))) is None


def test_the_record_of_the_bundled_denoiser_is_as_it_was() -> None:
    """Its judge, too, is found by the settings of the faces that the denoiser was trained on."""
    made = read_json(ROOT / "resources/models/faces/provenance.json")["datasets"]["synthetic"]["config"]
    assert SyntheticFaces.restore(made).canonical() == made
    assert json.loads(json.dumps(SyntheticFaces(kind="synthetic_faces", first=3).canonical()))["first"] == 3
