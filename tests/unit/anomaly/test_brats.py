"""BraTS: a head is where it is in mm, however its files are stored; what cannot be trusted is refused by its name."""

import gzip
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantom_heads import LESION, RADIUS, affine_of, head, save, save_case
from scipy import ndimage

from diffmech.anomaly import brats
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import Brats
from diffmech.errors import DataError

CASE = "BraTS20_Training_001"


def read(root: Path, **fields) -> Slices:
    return brats.read(Brats(kind="brats", path=str(root), **{"size": 48, "slices": 12, **fields}))


def replace(case: Path, modality: str, values: np.ndarray, affine: np.ndarray | None = None, axes: str = "RAS") -> None:
    save(case / f"{case.name}_{modality}.nii.gz", values, affine_of()[0] if affine is None else affine, axes)


def assert_alike(found: Slices, expected: Slices, tolerance: float) -> None:
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.position, expected.position, atol=0.03)
    both = found.brain & expected.brain
    assert both.sum() / (found.brain | expected.brain).sum() > 0.94  # of voxels of 4 mm
    assert (found.lesion & expected.lesion).sum() / (found.lesion | expected.lesion).sum() > 0.75
    inner = np.stack([ndimage.binary_erosion(plane, iterations=2) for plane in both]) & (
        found.lesion == expected.lesion
    )
    assert np.quantile(np.abs(found.images - expected.images)[:, 0][inner], 0.9) < tolerance


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Slices:
    root = tmp_path_factory.mktemp("plain")
    save_case(root)
    return read(root)


def test_a_lesion_is_where_it_is_in_mm(plain: Slices) -> None:
    """On the left of the picture, where the patient's right is, in front, and above the middle, with its volume."""
    pixel = 192 / 48
    planes, rows, columns = np.nonzero(plain.lesion)
    assert abs(((columns + 0.5) * pixel - 96).mean() + LESION[0]) < 1.5
    assert abs(((rows + 0.5) * pixel - 96).mean() + LESION[1]) < 1.5
    assert abs(np.interp(planes.mean(), np.arange(len(plain)), plain.position) - (0.5 + LESION[2] / 104)) < 0.05
    widest = plain.lesion.sum((1, 2)).max() * pixel**2
    assert abs(widest / (np.pi * RADIUS**2) - 1) < 0.15
    assert plain.patients == [CASE]
    front, back = plain.images[6, 0, 10:16][plain.brain[6, 10:16]], plain.images[6, 0, -14:-8][plain.brain[6, -14:-8]]
    assert front.mean() > back.mean() + 0.02


@pytest.mark.parametrize("axes", ["LPS", "RAI", "PIR", "SAL", "AIL"])
def test_rotated_axes_change_nothing(axes: str, plain: Slices, tmp_path: Path) -> None:
    save_case(tmp_path, axes=axes)
    found = read(tmp_path)
    np.testing.assert_allclose(found.images, plain.images, atol=1e-5)
    np.testing.assert_array_equal(found.lesion, plain.lesion)
    np.testing.assert_array_equal(found.position, plain.position)


def test_an_oblique_grid_shows_the_same_head(plain: Slices, tmp_path: Path) -> None:
    save_case(tmp_path, turn=20)
    assert_alike(read(tmp_path), plain, 0.05)


@pytest.mark.parametrize("spacing", [(2.0, 4.0, 4.0), (4.0, 3.0, 2.0)])
def test_spacing_is_honoured(spacing, plain: Slices, tmp_path: Path) -> None:
    save_case(tmp_path, spacing=spacing)
    assert_alike(read(tmp_path), plain, 0.05)


def test_a_file_may_be_compressed_or_not(plain: Slices, tmp_path: Path) -> None:
    save_case(tmp_path, suffix=".nii")
    np.testing.assert_array_equal(read(tmp_path).images, plain.images)


def test_scale_factors_of_whole_numbers_are_applied(plain: Slices, tmp_path: Path) -> None:
    case = save_case(tmp_path)
    affine, shape = affine_of()
    signal, _ = head(affine, shape)
    for modality, values, slope in (("flair", signal, 0.25), ("seg", head(affine, shape)[1] * 2.0, 0.5)):
        image = nibabel.Nifti1Image(np.rint(values / slope).astype(np.int16), affine)
        image.header.set_slope_inter(slope, 0)
        nibabel.save(image, case / f"{CASE}_{modality}.nii.gz")
    assert nibabel.load(case / f"{CASE}_flair.nii.gz").header.get_data_dtype() == np.int16
    found = read(tmp_path)
    np.testing.assert_allclose(found.images, plain.images, atol=2e-3)
    np.testing.assert_array_equal(found.lesion, plain.lesion)


