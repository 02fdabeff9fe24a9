"""Windows of timesteps, and what an ablation costs within each: when does a head matter?

A window is the timesteps first <= t <= last. The effect in a window is 100 (mean mse_ablated / mean mse_clean - 1) with
means over its passes, so that a timestep counts as much as its share of the window's clean loss, from the same stored
passes as the effects per timestep: nothing is run again. Intervals, nulls, matched controls and verdicts are those of
the table of effects, corrected over targets x windows x domains, which is another family than that of "all".
`significant`: p_zero_max is at or below alpha. The definitions are ours.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import nct

from diffmech.artifacts import read_json
from diffmech.config.analysis import AblationConfig
from diffmech.config.patching import Windows
from diffmech.data.groups import GroupTables
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.decisions import ROUNDING
from diffmech.interventions.effects import Span, effects_of_group, in_order, open_groups
from diffmech.interventions.tables import WINDOW, WINDOWS
from diffmech.mechanisms.tables import PHASES
from diffmech.statistics.permutation import joint_sign_flip_p, sign_flip_permutation
from diffmech.statistics.reach import POWER, rank_threshold, smallest_sign_flip_p

Window = tuple[int, int]


def ablation_windows(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]],
    model_json: Path | str,
    phases_csv: Path | str | None,
    output_csv: Path | str,
    *,
    ablation: AblationConfig,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the table of effects per window from the ablation stores of each domain and group (all shards and blocks).

    `phases_csv` is only read for the windows `phases`, `groups` say which images belong together. Rows are sorted by
    domain, group, target, method and window.
    Raises StoreError where a store or table is missing or they do not belong together, ConfigError for a window that
    lies outside the schedule or holds no pass.
    """
    schedule, opened = schedule_length(model_json), open_groups(stores, groups)
    tables = []
    for group, domains in opened.items():
        passes = next(iter(domains.values()))["timestep"].values.tolist()
        windows = resolve_windows(ablation.windows, passes, schedule, phases_csv)
        heads = opened.get("heads")
        tables.append(windows_of_group(domains, group, windows, ablation=ablation, seed=seed, heads=heads))
    WINDOWS.write(output_csv, in_order(tables, WINDOWS))


def windows_of_group(
    domains: Mapping[str, xr.Dataset],
    group: str,
    windows: Sequence[Window],
    *,
    ablation: AblationConfig,
    seed: int,
    heads: Mapping[str, xr.Dataset] | None = None,
) -> pd.DataFrame:
    """Return the rows of one group in all domains, as `effects_of_group` does; `windows` have passes in them."""
    passes = next(iter(domains.values()))["timestep"].values
    spans = [Span(window_name(window), (window[0] <= passes) & (passes <= window[1])) for window in windows]
    table = effects_of_group(domains, group, ablation=ablation, seed=seed, heads=heads, spans=spans)
    about = {
        span.name: (span.name, *window, int(span.inside.sum())) for span, window in zip(spans, windows, strict=True)
    }
    for position, column in enumerate((*WINDOW, "timesteps")):
        table[column] = [about[name][position] for name in table["timestep"]]
    return WINDOWS.in_order(table.assign(significant=table["p_zero_max"] <= ablation.alpha + ROUNDING))


def resolve_windows(
    windows: Windows, passes: Iterable[int], schedule: int, phases_csv: Path | str | None = None
) -> list[Window]:
    """Return the windows meant by `windows`, ascending, of a `schedule` of so many timesteps.

    Phases and thirds that hold none of the timesteps `passes` are left out. Raises ConfigError for a window named by
    its ends that holds none or lies outside the schedule, and StoreError where phases are asked for and cannot be read.
    """
    passes = sorted(passes)
    if windows == "phases":
        found = phase_ends(phases_csv)
    elif windows == "thirds":
        edges = [round(part * schedule / 3) for part in range(4)]
        found = [(first, following - 1) for first, following in itertools.pairwise(edges)]
    else:
        for window in windows:
            check_window(window, schedule, passes)
        return sorted(windows)
    return [(first, last) for first, last in found if any(first <= timestep <= last for timestep in passes)]


