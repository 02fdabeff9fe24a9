"""What the tests of captures share: sizes and tolerances, and data sets of random images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import Architecture

SHAPE = (1, 16, 16)
ARCHITECTURE = Architecture(channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, token_width=16)
ATTRIBUTES = ["glasses", "smile"]
# Maps from float16 queries and keys: a score of up to 4 is off by 4 x 2^-11, and so is its probability, relatively.
MAP_ERROR = 2e-3
# The entropy of maps in float16: each of some 64 keys adds an error of its own.
ENTROPY_ERROR = 5e-3
RUNTIME = RuntimeConfig(progress=False, batch_size=4, device="cpu")

Capture = Callable[..., Path]


def write_dataset(path: Path, count: int, *, shape: tuple[int, ...] = SHAPE, attributes: tuple[str, ...] = ()) -> Path:
    """Write a data set store of random images; the first images of two sets of other sizes are the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, *shape), dtype=np.uint8)[:count]
    values = rng.random((50, len(attributes)), dtype=np.float32)[:count]
    dataset = xr.Dataset(
        {
            "image": (("sample", "channel", "y", "x"), images),
            "attribute_value": (("sample", "attribute"), values),
            "mask": (("sample", "part", "y", "x"), np.zeros((count, 0, *shape[1:]), np.uint8)),
        },
        coords={
            "sample": np.arange(count),
            "attribute": np.asarray(attributes, np.dtypes.StringDType()),
            "part": np.asarray([], np.dtypes.StringDType()),
            "file": ("sample", np.asarray([f"{i}.png" for i in range(count)], np.dtypes.StringDType())),
        },
        attrs={"gain": 1.0, "offset": 0.0},
    )
    write_store(path, dataset)
    return path