def test_a_fourth_dimension_of_one_is_none_and_a_longer_one_is_refused(plain: Slices, tmp_path: Path) -> None:
    case = save_case(tmp_path)
    affine, shape = affine_of()
    signal, _ = head(affine, shape)
    nibabel.save(nibabel.Nifti1Image(signal[..., None], affine), case / f"{CASE}_flair.nii.gz")
    np.testing.assert_array_equal(read(tmp_path).images, plain.images)
    nibabel.save(nibabel.Nifti1Image(np.stack([signal] * 2, -1), affine), case / f"{CASE}_flair.nii.gz")
    with pytest.raises(DataError, match=r"_flair\.nii\.gz: has shape .* expected three dimensions"):
        read(tmp_path)


def test_nan_around_the_brain_is_background(plain: Slices, tmp_path: Path) -> None:
    case = save_case(tmp_path)
    affine, shape = affine_of()
    signal, _ = head(affine, shape)
    replace(case, "flair", np.where(signal > 0, signal, np.nan).astype(np.float32))
    np.testing.assert_array_equal(read(tmp_path).images, plain.images)


def test_a_slice_of_zeros_is_left_out(plain: Slices, tmp_path: Path) -> None:
    case = save_case(tmp_path)
    affine, shape = affine_of()
    signal, _ = head(affine, shape)
    signal[:, :, 17:20] = 0
    replace(case, "flair", signal)
    found, whole = read(tmp_path, slices=None), read(tmp_path, slices=None, modalities=["t1"])
    gone = np.flatnonzero(~np.isin(whole.position, found.position))
    assert len(gone) == len(whole) - len(found) == 3
    assert np.ptp(gone) == 2
    assert not np.isnan(found.images).any()


def test_a_patient_without_a_tumour_has_normal_slices_alone(tmp_path: Path) -> None:
    save_case(tmp_path, tumour=False)
    save_case(tmp_path, "BraTS20_Training_002")
    found = read(tmp_path)
    assert not found.of([CASE]).abnormal.any()
    assert found.of(["BraTS20_Training_002"]).abnormal.any()


def test_slices_with_labels_that_do_not_count_are_left_out_and_not_called_healthy(
    plain: Slices, tmp_path: Path
) -> None:
    save_case(tmp_path)
    without = read(tmp_path, labels=[1, 2])
    assert not without.abnormal.any()
    np.testing.assert_array_equal(without.position, plain.position[~plain.abnormal])
    np.testing.assert_array_equal(read(tmp_path, labels=[4]).lesion, plain.lesion)


def test_modalities_stand_in_the_order_that_is_asked_for(plain: Slices, tmp_path: Path) -> None:
    save_case(tmp_path)
    found = read(tmp_path, modalities=["t1", "flair"])
    assert found.modalities == ("t1", "flair")
    np.testing.assert_array_equal(found.images[:, 1], plain.images[:, 0])


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
        ("BraTS-MEN-RT-0000-1", "BraTS-MEN-RT-0000"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("Brats18_2013_2_1", "Brats18_2013_2_1"),
    ],
)
def test_the_number_of_a_visit_is_no_part_of_a_patient(case: str, patient: str) -> None:
    assert brats.patient_of(case) == patient


def test_names_of_2023_are_read_and_visits_of_one_patient_stay_together(tmp_path: Path) -> None:
    names = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"}
    for visit in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"):
        save_case(tmp_path / "training", visit, names=names)
    found = read(tmp_path, modalities=["flair", "t1", "t1ce", "t2"])
    assert found.patients == ["BraTS-GLI-00005", "BraTS-GLI-00006"]
    assert len(found.of(["BraTS-GLI-00005"])) == 2 * len(found.of(["BraTS-GLI-00006"]))


def test_the_one_segmentation_of_2020_with_a_name_of_its_own_is_found(plain: Slices, tmp_path: Path) -> None:
    case = save_case(tmp_path)
    (case / f"{CASE}_seg.nii.gz").rename(case / "W39_1998.09.19_Segm.nii.gz")
    np.testing.assert_array_equal(read(tmp_path).lesion, plain.lesion)


def test_files_that_are_missing_or_there_twice_are_named(tmp_path: Path) -> None:
    case = save_case(tmp_path)
    with pytest.raises(
        DataError, match=rf"{CASE}: has flair, seg, t1 but no t2; expected CASE_t2\.nii\.gz or CASE-t2w"
    ):
        read(tmp_path, modalities=["flair", "t2"])
    (case / f"{CASE}_seg.nii.gz").rename(case / "seg.txt")
    with pytest.raises(DataError, match=r"but no seg; .*a healthy patient has one of zeros"):
        read(tmp_path)
    (case / "copy_flair.nii").write_bytes(b"")
    with pytest.raises(DataError, match=r"has 2 files of flair, .* and .*; keep one"):
        read(tmp_path)
    with pytest.raises(DataError, match="holds no files of BraTS; expected a folder per patient"):
        read(Path(__file__).parent)
    with pytest.raises(DataError, match="nowhere: does not exist; let path name the folder of the data set"):
        read(tmp_path / "nowhere")


