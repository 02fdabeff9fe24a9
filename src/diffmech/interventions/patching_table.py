"""What each head carries of the difference between two inputs, per window and dose, with intervals, nulls, controls.

`effect` is the share of the difference that patching moves: brought into the first pass (denoising, 1 = the head is
sufficient) or taken out of the second (noising, 1 = it is necessary); 0 = nothing. It is a mean over images, after one
over the timesteps of a window; "all" is over all of them. Images whose two passes do not differ at a timestep have no
share there and are left out. Intervals are studentised bootstraps over images, or over groups of them where it is
known which belong together: of the image that is studied, not of another one that it is paired with.

- p_zero: two-sided sign-flip permutation test of effect = 0; p_zero_holm is Holm's correction over targets x windows of
  one (domain, source, direction, dose), over targets for "all"; p_zero_max the one by the maximum statistic instead
  (`windows.sign_flip_max_p`), which few images can pass too; `significant` is at most alpha by it. `smallest`: the
  effect that is found by it with 80 % power.
- p_control: rank among all other targets of the same kind of attention, as in the table of effects. Random weights
  carry a difference as well, and only this tells a head from its like; but one of them is always the largest, so a rank
  by itself is no finding.

Dose-response, over all timesteps: `slope` is the least squares slope through 0, `departure` the mean of effect(d) -
d effect(1) over doses but 0 and 1: above 0 where part of the output brings more than its share, below 0 where it brings
less, as behind a threshold; 0 where the rest of the network is linear. `p_linear_max` is over the targets of one
direction. All definitions are ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import open_store
from diffmech.config.patching import PatchingConfig, Windows
from diffmech.data.groups import GroupTables, groups_of
from diffmech.interventions.controls import against_others, control_summary
from diffmech.interventions.measures import FULL_DOSE
from diffmech.interventions.stores import in_units, texts, with_units
from diffmech.interventions.tables import DOSES, PATCHING
from diffmech.interventions.windows import (
    Window,
    over_windows,
    resolve_windows,
    sign_flip_max_p,
    sign_flip_max_smallest,
    window_name,
)
from diffmech.statistics.bootstrap import bootstrap_mean
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation
from diffmech.tables import ALL

KEYS = ["domain", "source", "group", "target", "direction"]


def patching_effects(
    stores: Mapping[str, Mapping[str, Path | str]],
    phases_csv: Path | str | None,
    output_csv: Path | str,
    doses_csv: Path | str,
    *,
    patching: PatchingConfig,
    windows: Windows,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the tables of effects and of dose-response from the store of each domain and source.

    `phases_csv` is only read for the windows `phases`, `groups` say which images belong together. Rows are sorted by
    the columns up to the window, "all" first.
    Raises StoreError where a store is missing and ConfigError for a window that cannot be.
    """
    effects, responses = [PATCHING.frame()], [DOSES.frame()]
    for domain, sources in sorted(stores.items()):
        for _, path in sorted(sources.items()):
            grid = open_store(path).to_dataset().load()
            grid = with_units(grid, groups_of(groups or {}, domain, grid["sample"].values))
            named = {"domain": domain, "source": str(grid.attrs["source"])}
            schedule = int(grid.attrs["schedule"])
            spans = resolve_windows(windows, grid["timestep"].values.tolist(), schedule, phases_csv)
            for group in dict.fromkeys(texts(grid["group"]).tolist()):
                part = grid.isel(target=texts(grid["group"]) == group)
                effects.append(
                    effects_of_source(part, spans, patching=patching, seed=seed).assign(**named, group=group)
                )
                responses.append(dose_response(part, patching=patching, seed=seed).assign(**named, group=group))
    for path, tables, declared in ((output_csv, effects, PATCHING), (doses_csv, responses, DOSES)):
        filled = [table for table in tables if len(table)]
        table = declared.in_order(pd.concat(filled, ignore_index=True)) if filled else tables[0]
        declared.write(path, table.sort_values(KEYS, kind="stable", ignore_index=True))


