"""What is removed while images are sampled: mechanisms, their matched controls, parts of sampling, single heads.

Phases are known at the captured timesteps only: a sampling step belongs to the nearest phase (ours). Controls are
matched as those of the local ablations (`interventions.targets`), heads being moved as far as at the ablated timestep
nearest to each step, but not kept apart from their target: single heads are not removed here, so that the target can
only be held against sets that are drawn as it would be by chance (`resampling.controls`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.config.patching import Windows
from diffmech.config.resampling import ResamplingConfig
from diffmech.errors import ConfigError
from diffmech.interventions.targets import Balance, Heads, HeadSpan, Target, matched_controls, mechanisms
from diffmech.interventions.windows import phase_ends, resolve_windows, window_name
from diffmech.tables import ALL


@dataclass(frozen=True)
class Removal:
    """Heads removed together: `members[step]` are those replaced at each sampling step, the noisiest first.

    `window` is "all", or the timesteps first-last of the part of sampling. A control names the target it stands beside.
    """

    target: str
    group: str
    members: tuple[Heads, ...]
    window: str = ALL
    control_of: str = ""
    balance: Balance | None = None

    @property
    def first_step(self) -> int:
        """The first step with a head replaced, the number of steps where there is none."""
        return next((step for step, heads in enumerate(self.members) if heads), len(self.members))

    @property
    def sites(self) -> set[str]:
        """The names of the sites with a head replaced."""
        return {head.site for heads in self.members for head in heads}

    @property
    def heads(self) -> int:
        """How many distinct heads are replaced."""
        return len(frozenset().union(*self.members))


def plan_removals(
    heads_csv: Path | str,
    sites: Sequence[AttentionSite],
    timesteps: Sequence[int],
    sizes: Mapping[int, Mapping[HeadId, float]],
    *,
    schedule: int,
    resampling: ResamplingConfig,
    seed: int,
) -> list[Removal]:
    """Return the mechanisms of `heads_csv` at the sampling `timesteps`, each followed by its controls, then the rest.

    `sizes[timestep][head]` is how far heads are moved at the ablated timesteps of a `schedule` of so many. A mechanism
    whose phase holds no sampling step comes back without heads. Raises ConfigError for a window without a sampling step
    or outside the schedule, and for heads in the table or in `resampling.heads` that `sites` lack.
    """
    phases = sorted((min(ends), max(ends)) for ends in phase_ends(heads_csv))
    steps = [int(t) for t in timesteps]
    if len(set(steps)) < len(steps):
        raise ConfigError(f"two of the {len(steps)} sampling steps fall on one timestep; give fewer resampling.steps")
    at_step = {t: sizes[min(sizes, key=lambda known: (abs(known - t), known))] for t in steps} if sizes else {}
    found: list[Removal] = []
    windows = windows_of_sampling(resampling.windows, steps, phases, schedule, heads_csv)
    targets = [at_steps(target, steps, phases) for target in mechanisms(heads_csv, sites)]
    for target in targets:
        count = resampling.controls
        # fewer sets than were asked for are no fair control: a wider pool is tried
        matched = matched_controls(target, sites, at_step, count=count, needed=count, apart=False, seed=seed)
        found.append(_removal(replace(target, balance=matched.balance), "mechanisms", steps))
        found += [_removal(control, "mechanisms", steps) for control in matched.controls]
    for target in targets:
        found += [_removal(target, "mechanisms", steps, *window) for window in windows.items()]
    for head in resolve_heads(resampling.heads, sites):
        target = Target(str(head), tuple(HeadSpan(head, t, t) for t in steps))
        found += [_removal(target, "heads", steps), *(_removal(target, "heads", steps, *w) for w in windows.items())]
    return found


def at_steps(target: Target, steps: Sequence[int], phases: Sequence[tuple[int, int]]) -> Target:
    """Return `target` with its heads at the sampling steps, each taken as the nearest timestep within a phase."""
    spans = [HeadSpan(head, t, t) for t in steps for head in sorted(target.heads_at(within_phases(t, phases)))]
    return Target(target.name, tuple(spans))


def within_phases(timestep: int, phases: Sequence[tuple[int, int]]) -> int:
    """Return the nearest timestep that lies in a phase: `timestep` itself where one holds it, or there are none."""
    nearest = [min(max(timestep, first), last) for first, last in phases]
    return min(nearest, key=lambda known: (abs(known - timestep), known), default=timestep)


def windows_of_sampling(
    windows: Windows | None,
    steps: Sequence[int],
    phases: Sequence[tuple[int, int]],
    schedule: int,
    heads_csv: Path | str,
) -> dict[str, frozenset[int]]:
    """Return the sampling steps in each window by its name; phases hold the steps that are nearest to them."""
    if windows is None:
        return {}
    meant = {t: within_phases(t, phases) if windows == "phases" else t for t in steps}
    found = resolve_windows(windows, meant.values(), schedule, heads_csv)
    return {
        window_name((first, last)): frozenset(t for t in steps if first <= meant[t] <= last) for first, last in found
    }


def _removal(
    target: Target, group: str, steps: Sequence[int], window: str = ALL, within: frozenset[int] | None = None
) -> Removal:
    members = tuple(target.heads_at(t) if within is None or t in within else frozenset() for t in steps)
    return Removal(target.name, group, members, window, target.control_of, target.balance)