def check_window(window: Window, timesteps: int, passes: Iterable[int]) -> None:
    """Raise ConfigError unless the window first <= t <= last lies in a schedule of `timesteps` and holds a pass."""
    first, last = window
    if not 0 <= first <= last < timesteps:
        raise ConfigError(
            f"the window {first} to {last} is outside the schedule; give first <= last within 0 to {timesteps - 1}"
        )
    passes = sorted(passes)
    if not any(first <= timestep <= last for timestep in passes):
        raise ConfigError(f"the window {first} to {last} holds none of the timesteps {passes}; widen it")


def over_windows(grid: xr.Dataset, windows: Sequence[Window], *, timesteps: int) -> xr.Dataset:
    """Return the means of `grid` over the passes with first <= timestep <= last of each window, as the dim `window`.

    `timesteps` is the length of the schedule. Raises ConfigError for a window that lies outside of it or holds no pass.
    """
    means = []
    for window in windows:
        check_window(window, timesteps, grid["timestep"].values.tolist())
        means.append(grid.sel(timestep=slice(*window)).mean("timestep", keep_attrs=True))
    names = xr.Variable("window", [window_name(window) for window in windows], {"long_name": "window of timesteps"})
    return xr.concat(means, dim=names) if means else grid


def window_name(window: Window) -> str:
    """Return the name of a window in tables: `320-720`."""
    return f"{window[0]}-{window[1]}"


def schedule_length(model_json: Path | str) -> int:
    """Return how many timesteps the schedule of a model has. Raises StoreError for a pointer that does not say."""
    pointer = read_json(model_json)
    if "timesteps" not in pointer:
        raise StoreError(f"{model_json}: does not say how many timesteps it has; delete it to have it made anew")
    return int(pointer["timesteps"])


def sign_flip_max_p(
    differences: Float[np.ndarray, "sample *test"], *, permutations: int, seed: int
) -> Float[np.ndarray, "*test"]:
    """Return the p-values of mean paired differences, corrected over all tests by max-T."""
    return joint_sign_flip_p([differences], permutations=permutations, seed=seed)[0]


def sign_flip_max_smallest(
    differences: Float[np.ndarray, "sample *test"], *, permutations: int, seed: int, alpha: float
) -> Float[np.ndarray, "*test"]:
    """Return the mean difference of each test that `sign_flip_max_p` finds with 80 % power, from its own spread.

    |mean| / root mean square is t / root of (n - 1 + t^2), and t of a true mean has Student's noncentral distribution:
    by normal theory, at the threshold that the observed family has at level `alpha`. Infinite where so few images allow
    no p at or below `alpha`, whatever they show.
    """
    n = len(differences)
    if smallest_sign_flip_p(n, permutations) > alpha:
        return np.full(differences.shape[1:], np.inf)
    _, null = _scaled_sign_flips(differences, permutations, seed)
    threshold = min(rank_threshold(null.reshape(len(null), -1).max(axis=1), alpha), 1 - 1e-9)
    t = threshold * np.sqrt((n - 1) / (1 - threshold**2))
    shift = brentq(lambda centre: nct.sf(t, n - 1, centre) - POWER, 0, 20 * t + 20)
    return np.asarray(shift * differences.std(axis=0, ddof=1) / np.sqrt(n))


def _scaled_sign_flips(
    differences: Float[np.ndarray, "sample *test"], permutations: int, seed: int
) -> tuple[Float[np.ndarray, "*test"], Float[np.ndarray, "permutation *test"]]:
    size = np.sqrt(np.square(differences).mean(axis=0))
    scaled = np.divide(differences, size, out=np.zeros(differences.shape), where=size > 0)
    observed, null = sign_flip_permutation(np.abs, scaled, permutations=permutations, seed=seed)
    return np.asarray(observed), null


def phase_ends(phases_csv: Path | str | None) -> list[Window]:
    """Return the phases of a table of phases, or of mechanisms, which has these columns too; ascending."""
    ends = PHASES.read(str(phases_csv), ["phase_first", "phase_last"]).drop_duplicates()
    return sorted((int(first), int(last)) for first, last in ends.itertuples(index=False))
