"""Different interventions on different rows of one batch, in a single forward pass.

A plan lists for each row of the batch which heads are replaced and by what. Per site and kind of intervention the
rows and heads are gathered once, as index tensors, so that the pass itself makes one gather and one scatter per site.
Rows of an attention model do not see each other, hence the batch equals as many single passes. Ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionCall
from diffmech.errors import ConfigError
from diffmech.interventions.heads import HeadIntervention, HeadPairs, ReferenceOutputs


class AblationPlan:
    """An intervention for `AttentionTap`: row r of the batch has the heads of `rows[r]` replaced.

    Rows without interventions, and sites that no row names, pass through untouched. After a pass, `distance_off()`
    tells how far each row was moved. Raises ConfigError when a row names a head twice or one that `sites` lack.
    """

    needs_lse = False

    def __init__(
        self,
        rows: Sequence[Sequence[HeadIntervention]],
        sites: Sequence[AttentionSite],
        *,
        reference: ReferenceOutputs | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.batch = len(rows)
        self._reference = reference
        self._changes: dict[str, list[tuple[type[HeadIntervention], HeadPairs]]] = {}
        self._moved = torch.zeros(self.batch, device=device)
        self._size = torch.zeros(self.batch, device=device)
        counts = {site.name: site.heads for site in sites}
        gathered: dict[tuple[str, type[HeadIntervention]], list[tuple[int, int, int]]] = {}
        for row, interventions in enumerate(rows):
            if len({item.head for item in interventions}) < len(interventions):
                raise ConfigError(f"row {row} replaces a head twice: {', '.join(map(str, interventions))}")
            for item in interventions:
                if not 0 <= item.head.head < counts.get(item.head.site, 0):
                    raise ConfigError(f"the model has no head {item.head}; its sites are {', '.join(counts)}")
                entry = (row, item.head.head, getattr(item, "source", 0))
                gathered.setdefault((item.head.site, type(item)), []).append(entry)
        for (site, kind), entries in gathered.items():
            pairs = HeadPairs(*torch.tensor(entries, device=device).unbind(1))
            self._changes.setdefault(site, []).append((kind, pairs))

    def applies_to(self, site: AttentionSite) -> bool:
        """Return whether any row replaces a head of `site`."""
        return site.name in self._changes

    def replace_output(self, call: AttentionCall) -> Tensor | None:
        """Return the per-head output (row, head, query, channel) with each row's heads replaced."""
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

    def distance_off(self) -> Tensor:
        """Return |o_ablated - o| / |o| per row, over all heads it replaced and their queries; 0 where there are none.

        o is what the head would have written in the very pass in which it is replaced.
        """
        distance = (self._moved / self._size).sqrt()
        return torch.where(self._moved > 0, distance, torch.zeros_like(distance))


def _sum_of_squares(outputs: Tensor) -> Tensor:
    return outputs.float().square().sum((1, 2))
