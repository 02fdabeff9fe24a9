"""Which images of a set are used, and in which order: drawn by a seed and each image's own name. Ours."""

import hashlib
import unicodedata
from collections.abc import Iterable


def drawn_order(names: Iterable[str], seed: int) -> list[str]:
    """Return `names` in the order of a hash (SHA-256) of (seed, name): a draw without replacement, to be cut anywhere.

    A name's place among others depends on the two names alone. So the first n are drawn whatever the names sort by
    (persons, dates, quality), and adding or removing one name changes a set of n by at most one. Names that differ only
    in how their characters are composed (Unicode NFC, NFD) count as one name, as some file systems change that.
    """

    def key(name: str) -> tuple[bytes, str]:
        text = unicodedata.normalize("NFC", f"{int(seed)}\x1f{name}")
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest(), name

    return sorted(names, key=key)
