"""Which files are images, by their names and by their first bytes. Ours.

Pillow tells a format by content, so a name only says whether a file is meant to be an image. Names of formats that
nothing here reads are known too: such files are named to the user, never passed over.
"""

from functools import cache

# What Pillow decodes to the picture that other programs show, and arrays of numpy.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif"),
    *(".tif", ".tiff", ".avif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    *(".tga", ".pcx", ".sgi", ".ras", ".qoi", ".ico", ".xbm", ".xpm", ".dds", ".npy"),
)
# Those of them that Pillow reads only where it was built so, and the name under which it tells.
OPTIONAL = {
    **{".avif": "avif", ".webp": "webp"},
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"), "jpg_2000"),
}
_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs", ".avifs", ".avci"), "HEIF pictures"),
    **dict.fromkeys(_RAW, "raw files of cameras"),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ai", ".emf", ".wmf"), "drawings without pixels"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".clip", ".afphoto"), "images in layers"),
    **dict.fromkeys((".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".mhd", ".svs", ".ndpi", ".czi"), "scans"),
    **dict.fromkeys((".exr", ".hdr", ".fits", ".fit", ".fts"), "images of high dynamic range"),
    **dict.fromkeys((".jxl", ".jxr", ".wdp", ".bpg", ".flif", ".djvu", ".icns", ".cur", ".npz"), "files"),
}
# What lies beside images and is none: not opened to see what it is.
COMPANIONS = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html", ".htm", ".ini"),
    *(".toml", ".cfg", ".log", ".db", ".py", ".pyc", ".ipynb", ".sh", ".m", ".mat", ".pt", ".pth", ".pkl", ".parquet"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xlsx", ".xls", ".ods", ".doc", ".docx", ".pdf", ".aae", ".xmp"),
    *(".mov", ".mp4", ".avi", ".mkv", ".wav", ".mp3", ".h5", ".hdf5", ".npmeta", ".lst", ".lock", ".sha256", ".md5"),
)
HEAD = 512  # first bytes that tell what a file is

_STARTS = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    ((b"GIF87a", b"GIF89a"), "a GIF"),
    ((b"II*\x00", b"MM\x00*"), "a TIFF"),
    ((b"\xff\x0a", b"\x00\x00\x00\x0cJXL "), "a JPEG XL picture"),
    ((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"), "a JPEG 2000"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"8BPS", "a Photoshop file"),
    (b"qoif", "a QOI picture"),
    (b"v/1\x01", "an OpenEXR picture"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
}


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case with its dot, '' where it has none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem and "/" not in suffix else ""


@cache
def readable() -> frozenset[str]:
    """Return the suffixes of images that this installation reads."""
    from PIL import features

    return frozenset(suffix for suffix in SUFFIXES if suffix not in OPTIONAL or features.check(OPTIONAL[suffix]))


def unread(suffix: str) -> str | None:
    """Return why files of `suffix` are not read and what to do, None for those that are and for what is no image."""
    kind = UNREAD.get(suffix)
    if kind is not None:
        return f"is one of the {suffix} {kind} that are not read; save it as PNG or JPEG"
    if suffix in OPTIONAL and suffix not in readable():
        return f"is not read by the Pillow that is installed, which lacks {suffix}; save it as PNG or JPEG"
    return None


def image_by_content(head: bytes) -> str | None:
    """Return which kind of image starts with the bytes `head`, with its article, None where they tell of none."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "a BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "a picture of netpbm"
    return "a DICOM scan" if head[128:132] == b"DICM" else None


def other_by_content(head: bytes) -> str | None:
    """Return what a file is that starts with the bytes `head`, where it is often found in the place of an image."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty; get it anew"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page; download the image itself"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file; run: git lfs pull"
    if text.startswith((b"<?xml", b"<svg")):
        return "text (XML or SVG); save it as PNG or JPEG"
    if head.startswith(b"%PDF"):
        return "a PDF; save its pages as PNG or JPEG"
    return "an archive; unpack it" if head.startswith((b"PK\x03\x04", b"\x1f\x8b")) else None
