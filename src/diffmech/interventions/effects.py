"""How much each ablation hurts: per target, method, domain and timestep, with intervals, two nulls and corrections.

effect_percent = 100 (mean mse_ablated / mean mse_clean - 1): by how much the denoising loss rises. The means are over
samples, and over timesteps too in the rows "all". Intervals are percentile bootstraps over samples, ablated and clean
in step. Two questions are asked of every effect, and they differ:

- is there any? p_zero: two-sided sign-flip permutation test of the mean paired difference mse_ablated - mse_clean
  (Fisher's randomisation test: under the null the differences are symmetric about 0);
- is it more than that of other heads? p_control = (1 + controls with an effect at least as large) / (1 + controls), on
  the samples on which the controls ran. The controls of a layer or a mechanism are its matched random sets, run with
  the first method only; those of a single head are all other heads of its kind of attention. It cannot fall below
  1 / (1 + controls).

Holm's correction is over the targets of one (domain, group, method) in the rows "all", and over targets x timesteps in
the other rows. The definitions are ours (A8).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import open_store, write_csv
from diffmech.config.analysis import AblationConfig
from diffmech.errors import StoreError
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation

COLUMNS = [
    "domain",
    "group",
    "target",
    "method",
    "timestep",
    "effect_percent",
    "low",
    "high",
    "p_zero",
    "p_zero_holm",
    "shift",
    "shift_low",
    "shift_high",
    "control_mean",
    "control_low",
    "control_high",
    "control_percentile",
    "p_control",
    "p_control_holm",
    "off_distribution",
    "heads",
    "n",
]


def ablation_effects(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]],
    output_csv: Path | str,
    *,
    ablation: AblationConfig,
    seed: int,
) -> None:
    """Write the table of effects from the ablation stores of each domain and group (all shards).

    Rows are sorted by domain, group, target, method and timestep, "all" first. Raises StoreError where a store is
    missing or where shards disagree on what was ablated.
    """
    tables = [
        effects_of_group(open_shards(paths), domain, group, ablation=ablation, seed=seed)
        for domain, groups in sorted(stores.items())
        for group, paths in sorted(groups.items())
    ]
    write_csv(output_csv, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS))


def open_shards(paths: Sequence[Path | str]) -> xr.Dataset:
    """Return the shards of one domain and group as one dataset, in memory, sorted by sample.

    Raises StoreError where there are none, where they hold no sample, or where they disagree on what was ablated.
    """
    shards = [open_store(path).to_dataset().load() for path in paths]
    if not shards:
        raise StoreError("no ablation store is given; at least one is needed")
    for path, shard in zip(paths, shards, strict=True):
        for name in ("target", "method", "timestep"):
            if not np.array_equal(shard[name].values, shards[0][name].values):
                raise StoreError(f"{path}: its {name}s differ from those of {paths[0]}; make both anew")
    shards = [shard for shard in shards if shard.sizes["sample"]]
    if not shards:
        raise StoreError(f"{paths[0]}: holds no sample; ablate at least one")
    varying = [name for name in shards[0].data_vars if "sample" in shards[0][name].dims]
    joined = xr.concat([shard[varying] for shard in shards], dim="sample").sortby("sample")
    # Not assigned to the first shard: that would keep the first shard's samples only.
    return joined.assign(shards[0].drop_dims("sample").data_vars)


def effects_of_group(data: xr.Dataset, domain: str, group: str, *, ablation: AblationConfig, seed: int) -> pd.DataFrame:
    """Return the rows of one domain and group. `data` is as `ablate_heads` writes it, all shards together."""
    is_target = _text(data["control_of"]) == ""
    own, controls = data.isel(target=is_target), data.isel(target=~is_target)
    clean = _with_all(data["mse_clean"].values)  # (sample, column)
    ablated = _samples_first(own["mse_ablated"])  # (sample, target, method, column)
    draws, confidence = ablation.draws, ablation.confidence
    effect = bootstrap_statistic(
        _percent, ablated, clean[:, None, None, :], draws=draws, confidence=confidence, seed=seed
    )
    shift = bootstrap_mean(_samples_first(own["shift"]), draws=draws, confidence=confidence, seed=seed)
    observed, null = sign_flip_permutation(
        np.abs, ablated - clean[:, None, None, :], permutations=ablation.permutations, seed=seed
    )
    p_zero = np.asarray(permutation_p(observed, null))
    compared = _against_heads(data, effect.estimate) if group == "heads" else _against_sets(own, controls, clean)
    spread = _control_summary(*compared, confidence=confidence)
    arrays = {
        "effect_percent": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p_zero": p_zero,
        "p_zero_holm": _corrected(p_zero),
        "shift": shift.estimate,
        "shift_low": shift.low,
        "shift_high": shift.high,
        **spread,
        "p_control_holm": _corrected(spread["p_control"]),
        "off_distribution": _off_distribution(own),
    }
    labels = pd.MultiIndex.from_product(
        [_text(own["target"]), _text(own["method"]), [-1, *own["timestep"].values]],
        names=["target", "method", "timestep"],
    )
    table = pd.DataFrame({name: np.asarray(array).reshape(-1) for name, array in arrays.items()}, index=labels)
    table = table.reset_index().assign(domain=domain, group=group, n=len(clean))
    table["heads"] = np.repeat(own["heads"].values, len(table) // len(own["heads"]))
    table = table.sort_values(["target", "method", "timestep"], kind="stable", ignore_index=True)
    table["timestep"] = table["timestep"].map(lambda timestep: "all" if timestep < 0 else str(timestep))
    return table[COLUMNS]


def _text(array: xr.DataArray) -> np.ndarray:
    # NumPy's variable-length strings know no cast to its other ones.
    return np.array(array.values.tolist(), dtype=str)


def _with_all(values: np.ndarray) -> np.ndarray:
    """Return `values` (..., timestep) with their mean over timesteps put before them, (..., 1 + timestep)."""
    return np.concatenate([values.mean(axis=-1, keepdims=True), values], axis=-1)


def _samples_first(array: xr.DataArray) -> np.ndarray:
    """Return (sample, target, method, 1 + timestep)."""
    return _with_all(array.transpose("sample", "target", "method", "timestep").values.astype(np.float64))


def _percent(ablated: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 100 * (ablated / clean - 1)


def _against_heads(data: xr.Dataset, effect: np.ndarray | float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the effects (target, method, column) and for each target those of the other heads of its kind."""
    effects, kinds = np.asarray(effect), _text(data["kind"])
    others = [(kinds == kind) & (np.arange(len(kinds)) != row) for row, kind in enumerate(kinds)]
    return effects, [effects[chosen] for chosen in others]


