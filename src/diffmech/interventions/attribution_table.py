"""The table of attribution patching: estimated effects of every head per domain and timestep, with intervals.

An estimate is a change of the denoising loss, as is the exact effect beside it, which comes from the ablation of heads
on the images that were ablated. Intervals are studentised bootstraps over images, or over groups of them where it is
known which belong together; correlations with exact effects are over images.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from diffmech.artifacts import write_json
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.circuit import CircuitConfig
from diffmech.data.groups import GroupTables, groups_of
from diffmech.interventions.agreement import agreement, attribution_patching, changes_of_loss
from diffmech.interventions.measures import DENOISING_LOSS, OUTPUT_SHIFT
from diffmech.interventions.reference import open_reference, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.stores import in_units, open_ablation, with_units
from diffmech.interventions.tables import ATTRIBUTION
from diffmech.models.load import load_denoiser
from diffmech.statistics.bootstrap import bootstrap_mean


def attribution_table(
    latents: Mapping[str, Sequence[Path | str]],
    model_json: Path | str,
    reference: Sequence[Path | str],
    ablations: Mapping[str, Sequence[Path | str]],
    output_csv: Path | str,
    output_json: Path | str,
    *,
    circuit: CircuitConfig,
    method: str,
    samples: int,
    timesteps: Sequence[int],
    seed: int,
    runtime: RuntimeConfig,
    groups: GroupTables | None = None,
) -> None:
    """Write the estimates of every head as a table, and as JSON their correlations with exact ablation.

    `latents` and `ablations` (of the group heads) are stores by domain. Variants are `gradient`, and `integrated` where
    `circuit.steps` asks for it; on a sampling trajectory the gradient is 0 and there is only the latter. Rows are
    sorted by domain, variant, head and timestep. `groups` say which images belong together. Raises StoreError or
    ConfigError, as its parts do.
    """
    denoiser, references = load_denoiser(Path(model_json), device=runtime.device), open_reference(reference)
    tables: list[pd.DataFrame] = []
    found: dict[str, dict[str, Any]] = {}
    for domain, paths in sorted(latents.items()):
        files = open_latent_files(paths)
        exact = changes_of_loss(open_ablation(ablations[domain]), method)
        steps_of = {} if files.on_trajectory and circuit.steps else {"gradient": 0}
        steps_of |= {"integrated": circuit.steps} if circuit.steps else {}
        for variant, steps in steps_of.items():
            effects = attribution_patching(
                denoiser,
                tapped_sites(denoiser, files),
                files,
                references,
                samples=files.samples[:samples],
                timesteps=sorted(files.nearest(timesteps)),
                method=method,
                steps=steps,
                path=circuit.path,
                exact=exact,
                seed=seed,
                runtime=runtime,
            )
            units = groups_of(groups or {}, domain, effects["sample"].values)
            table = _table(
                in_units(with_units(effects, units)), draws=circuit.draws, confidence=circuit.confidence, seed=seed
            )
            measure = OUTPUT_SHIFT if files.on_trajectory else DENOISING_LOSS
            tables.append(ATTRIBUTION.in_order(table.assign(domain=domain, variant=variant, measure=measure)))
            coefficients = agreement(effects["estimate"].values, effects["exact"].values)
            known = {name: None if math.isnan(value) else value for name, value in coefficients.items()}
            found.setdefault(domain, {})[variant] = known | {"steps": steps, "path": circuit.path if steps else None}
    ATTRIBUTION.write(output_csv, pd.concat(tables, ignore_index=True))
    write_json(output_json, {"method": method, "correlation_with_exact_ablation": found})


def _table(effects: xr.Dataset, *, draws: int, confidence: float, seed: int) -> pd.DataFrame:
    """Return one row per head and timestep of `effects`, as `attribution_patching` returns them."""
    estimate = effects["estimate"].transpose("sample", "head", "timestep")
    interval = bootstrap_mean(estimate.values, draws=draws, confidence=confidence, seed=seed)
    exact = effects["exact"].mean("sample").transpose("head", "timestep")
    rows = [(str(head), int(timestep)) for head in effects["head"].values for timestep in effects["timestep"].values]
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "exact": exact.values}
    columns = {name: pd.Series(values.ravel()) for name, values in ends.items()}  # type: ignore[union-attr]
    table = pd.DataFrame(rows, columns=["head", "timestep"]).assign(**columns, n=effects.sizes["sample"])
    return table.sort_values(["head", "timestep"], kind="stable")