def effects_of_source(
    grid: xr.Dataset, windows: Sequence[Window], *, patching: PatchingConfig, seed: int
) -> pd.DataFrame:
    """Return the rows of one group of targets, domain and source; `grid` is what `patch_data_set` writes.

    At doses that were run for some targets only, controls are missing. Without an image whose passes differ the effects
    are missing and n is 0.
    """
    share, differing = _shares(grid)
    spans: list[Window] = [(int(grid["timestep"].min()), int(grid["timestep"].max())), *windows]
    columns = [window_name(span) for span in spans]
    tables = []
    for direction in texts(grid["direction"]):
        for dose in np.sort(grid["dose"].values):
            chosen = share.sel(direction=direction, dose=dose)
            ran = np.isfinite(chosen.values).all(axis=(0, 2))
            if not ran.any():
                continue
            means = over_windows(
                chosen.isel(target=ran).to_dataset(name="share"), spans, timesteps=int(grid.attrs["schedule"])
            )
            values = in_units(means)["share"].transpose("sample", "target", "window").values[:, :, None]
            part = in_units(grid.isel(target=ran, sample=differing))
            off = over_windows(
                part[["off", "difference"]].sel(direction=direction, dose=dose),
                spans,
                timesteps=int(grid.attrs["schedule"]),
            )
            rows = _rows(values, part, complete=bool(ran.all()), patching=patching, seed=seed)
            rows["off"] = off["off"].mean("sample").transpose("target", "window").values.ravel()
            spread = off["difference"].mean("sample").values
            table = pd.DataFrame(rows).assign(
                target=np.repeat(texts(part["target"]), len(spans)),
                kind=np.repeat(texts(part["kind"]), len(spans)),
                heads=np.repeat(part["heads"].values, len(spans)),
                window=np.tile([ALL, *columns[1:]], int(ran.sum())),
                window_first=np.tile([first for first, _ in spans], int(ran.sum())),
                window_last=np.tile([last for _, last in spans], int(ran.sum())),
                difference=np.tile(spread, int(ran.sum())),
                n=len(values),
                significant=rows["p_zero_max"] <= patching.alpha,
                direction=direction,
                dose=dose,
            )
            tables.append(table)
    # Rows of one target stay in the order of windows: "all", then ascending.
    return pd.concat(tables, ignore_index=True).sort_values(["target", "direction", "dose"], kind="stable")


def dose_response(grid: xr.Dataset, *, patching: PatchingConfig, seed: int) -> pd.DataFrame:
    """Return slope, departure from linearity and monotony of the targets for which more doses than 1 were run."""
    share, _ = _shares(grid)
    doses = np.sort(share["dose"].values[share["dose"].values != 0])
    partial = doses != FULL_DOSE
    means = in_units(share.sel(dose=doses).mean("timestep").to_dataset(name="share"))["share"]
    values = means.transpose("sample", "target", "direction", "dose").values
    ran = np.isfinite(values).all(axis=(0, 2, 3))
    if not partial.any() or not ran.any() or not len(values):
        return DOSES.frame()
    values = values[:, ran]
    slope = values @ doses / (doses @ doses)
    departure = (values - values[..., ~partial] * doses)[..., partial].mean(axis=-1)
    draws, confidence = patching.draws, patching.confidence
    slopes, departures = (
        bootstrap_mean(each, draws=draws, confidence=confidence, seed=seed) for each in (slope, departure)
    )
    observed, null = sign_flip_permutation(np.abs, departure, permutations=patching.permutations, seed=seed)
    joint = np.stack(
        [
            sign_flip_max_p(departure[:, :, column], permutations=patching.permutations, seed=seed)
            for column in range(departure.shape[2])
        ],
        axis=1,
    )
    curve = np.sort(np.append(doses, 0.0))
    means = np.insert(values.mean(axis=0), int(np.flatnonzero(curve == 0)[0]), 0.0, axis=-1)
    steps = np.diff(means, axis=-1)
    arrays = {
        "slope": slopes.estimate,
        "slope_low": slopes.low,
        "slope_high": slopes.high,
        "departure": departures.estimate,
        "departure_low": departures.low,
        "departure_high": departures.high,
        "p_linear": np.asarray(permutation_p(observed, null)),
        "p_linear_max": joint,
        "monotone": (steps >= 0).all(axis=-1) | (steps <= 0).all(axis=-1),
    }
    names = pd.MultiIndex.from_product(
        [texts(share["target"])[ran], texts(share["direction"])], names=["target", "direction"]
    )
    table = pd.DataFrame({name: np.asarray(array).ravel() for name, array in arrays.items()}, index=names)
    return table.reset_index().assign(doses=" ".join(f"{dose:g}" for dose in doses), n=len(values))