def _against_sets(own: xr.Dataset, controls: xr.Dataset, clean: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the effects (target, method, column) on the controls' samples, and for each target its controls' effects.

    Methods for which no control was run have NaN.
    """
    control = _samples_first(controls["mse_ablated"])
    ran = np.isfinite(control).any(axis=(1, 2, 3))
    if not ran.any():
        nothing = np.full((own.sizes["target"], own.sizes["method"], clean.shape[1]), np.nan)
        return nothing, [nothing[:0] for _ in nothing]
    base = clean[ran].mean(axis=0)
    effects = _percent(_samples_first(own["mse_ablated"])[ran].mean(axis=0), base)
    of_controls = _percent(control[ran].mean(axis=0), base)
    names = _text(controls["control_of"])
    return effects, [of_controls[names == name] for name in _text(own["target"])]


def _control_summary(effects: np.ndarray, controls: list[np.ndarray], *, confidence: float) -> dict[str, np.ndarray]:
    """Return mean, central range, percentile and p of each target among its controls, each (target, method, column).

    The range holds `confidence` of the controls. Ties count half in the percentile, and fully in p.
    """
    names = ("control_mean", "control_low", "control_high", "control_percentile", "p_control")
    result = {name: np.full(effects.shape, np.nan) for name in names}
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for row, null in enumerate(controls):
        for method in range(effects.shape[1]):
            draws, value = null[:, method], effects[row, method]
            if not len(draws) or not np.isfinite(draws).all():
                continue
            result["control_mean"][row, method] = draws.mean(axis=0)
            result["control_low"][row, method], result["control_high"][row, method] = np.quantile(draws, tails, axis=0)
            below = (draws < value).mean(axis=0) + 0.5 * (draws == value).mean(axis=0)
            result["control_percentile"][row, method] = 100 * below
            result["p_control"][row, method] = permutation_p(value, draws)
    return result


def _corrected(p: np.ndarray) -> np.ndarray:
    """Return Holm's p-values of p (target, method, column): over targets in column 0, over all the rest together."""
    adjusted = np.empty_like(p)
    for method in range(p.shape[1]):
        adjusted[:, method, 0] = holm(p[:, method, 0])
        adjusted[:, method, 1:] = holm(p[:, method, 1:])
    return adjusted


def _off_distribution(own: xr.Dataset) -> np.ndarray:
    """Return the mean distance off (target, method, 1 + timestep); "all" is over the timesteps with a head replaced."""
    distance = own["distance_off"].mean("sample").transpose("target", "method", "timestep").values
    replaced = _text(own["members"].transpose("target", "timestep")) != ""
    total = (distance * replaced[:, None]).sum(axis=-1, keepdims=True)
    average = total / np.maximum(replaced.sum(axis=-1), 1)[:, None, None]
    return np.concatenate([average, distance], axis=-1)
