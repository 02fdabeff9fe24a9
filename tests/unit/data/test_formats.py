"""Which files of a folder are images: all that Pillow reads, and no other is passed over without a word."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from diffmech.config.images import CelebA, ImageFolder, ImagesConfig
from diffmech.data.folder import ImageFolderSource
from diffmech.data.formats import COMPANIONS, OPTIONAL, SUFFIXES, UNREAD, suffix_of
from diffmech.data.listing import list_images
from diffmech.data.preparation import decode_image, read_image
from diffmech.errors import DataError

NOISE = np.random.default_rng(0).integers(40, 216, (20, 20, 3), dtype=np.uint8)
GREY = Image.fromarray(NOISE[:, :, 0])
COLOUR = Image.fromarray(NOISE)
# How a file of each suffix is written, where the suffix alone does not say it.
FORMATS = {".jfif": "JPEG", ".jif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".pnm": "PPM", ".ras": None, ".pfm": "PPM"}
LOSSLESS = (".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".tga", ".pcx", ".sgi", ".qoi")
HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64)


def write(path):
    """Write noise in the format of the suffix of `path`; return whether Pillow can write it."""
    suffix = suffix_of(path.name)
    if suffix == ".npy":
        with path.open("wb") as stream:
            np.save(stream, NOISE)
    elif suffix == ".pfm":
        Image.fromarray(NOISE[:, :, 0].astype(np.float32) / 255).save(path, format="PPM")
    elif suffix in (".pgm", ".gif"):
        GREY.save(path)
    elif suffix in (".pbm", ".xbm"):
        GREY.convert("1").save(path)
    elif suffix == ".xpm":
        path.write_text('/* XPM */\nstatic char *x[] = {\n"2 2 2 1",\n"a c #000",\n"b c #FFF",\n"ab",\n"ba"\n};\n')
    elif suffix == ".ras":
        path.write_bytes(struct.pack(">8I", 0x59A66A95, 20, 20, 8, 400, 1, 0, 0) + NOISE[:, :, 0].tobytes())
    else:
        COLOUR.save(path, format=FORMATS.get(suffix))


def folder_of(path, **fields):
    return ImageFolder(kind="image_folder", path=str(path), **fields)


def names_of(folder, **fields):
    return sorted(ImageFolderSource(folder_of(folder, **fields), ImagesConfig())._files)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_is_called_an_image_is_read(suffix, tmp_path):
    if suffix in OPTIONAL and not features.check(OPTIONAL[suffix]):
        pytest.skip(f"Pillow was built without {suffix}")
    write(tmp_path / f"one{suffix.upper()}")
    write(tmp_path / f"two{suffix}")
    assert list_images(tmp_path).images == (f"one{suffix.upper()}", f"two{suffix}")
    pixels = read_image(tmp_path / f"two{suffix}")
    if suffix in LOSSLESS:
        expected = NOISE[:, :, :1] if suffix == ".pgm" else NOISE
        np.testing.assert_array_equal(pixels, expected)


def test_many_pgm_beside_a_few_jpg_are_all_read(tmp_path, prepare):
    for index in range(40):
        GREY.rotate(index).save(tmp_path / f"{index:02d}.pgm")
    for index in range(5):
        COLOUR.save(tmp_path / f"{index}.jpg")
    assert len(prepare(folder_of(tmp_path))) == 45


@pytest.mark.parametrize("depth", [4095, 65535])
def test_deep_pgm_spans_the_range_of_its_own_depth(depth, tmp_path):
    values = np.array([[0, depth], [depth // 2, depth]], dtype=">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5\n2 2\n%d\n" % depth + values.tobytes())
    pixels = read_image(tmp_path / "deep.pgm")[:, :, 0]
    np.testing.assert_allclose(pixels, [[0, 1], [0.5, 1]], atol=2 / depth)


def photo(path, turned: bool = False):
    """Write a picture of a phone: the one that was taken, and a small preview behind it."""
    options = {}
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        options["exif"] = exif
    COLOUR.save(path, format="MPO", save_all=True, append_images=[COLOUR.resize((8, 8))], quality=95, **options)
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.JPG", "photo.mpo"])
def test_of_the_pictures_of_a_phone_the_primary_one_is_taken(name, tmp_path):
    photo(tmp_path / name)
    COLOUR.save(tmp_path / "plain.jpg", quality=95)
    np.testing.assert_array_equal(read_image(tmp_path / name), read_image(tmp_path / "plain.jpg"))
    photo(tmp_path / name, turned=True)
    upright = read_image(tmp_path / "plain.jpg")[::-1, ::-1].astype(int)
    assert np.abs(read_image(tmp_path / name).astype(int) - upright).max() <= 2


def test_pictures_of_phones_come_out_of_memory_too(tmp_path):
    photo(tmp_path / "photo.jpg")
    content = io.BytesIO((tmp_path / "photo.jpg").read_bytes())
    np.testing.assert_array_equal(decode_image(content), read_image(tmp_path / "photo.jpg"))


def pages(path, *kinds: int):
    """Write a TIFF with a page of each kind: 0 whole, 1 a smaller version, 4 a mask. Whole pages are not shrunk."""
    images = []
    for kind in kinds:
        image = COLOUR if kind == 0 else COLOUR.resize((5, 5))
        image = image.copy()
        image.encoderinfo = {"tiffinfo": TiffImagePlugin.ImageFileDirectory_v2()}
        image.encoderinfo["tiffinfo"][254] = kind
        images.append(image)
    images[0].save(path, save_all=True, append_images=images[1:], tiffinfo=images[0].encoderinfo["tiffinfo"])


def test_a_tiff_with_smaller_versions_of_its_page_gives_the_page(tmp_path):
    pages(tmp_path / "scan.tif", 0, 1, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "scan.tif"), NOISE)
    pages(tmp_path / "scan.tif", 1, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "scan.tif"), NOISE)
    pages(tmp_path / "scan.tif", 0, 0)
    with pytest.raises(DataError, match="holds 2 frames"):
        read_image(tmp_path / "scan.tif")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
def test_one_frame_is_an_image_and_several_are_refused_by_name(suffix, tmp_path, prepare):
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "a.png")
    GREY.save(folder / f"one{suffix}", format=FORMATS.get(suffix))
    assert len(prepare(folder_of(folder))) == 2
    others = [GREY.rotate(90), GREY.rotate(180)]
    GREY.save(folder / f"film{suffix}", format=FORMATS.get(suffix), save_all=True, append_images=others)
    with pytest.raises(DataError, match=rf"film\{suffix}: holds 3 frames; save one image per file"):
        prepare(folder_of(folder))
    skipped = prepare(folder_of(folder, on_bad_file="skip")).attrs["skipped"]
    assert [entry["file"] for entry in skipped] == [f"film{suffix}"]


@pytest.mark.parametrize("suffix", [".heic", ".HEIC", ".cr2", ".nef", ".dng", ".svg", ".psd", ".dcm", ".exr", ".npz"])
def test_images_that_are_not_read_are_counted_and_named(suffix, tmp_path, prepare, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        write(folder / f"{index}.png")
    for index in range(7):
        (folder / f"shot{index}{suffix}").write_bytes(HEIC)
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(DataError) as error:
        prepare(folder_of(folder))
    message = str(error.value)
    assert "\n" not in message
    for part in (f"shot0{suffix}", f"{suffix.lower()} ", "not read", "6 more such files", "PNG", "on_bad_file: skip"):
        assert part in message
    images = prepare(folder_of(folder, on_bad_file="skip"))
    assert len(images) == 3
    assert [entry["file"] for entry in images.attrs["skipped"]] == [f"shot{index}{suffix}" for index in range(7)]
    assert "3 images, 7 left out, for example shot0" in caplog.text


def test_a_suffix_that_this_pillow_lacks_is_named(tmp_path, monkeypatch):
    from diffmech.data import formats

    monkeypatch.setattr(formats, "readable", lambda: frozenset(SUFFIXES) - {".avif"})
    monkeypatch.setattr("diffmech.data.listing.readable", formats.readable)
    write(tmp_path / "a.png")
    (tmp_path / "b.avif").write_bytes(b"")
    listing = list_images(tmp_path)
    assert listing.images == ("a.png",)
    assert "Pillow that is installed, which lacks .avif" in listing.unread["b.avif"]


@pytest.mark.parametrize("name", ["IMG_0001", "photo.jpg_large", "photo.jpg~", "1.bak", "3.tmp"])
def test_an_image_whose_name_does_not_say_so_is_named(name, tmp_path):
    write(tmp_path / "a.png")
    COLOUR.save(tmp_path / name, format="JPEG")
    (tmp_path / "LICENSE").write_text("do what you like")
    listing = list_images(tmp_path)
    assert set(listing.unread) == {name}
    assert "is a JPEG by its content" in listing.unread[name]


def test_a_folder_of_other_things_tells_what_it_holds(tmp_path):
    for index in range(4):
        (tmp_path / f"{index}.heic").write_bytes(HEIC)
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError) as error:
        list_images(tmp_path)
    assert "holds no images that are read, but 4 .heic, 1 .zip" in str(error.value)


def test_files_of_unknown_kinds_are_a_note_and_usual_company_is_none(tmp_path, prepare, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "a.png")
    write(folder / "b.png")
    for suffix in (".txt", ".csv", ".json"):
        (folder / f"notes{suffix}").write_text("x")
    prepare(folder_of(folder))
    assert caplog.text == ""
    for index in range(12):
        (folder / f"{index}.lbm").write_bytes(b"FORM")
    prepare(folder_of(folder))
    assert "2 images; passed over, as no images by name and content: 12 .lbm" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEIC, "a HEIC picture by its content"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04rest", "an archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x00\x01\x02\x03 whatever", "of no kind of image"),
    ],
)
def test_a_file_that_only_has_the_name_of_an_image_is_called_what_it_is(content, words, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    for file in (tmp_path / "a.jpg", io.BytesIO(content)):
        with pytest.raises(DataError, match="cannot be decoded") as error:
            decode_image(file)
        assert words in str(error.value)


def test_the_lists_of_suffixes_do_not_overlap():
    everything = [*SUFFIXES, *UNREAD, *COMPANIONS]
    assert len(set(everything)) == len(everything)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in everything)


def test_masks_that_are_not_read_are_named_and_gif_masks_are_read(tmp_path, prepare):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    (masks / "eyes").mkdir(parents=True)
    for index in range(3):
        COLOUR.rotate(index).save(images / f"{index}.tif")
        GREY.save(masks / "eyes" / f"{index}.gif")
    assert prepare(folder_of(images, masks=str(masks))).parts == ("eyes",)
    (masks / "eyes" / "1.gif").rename(masks / "eyes" / "1.xcf")
    with pytest.raises(DataError, match=r"1\.tif: its mask .*1\.xcf is one of the \.xcf images in layers that are not"):
        prepare(folder_of(images, masks=str(masks)))


def test_images_of_celeba_that_are_not_read_are_named(tmp_path, prepare):
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    for index in range(3):
        COLOUR.save(folder / f"{index}.jpg")
    (tmp_path / "list_attr_celeba.txt").write_text("3\nSmiling\n0.jpg 1\n1.jpg -1\n2.jpg 1\n")
    (folder / "3.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"3\.heic: is one of the \.heic"):
        prepare(CelebA(kind="celeba", path=str(tmp_path)))


def test_arrays_with_channels_first_are_told_so(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 40, 30), np.uint8))
    with pytest.raises(DataError, match=r"\(3, 40, 30\).*moveaxis\(array, 0, -1\)"):
        read_image(tmp_path / "a.npy")