def moved_share(effect: xr.DataArray) -> xr.DataArray:
    """Return the share of the difference that patching moves: effect (denoising) or 1 - effect (noising).

    `effect` has the dim direction.
    """
    noising = xr.DataArray(texts(effect["direction"]) == "noising", dims="direction")
    return xr.where(noising, 1 - effect, effect).transpose(*effect.dims)


def _shares(grid: xr.Dataset) -> tuple[xr.DataArray, np.ndarray]:
    """Return the shares (sample, target, dose, direction, timestep) of images whose passes differ, and which those are.

    Shares of doses that were not run are NaN.
    """
    differing = (grid["difference"] > 0).all("timestep").values
    share = moved_share(grid["effect"]).isel(sample=differing)
    return share.transpose("sample", "target", "dose", "direction", "timestep"), differing


def _rows(
    values: np.ndarray, part: xr.Dataset, *, complete: bool, patching: PatchingConfig, seed: int
) -> dict[str, np.ndarray]:
    """Return the statistics of shares (sample, target, 1, window), each flat over targets and windows.

    The first window is "all", which is corrected apart. `complete`: all targets of the group are there.
    """
    shape = values.shape[1:]
    names = ("effect", "low", "high", "p_zero", "p_zero_holm", "p_zero_max")
    found = {name: np.full(shape, np.nan) for name in (*names, "smallest", *CONTROLS, "p_control_adjusted")}
    test: dict[str, Any] = {"permutations": patching.permutations, "seed": seed}
    if len(values):
        interval = bootstrap_mean(values, draws=patching.draws, confidence=patching.confidence, seed=seed)
        found |= dict(zip(names, map(np.asarray, (interval.estimate, interval.low, interval.high)), strict=False))
        observed, null = sign_flip_permutation(np.abs, values, permutations=patching.permutations, seed=seed)
        found["p_zero"] = np.asarray(permutation_p(observed, null))
        found["p_zero_holm"] = _corrected(found["p_zero"])
        for column in (slice(0, 1), slice(1, None))[: shape[-1]]:
            family = values[..., column]
            found["p_zero_max"][..., column] = sign_flip_max_p(family, **test)
            found["smallest"][..., column] = sign_flip_max_smallest(family, alpha=patching.alpha, **test)
        if complete:
            compared = against_others(part, interval.estimate)
            found |= control_summary(*compared, confidence=patching.confidence)
            found["p_control_adjusted"] = _corrected(found["p_control"])
    return {name: array.ravel() for name, array in found.items()}


CONTROLS = ("control_mean", "control_low", "control_high", "control_percentile", "p_control")


def _corrected(p: np.ndarray) -> np.ndarray:
    """Return Holm's p-values of p (target, method, column): over targets in column 0, over all the rest together."""
    adjusted = np.empty_like(p)
    for method in range(p.shape[1]):
        adjusted[:, method, 0] = holm(p[:, method, 0])
        adjusted[:, method, 1:] = holm(p[:, method, 1:])
    return adjusted