def damaged(case: Path, what: str) -> str:
    """Damage the files of a case in one way; return the file that is then to be named."""
    affine, shape = affine_of()
    signal, lesion = head(affine, shape)
    flair = case / f"{CASE}_flair.nii.gz"
    if what == "other shape":
        replace(case, "seg", lesion[:-2])
        return "_seg"
    if what == "elsewhere":
        moved = affine.copy()
        moved[0, 3] += 24
        replace(case, "seg", lesion, moved)
        return "_seg"
    if what == "no labels":
        replace(case, "seg", lesion * np.float32(0.37))
        return "_seg"
    if what == "infinite":
        signal[20, 20, 20] = np.inf
        replace(case, "flair", signal)
    elif what == "skull":
        replace(case, "flair", signal + 5)
    elif what == "zeros":
        replace(case, "flair", signal * 0)
    elif what == "cut off":
        flair.write_bytes(flair.read_bytes()[:2000])
    elif what == "no image":
        flair.write_bytes(gzip.compress(b"hello" * 100))
    elif what == "no orientation":
        image = nibabel.load(flair)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nibabel.save(nibabel.Nifti1Image(signal, None, image.header), flair)
    elif what == "no size":
        image = nibabel.Nifti1Image(signal, affine)
        flat = affine.copy()
        flat[:3, 2] = 0
        image.header.set_sform(flat, 1)
        image.header.set_qform(None, 0)
        raw = image.header.binaryblock + bytes(4) + signal.tobytes("F")
        flair.write_bytes(gzip.compress(raw))
    elif what == "other format":
        nibabel.save(nibabel.Nifti1Pair(signal, affine), case / "pair.img")
        flair.unlink()
        flair = case / f"{CASE}_flair.nii"
        flair.write_bytes((case / "pair.hdr").read_bytes())
    return "_flair"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("other shape", r"has \(38, 46, 36\) voxels but the first image \(40, 46, 36\); resample it to that grid"),
        ("elsewhere", r"lies up to 6\.0 voxels away from the first image by its affine"),
        ("no labels", r"is no mask, since it holds 0\.37; labels are whole numbers"),
        ("infinite", "holds 1 infinite values; mend it"),
        ("skull", "is not 0 in 100% of its voxels; strip the skull"),
        ("zeros", "is 0 everywhere; get it anew, or leave the patient out"),
        ("cut off", "is not a whole NIfTI file"),
        ("no image", "is not a whole NIfTI file"),
        ("no orientation", "says no orientation .its sform and qform codes are 0"),
        ("no size", "singular affine, which gives its voxels no size|is not a whole NIfTI file"),
        ("other format", r"is Nifti1Pair, no NIfTI; convert it to|is not a whole NIfTI file"),
    ],
)
def test_what_cannot_be_trusted_is_refused_by_name_in_one_line(what: str, said: str, tmp_path: Path) -> None:
    named = damaged(save_case(tmp_path), what)
    with pytest.raises(DataError, match=rf"{CASE}{named}\.nii(\.gz)?: .*({said})") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_brain_larger_than_the_field_is_not_cut_off(tmp_path: Path) -> None:
    save_case(tmp_path)
    with pytest.raises(DataError, match=rf"{CASE}: its brain is 136 mm wide, more than field: 100; give at least that"):
        read(tmp_path, field=100)


def test_a_patient_who_cannot_be_used_is_left_out_where_the_settings_say_so(tmp_path: Path, caplog) -> None:
    damaged(save_case(tmp_path), "zeros")
    save_case(tmp_path, "BraTS20_Training_002")
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, on_bad_patient="skip")
    assert found.patients == ["BraTS20_Training_002"]
    assert "left out: " in caplog.text
    assert f"{CASE}_flair.nii.gz: is 0 everywhere" in caplog.text
    damaged(tmp_path / CASE, "skull")
    (tmp_path / "BraTS20_Training_002" / "BraTS20_Training_002_seg.nii.gz").unlink()
    with pytest.raises(DataError, match="none of its 2 patients can be used; the log says why"):
        read(tmp_path, on_bad_patient="skip")


def test_nibabel_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"NIfTI files are read with the package nibabel; .*'diffmech\[mri\]'"):
        read(tmp_path)
