"""How maps and factors are compressed: chosen by what it saves on the first of them. Ours.

Measured on the bundled denoiser by benchmarks/compression.py (one core; bytes stored over bytes, MB/s write, read):

                    maps, 256 keys         factors, d = 8
    none            1.00  2660  11500      1.00   910   2580
    lz4 bitshuffle  0.81   815   2250      0.93   570   1230
    zstd 1          0.87   547    822      0.92   454    788

zstd 3 and 9 are as small as zstd 1, plain lz4 saves nothing, byte shuffling before zstd is slower and as small. From
the fastest on, a slower codec is taken if it saves another quarter, as zstd does on peaked maps; for the fifth that
lz4 saves here, writing would take three times as long and reading five times. Times are not measured anew, so that
equal inputs give equal bytes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.codecs import BloscCodec, ZstdCodec

# Fastest first.
CODECS: dict[str, Any] = {
    "none": None,
    "lz4 bitshuffle": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2),
    "zstd 1": ZstdCodec(level=1),
}
WORTH = 0.75

# Statistics, which are small.
COMPRESSOR = CODECS["zstd 1"]


def choose_codec(values: Shaped[np.ndarray, "..."]) -> tuple[str, float]:
    """Return the name of the codec for what is like `values`, and how many times smaller it makes them."""
    chosen, least = "none", values.nbytes
    for codec in list(CODECS)[1:]:
        size = encoded_bytes(values, codec)
        if size < WORTH * least:
            chosen, least = codec, size
    return chosen, values.nbytes / max(1, least)


def choose_codecs(samples: Mapping[str, Shaped[np.ndarray, "..."]]) -> dict[str, dict[str, Any]]:
    """Return the choice for each kind of array, as stores record it: `{"maps": {"codec": ..., "ratio": ...}}`."""
    choices = {kind: choose_codec(values) for kind, values in samples.items()}
    return {kind: {"codec": codec, "ratio": round(ratio, 3)} for kind, (codec, ratio) in choices.items()}


def encoded_bytes(values: Shaped[np.ndarray, "..."], codec: str) -> int:
    """Return the length of `values` as one stored chunk."""
    store: dict[str, Any] = {}
    array = zarr.create_array(
        store, shape=values.shape, chunks=values.shape, dtype=values.dtype, compressors=CODECS[codec]
    )
    array[:] = values
    return sum(len(content) for name, content in store.items() if not name.endswith("zarr.json"))
