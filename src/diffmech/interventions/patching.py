"""Activation patching: what each head carries of the difference between two passes, per timestep.

A clean pass and its counterfactual give the predictions y and y', and the difference D = y' - y. Patched predictions p
are placed along it: effect = <p - y, D> / |D|^2, which is 0 at the clean output and 1 at the counterfactual one. In the
direction `denoising` a head's counterfactual output is put into the clean pass, and 1 means that this head alone brings
the whole difference: it is sufficient. In the direction `noising` its clean output is put into the counterfactual
pass, and 0 means that without this head nothing of the difference is left: it is necessary. The two disagree where
heads stand in for each other. `off` is the length of what leaves the line, over |D|.

Activation patching: Vig et al. 2020, Meng et al. 2022; the two directions: Heimersheim & Nanda 2024. The measure of a
noise prediction along D is ours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, PatchHead, ReferenceOutputs
from diffmech.interventions.prefix import SharedPrefix
from diffmech.interventions.recording import predict, record_heads, repeated
from diffmech.interventions.replay import Passes
from diffmech.interventions.targets import Target, single_heads
from diffmech.models.denoiser import Denoiser

Direction = Literal["denoising", "noising"]
DIRECTIONS: tuple[Direction, ...] = ("denoising", "noising")
DIMS = ("target", "dose", "direction", "sample", "timestep")
MEASURES = {
    "effect": "place of the patched prediction between the clean (0) and the counterfactual one (1)",
    "off": "length of what leaves the line between the two predictions, over the length of their difference",
    "shift": "squared change of the predicted noise over its squared norm",
}


def patch_heads(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    clean: Sequence[Passes],
    counterfactual: Sequence[Passes],
    *,
    targets: Sequence[Target] | None = None,
    doses: Sequence[float] = (1.0,),
    directions: Sequence[Direction] = DIRECTIONS,
    batch_size: int = 64,
    reuse_prefix: bool = True,
    show_progress: bool = False,
) -> xr.Dataset:
    """Return effect, off and shift (target, dose, direction, sample, timestep) of patching each target.

    `clean` and `counterfactual` are the passes of the same samples, one `Passes` per timestep each. `targets` are sets
    of heads, every single head by default. `difference` (sample, timestep) is |D|^2 / |y|^2; where it is 0 there is no
    line to measure along, and effect and off are NaN. Raises ConfigError where the two lists do not belong together
    and for heads and doses that cannot be.
    """
    _check_pairs(clean, counterfactual)
    targets = single_heads(sites) if targets is None else list(targets)
    result = _empty_result(targets, doses, directions, clean)
    runner = _Patching(denoiser, sites, targets, list(doses), list(directions), batch_size, reuse_prefix)

    def run() -> Iterator[None]:
        for column, (start, end) in enumerate(zip(clean, counterfactual, strict=True)):
            for first in range(0, len(start), batch_size):
                chosen = slice(first, first + batch_size)
                rows = torch.arange(len(start), device=start.x_t.device)[chosen]
                yield from runner.run(start.rows(rows), end.rows(rows), result, chosen, column)

    for _ in progress(run(), "patched passes", show=show_progress):
        pass
    return result


@dataclass
class _Patching:
    """Runs all patched passes of some samples at one timestep, in batches of one fixed size.

    The fixed size matters: kernels may round differently for another one, and a dead head should change nothing.
    """

    denoiser: Denoiser
    sites: Sequence[AttentionSite]
    targets: Sequence[Target]
    doses: list[float]
    directions: list[Direction]
    batch_size: int
    reuse_prefix: bool
    prefix: SharedPrefix | None = None

    def run(
        self, clean: Passes, counterfactual: Passes, result: xr.Dataset, where: slice, column: int
    ) -> Iterator[None]:
        """Fill in `result` at samples `where` and timestep `column`, yielding after each batch."""
        if self.prefix is None:
            self.prefix = SharedPrefix(
                self.denoiser.module, self.sites, lambda n: predict(self.denoiser, repeated(clean, n))
            )
        n = len(clean)
        size = min(self.batch_size, max(self._most_tasks(clean.timestep, n), n))
        of = {head.site for target in self.targets for head in target.heads()}
        ends: dict[str, Tensor] = {}
        outputs: dict[str, dict[str, Tensor]] = {}
        for name, passes in (("clean", clean), ("counterfactual", counterfactual)):
            predicted, kept = record_heads(self.denoiser, self.sites, repeated(passes, size), of=of)
            ends[name] = predicted[:n]
            outputs[name] = {site: written[:n] for site, written in kept.items()}
        tasks = self._tasks(clean.timestep, n, _equal(outputs["clean"], outputs["counterfactual"]))
        base, end = _flat(ends["clean"]), _flat(ends["counterfactual"])
        result["difference"].values[where, column] = _ratio(_square(end - base), _square(base))
        for name, passes, source in (
            ("denoising", clean, "counterfactual"),
            ("noising", counterfactual, "clean"),
        ):
            if name not in self.directions:
                continue
            start = base if name == "denoising" else end
            cells = [result[measure].values[:, :, self.directions.index(name), where, column] for measure in MEASURES]
            for cell, values in zip(cells, _measured(start, start, base, end), strict=True):
                cell[...] = values  # targets without a head at this timestep, or with nothing to bring
            with torch.inference_mode(), self.prefix.recording():
                predict(self.denoiser, repeated(passes, size))
            reference = ReferenceOutputs(passes.timestep, {}, {}, {source: outputs[source]})
            for batch, patched in self._patched(passes, tasks, size, reference, source):
                rows = np.array([position for _, _, position in batch])
                measured = _measured(_flat(patched)[: len(batch)], start[rows], base[rows], end[rows])
                index = tuple(np.array(batch).T)
                for cell, values in zip(cells, measured, strict=True):
                    cell[index] = values
                yield

    def _most_tasks(self, timestep: int, n: int) -> int:
        return n * len(self.doses) * sum(bool(each.heads_at(timestep)) for each in self.targets)

    def _tasks(self, timestep: int, n: int, equal: dict[str, np.ndarray]) -> list[tuple[int, int, int]]:
        """Return (target, dose, position of the sample) of every patched pass, neighbours starting at one site.

        Left out are passes that patching leaves as they are, because all heads of the target write the same in both.
        """
        assert self.prefix is not None
        order = {name: position for position, name in enumerate(self.prefix.order)}
        tasks, first = [], []
        for target, heads in enumerate(each.heads_at(timestep) for each in self.targets):
            first.append(min((order[head.site] for head in heads), default=0))
            for position in range(n):
                if not all(equal[head.site][position, head.head] for head in heads):
                    tasks += [(target, dose, position) for dose in range(len(self.doses))]
        return sorted(tasks, key=lambda task: first[task[0]])

    def _patched(
        self,
        passes: Passes,
        tasks: list[tuple[int, int, int]],
        size: int,
        reference: ReferenceOutputs,
        source: str,
    ) -> Iterator[tuple[list[tuple[int, int, int]], Tensor]]:
        """Yield batches of tasks with their predictions, which are filled up to `size` rows."""
        assert self.prefix is not None
        order, timestep = self.prefix.order, passes.timestep
        for start in range(0, len(tasks), size):
            batch = tasks[start : start + size]
            filling = size - len(batch)
            rows: list[Sequence[HeadIntervention]] = [
                [PatchHead(head, source, self.doses[dose]) for head in sorted(self.targets[target].heads_at(timestep))]
                for target, dose, _ in batch
            ]
            samples = [position for *_, position in batch] + [0] * filling
            plan = AblationPlan(
                rows + [()] * filling, self.sites, reference=reference, samples=samples, device=passes.x_t.device
            )
            first = min((head.site for head in self.targets[batch[0][0]].heads_at(timestep)), key=order.index)
            positions = torch.tensor(samples, device=passes.x_t.device)
            with (
                torch.inference_mode(),
                self.prefix.replaying(first if self.reuse_prefix else None, positions),
                AttentionTap(self.denoiser.module, interventions=[plan], sites=self.sites),
            ):
                patched = predict(self.denoiser, passes.rows(positions))
            yield batch, patched


def _equal(clean: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Bool[np.ndarray, "sample head"]]:
    """Return, by site, which heads write the very same in both passes."""
    return {site: (clean[site] == other[site]).flatten(2).all(2).cpu().numpy() for site in clean}


def _measured(
    patched: Float[np.ndarray, "row number"],
    start: Float[np.ndarray, "row number"],
    base: Float[np.ndarray, "row number"],
    end: Float[np.ndarray, "row number"],
) -> tuple[Float[np.ndarray, "row"], ...]:
    """Return effect, off and shift per row of predictions; `start` is what was patched."""
    difference, moved = end - base, patched - base
    effect = _ratio((moved * difference).sum(1), _square(difference))
    off = np.sqrt(_ratio(_square(moved - effect[:, None] * difference), _square(difference)))
    return effect, off, _ratio(_square(patched - start), _square(start))


def _ratio(above: Float[np.ndarray, "row"], below: Float[np.ndarray, "row"]) -> Float[np.ndarray, "row"]:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _square(rows: Float[np.ndarray, "row number"]) -> Float[np.ndarray, "row"]:
    total: np.ndarray = np.square(rows).sum(axis=1)
    return total


def _flat(images: Float[Tensor, "row ..."]) -> Float[np.ndarray, "row number"]:
    flat: np.ndarray = images.float().cpu().double().flatten(1).numpy()
    return flat


def _check_pairs(clean: Sequence[Passes], counterfactual: Sequence[Passes]) -> None:
    if not clean or len(clean) != len(counterfactual):
        raise ConfigError(
            f"there are {len(clean)} clean and {len(counterfactual)} counterfactual timesteps; give one pair each"
        )
    for start, end in zip(clean, counterfactual, strict=True):
        if start.timestep != end.timestep or start.x_t.shape != end.x_t.shape or start.samples != clean[0].samples:
            raise ConfigError(
                f"the clean passes at timestep {start.timestep} have shape {tuple(start.x_t.shape)}, the "
                f"counterfactual ones at {end.timestep} {tuple(end.x_t.shape)}; give the same timesteps and shapes, "
                "and the same samples at all timesteps"
            )


def _empty_result(
    targets: Sequence[Target], doses: Sequence[float], directions: Sequence[Direction], clean: Sequence[Passes]
) -> xr.Dataset:
    if not all(math.isfinite(dose) for dose in doses):
        raise ConfigError(f"the doses {list(doses)} are not all finite; give numbers, 0 = unchanged, 1 = replaced")
    if unknown := [name for name in directions if name not in DIRECTIONS]:
        raise ConfigError(f"{unknown[0]!r} is no direction of patching; expected one of {', '.join(DIRECTIONS)}")
    text = np.dtypes.StringDType()
    shape = (len(targets), len(doses), len(directions), len(clean[0]), len(clean))
    units = {"units": "1"}
    return xr.Dataset(
        {name: (DIMS, np.full(shape, np.nan), units | {"long_name": what}) for name, what in MEASURES.items()}
        | {
            "difference": (
                DIMS[3:],
                np.full(shape[3:], np.nan),
                units | {"long_name": "squared difference of the two predictions over the clean one's squared norm"},
            )
        },
        coords={
            "target": ("target", np.array([t.name for t in targets], dtype=text), {"long_name": "heads patched"}),
            "dose": ("dose", np.array(doses, dtype=np.float64), units | {"long_name": "share of the patched output"}),
            "direction": ("direction", np.array(directions, dtype=text), {"long_name": "direction of patching"}),
            "sample": np.array(clean[0].samples, dtype=np.int64),
            "timestep": ("timestep", np.array([p.timestep for p in clean], dtype=np.int64), {"long_name": "timestep"}),
        },
    )
