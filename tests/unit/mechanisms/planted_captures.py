"""Captures whose attention is written down by hand, so that every statistic of it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import write_store

SITE, CROSS = "down1.0.self", "down1.0.cross"
TOKENS = ("domain", "glasses", "hat")


@dataclass(frozen=True)
class PlantedSite:
    """Attention probabilities ([twin,] sample, timestep, head, query, key) of one site, and the head outputs."""

    p: np.ndarray
    kind: str
    output: np.ndarray | None = None


def softmax(scores: np.ndarray) -> np.ndarray:
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def statistics(p: np.ndarray, kind: str) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return what capture stores, from the literal definitions."""
    queries, keys = p.shape[-2:]

    def entropy_of(q: np.ndarray) -> np.ndarray:
        return -(q * np.log(np.maximum(q, 1e-300))).sum(axis=-1)

    share = p.mean(axis=-2)
    entropy = entropy_of(p).mean(axis=-1)
    found = {
        "entropy": (("head",), entropy.astype(np.float32)),
        "position_information": (("head",), (entropy_of(share) - entropy).astype(np.float32)),
        "received": (("head", "key"), (share * keys).astype(np.float16)),
    }
    if kind == "self":
        side = int(np.sqrt(queries))
        y, x = np.divmod(np.arange(queries), side)
        square = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
        near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= 1
        mirror = (y[:, None] == y) & (x[:, None] == side - 1 - x)
        masses = {"self_mass": np.eye(queries), "neighbourhood_mass": near, "mirror_mass": mirror}
        for name, mask in masses.items():
            found[name] = (("head",), (p * mask).sum(axis=-1).mean(axis=-1).astype(np.float32))
        distance = np.sqrt((p * square).sum(axis=-1).mean(axis=-1)) / side
        found["distance"] = (("head",), distance.astype(np.float32))
    return found


def write_capture(
    path: Path,
    sites: Mapping[str, PlantedSite],
    *,
    timesteps: Sequence[int],
    samples: Sequence[int] | None = None,
    domain: str = "real",
    twins: bool = False,
) -> Path:
    """Write a capture, or with `twins` the untrained twins, as an attention store."""
    lead = ("twin", "sample", "timestep") if twins else ("sample", "timestep")
    any_p = next(iter(sites.values())).p
    n = any_p.shape[1 if twins else 0]
    root = xr.Dataset(
        {"loss": (lead, np.ones(any_p.shape[: len(lead)], np.float32))},
        coords={
            "sample": np.arange(n) if samples is None else np.asarray(samples),
            "timestep": np.asarray(timesteps),
            **({"twin": np.arange(len(any_p))} if twins else {}),
        },
        attrs={"domain": domain, "sites": list(sites)},
    )
    nodes = {"/": root}
    for name, site in sites.items():
        heads, queries, keys = site.p.shape[-3:]
        variables = {key: ((*lead, *dims), values) for key, (dims, values) in statistics(site.p, site.kind).items()}
        if site.output is not None:
            variables["output_mean"] = ((*lead, "head", "channel"), site.output.astype(np.float32))
        coords = {"head": [f"{name}.h{index:02d}" for index in range(heads)]}
        if site.kind != "self":
            coords["token"] = ("key", list(TOKENS[:keys]))
        side = int(np.sqrt(queries))
        attrs = {"kind": site.kind, "n_keys": keys, "h_max": float(np.log(keys)), "grid": [side, side]}
        nodes[f"/{name}"] = xr.Dataset(variables, coords=coords, attrs=attrs)
    write_store(path, xr.DataTree.from_dict(nodes))
    return path


def write_latents(path: Path, images: np.ndarray, samples: Sequence[int] | None = None) -> Path:
    """Write the clean images (sample, channel, y, x) as a latents store."""
    ids = np.arange(len(images)) if samples is None else np.asarray(samples)
    write_store(
        path, xr.Dataset({"x_0": (("sample", "channel", "y", "x"), images.astype(np.float32))}, coords={"sample": ids})
    )
    return path


def write_masks(path: Path, masks: np.ndarray | None, parts: Sequence[str], shape: tuple[int, ...]) -> Path:
    """Write a data set store with part masks (sample, part, y, x) in [0, 1], or without any."""
    n, side = shape[0], shape[-1]
    masks = np.zeros((n, 0, side, side)) if masks is None else masks
    write_store(
        path,
        xr.Dataset(
            {
                "image": (("sample", "channel", "y", "x"), np.zeros((n, 1, side, side), np.uint8)),
                "mask": (("sample", "part", "y", "x"), np.round(255 * masks).astype(np.uint8)),
            },
            coords={"sample": np.arange(n), "part": np.asarray(list(parts), dtype=str)},
        ),
    )
    return path
