"""Different interventions on different rows of one batch, in a single forward pass.

A plan lists for each row of the batch which heads are replaced and by what. Per site and kind of intervention the
rows and heads are gathered once, as index tensors, so that the pass itself makes one gather and one scatter per site.
Rows of an attention model do not see each other, hence the batch equals as many single passes. Ours.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, resolve_heads
from diffmech.errors import ConfigError
from diffmech.interventions.heads import (
    BATCH,
    HeadIntervention,
    HeadPairs,
    PatchHead,
    ReferenceOutputs,
    ResampleHead,
    ScaleHead,
    SwapTimestep,
)


class AblationPlan:
    """An intervention for `AttentionTap`: row r of the batch has the heads of `rows[r]` replaced.

    Rows without interventions, and sites that no row names, pass through untouched. `samples[r]` is the row of the
    recorded passes of `reference` that holds the sample of row r; by default r itself. After a pass, `distance_off()`
    tells how far each row was moved. Raises ConfigError when a row names a head twice or one that `sites` lack, or
    takes a row that its source lacks.
    """

    needs_lse = False

    def __init__(
        self,
        rows: Sequence[Sequence[HeadIntervention]],
        sites: Sequence[AttentionSite],
        *,
        reference: ReferenceOutputs | None = None,
        samples: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.batch = len(rows)
        self._reference = reference
        self._changes: dict[str, list[tuple[type[HeadIntervention], HeadPairs]]] = {}
        self._moved = torch.zeros(self.batch, device=device)
        self._size = torch.zeros(self.batch, device=device)
        counts = {site.name: site.heads for site in sites}
        gathered: dict[tuple[str, type[HeadIntervention], str | int], list[tuple[int, int, int, float]]] = {}
        for row, interventions in enumerate(rows):
            if len({item.head for item in interventions}) < len(interventions):
                raise ConfigError(f"row {row} replaces a head twice: {', '.join(map(str, interventions))}")
            for item in interventions:
                if not 0 <= item.head.head < counts.get(item.head.site, 0):
                    resolve_heads([str(item.head)], sites)  # raises, naming the nearest heads
                origin, source, dose = self._taken(item, row if samples is None else samples[row])
                entry = (row, item.head.head, source, dose)
                gathered.setdefault((item.head.site, type(item), origin), []).append(entry)
        for (site, kind, origin), entries in gathered.items():
            chosen, heads, sources = torch.tensor([entry[:3] for entry in entries], device=device).unbind(1)
            doses = torch.tensor([entry[3] for entry in entries], device=device)
            self._changes.setdefault(site, []).append((kind, HeadPairs(chosen, heads, sources, doses, origin)))

    def applies_to(self, site: AttentionSite) -> bool:
        """Return whether any row replaces a head of `site`."""
        return site.name in self._changes

    def replace_output(self, call: AttentionCall) -> Float[Tensor, "row head query channel"] | None:
        """Return the per-head output with each row's heads replaced."""
        if call.output.shape[0] != self.batch:
            raise ValueError(
                f"the plan has {self.batch} rows, the batch at {call.site.name} has {call.output.shape[0]}; "
                "give one list of interventions per row"
            )
        output = call.output.clone()
        for kind, pairs in self._changes[call.site.name]:
            old = call.output[pairs.rows, pairs.heads]
            new = kind.replacement(call, pairs, self._reference).to(output.dtype)
            self._moved.index_add_(0, pairs.rows, _sum_of_squares(new - old))
            self._size.index_add_(0, pairs.rows, _sum_of_squares(old))
            output[pairs.rows, pairs.heads] = new
        return output

    def _taken(self, item: HeadIntervention, sample: int) -> tuple[str | int, int, float]:
        """Return the recorded pass that `item` reads, the row of it or of the bank, and its dose."""
        if isinstance(item, ResampleHead):
            return BATCH, item.source, 1.0
        if isinstance(item, ScaleHead):
            return BATCH, 0, float(item.dose)
        if isinstance(item, PatchHead):
            origin: str | int = item.source
            row, dose = sample if item.row is None else item.row, float(item.dose)
        elif isinstance(item, SwapTimestep):
            origin, row, dose = item.timestep, sample, 1.0
        else:
            return BATCH, 0, 1.0
        passes = {} if self._reference is None else self._reference.recorded
        outputs = passes.get(origin, {}).get(item.head.site)
        # What is not recorded at all is answered when the site runs.
        there = self.batch if origin == BATCH else None if outputs is None else len(outputs)
        if there is not None and not 0 <= row < there:
            raise ConfigError(f"{item}: its source has {there} rows, 0 to {there - 1}, and no row {row}")
        return origin, row, dose

    def distance_off(self) -> Float[Tensor, "row"]:
        """Return |o_ablated - o| / |o| per row, over all heads it replaced and their queries; 0 where there are none.

        o is what the head would have written in the very pass in which it is replaced.
        """
        distance = (self._moved / self._size).sqrt()
        return torch.where(self._moved > 0, distance, torch.zeros_like(distance))


def _sum_of_squares(outputs: Float[Tensor, "pair query channel"]) -> Float[Tensor, "pair"]:
    return outputs.float().square().sum((1, 2))
