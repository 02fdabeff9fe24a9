"""Heads replaced while images are sampled: other heads at other steps, others for other rows of one batch.

`mean` puts in what a head writes on average over clean images of the same domain and of seeds that nothing else uses,
at the same sampling step and in the same pass of guidance (ours: the mean of a sampling trajectory, not of noised
images); `zero` puts in nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, PatchHead, ReferenceOutputs, ZeroHead
from diffmech.interventions.targets import Heads

MEAN = "mean"


@dataclass
class StepMeans:
    """What heads write on average, by (step, pass of guidance) and site: (1, head, query, channel).

    An observer for the tap; `at` says before each pass what will be seen. Rows of a batch are the passes of guidance,
    one after the other, each with a row per image; `counted` of these are averaged, the others are filling.
    """

    sites: frozenset[str]
    device: torch.device | str = "cpu"
    _sums: dict[tuple[int, int], dict[str, Tensor]] = field(default_factory=dict)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)
    _now: tuple[int, Sequence[int], int] = (0, (), 0)

    def at(self, step: int, branches: Sequence[int], counted: int) -> None:
        """Tell which step and passes the next batch holds, and of how many images."""
        self._now = (step, branches, counted)
        for branch in branches:
            self._counts[step, branch] = self._counts.get((step, branch), 0) + counted

    def __call__(self, call: AttentionCall) -> None:
        step, branches, counted = self._now
        if call.site.name not in self.sites or not counted:
            return
        for branch, rows in zip(branches, call.output.chunk(len(branches)), strict=True):
            total = rows[:counted].float().sum(0, keepdim=True).to(self.device)
            sums = self._sums.setdefault((step, branch), {})
            sums[call.site.name] = total if call.site.name not in sums else sums[call.site.name] + total

    def of(self, step: int, branch: int) -> dict[str, Tensor]:
        """Return the mean head outputs of one step and pass by site."""
        count = self._counts.get((step, branch), 1)
        return {name: total / count for name, total in self._sums.get((step, branch), {}).items()}

    def forget(self, step: int) -> None:
        """Drop what is known of one step."""
        for key in [key for key in self._sums if key[0] == step]:
            del self._sums[key]


class Steering:
    """An intervention for `AttentionTap` whose plan is another one at every step; `at` sets it before each pass.

    Of a network that runs other heads at other timesteps, a head is replaced at the steps at which it runs.
    """

    needs_lse = False
    where_called = True

    def __init__(
        self,
        sites: Sequence[AttentionSite],
        used: Iterable[str],
        means: StepMeans | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Replace heads at the sites `used` by their means, or by zero where there are no `means`."""
        self._sites, self._used, self._means, self._device = list(sites), frozenset(used), means, device
        self._plan: AblationPlan | None = None
        self._known: dict[tuple[HeadId, int], HeadIntervention] = {}

    def at(self, step: int, branches: Sequence[int], rows: Sequence[Heads]) -> None:
        """Set which heads of each image's row are replaced in the next pass, in every one of `branches`."""
        self._plan = None
        if not any(rows):
            return
        reference = None
        if self._means is not None:
            found = {branch: self._means.of(step, branch) for branch in branches}
            recorded: dict[str | int, dict[str, Tensor]] = {
                _branch_name(branch): {site: mean.to(self._device) for site, mean in outputs.items()}
                for branch, outputs in found.items()
            }
            reference = ReferenceOutputs(step, {}, {}, recorded)
            ran = set[str]().union(*found.values())
            rows = [frozenset(head for head in heads if head.site in ran) for heads in rows]
        planned = [[self._replaced(head, branch) for head in sorted(heads)] for branch in branches for heads in rows]
        self._plan = AblationPlan(planned, self._sites, reference=reference, device=self._device)

    def applies_to(self, site: AttentionSite) -> bool:
        """Return whether any head of `site` is replaced at any step."""
        return site.name in self._used

    def replace_output(self, call: AttentionCall) -> Tensor | None:
        """Return the output with this step's heads replaced, None where this step leaves the site alone."""
        if self._plan is None or not self._plan.applies_to(call.site):
            return None
        return self._plan.replace_output(call)

    def _replaced(self, head: HeadId, branch: int) -> HeadIntervention:
        if (head, branch) not in self._known:
            by_mean = self._means is not None
            self._known[head, branch] = PatchHead(head, _branch_name(branch), row=0) if by_mean else ZeroHead(head)
        return self._known[head, branch]


def _branch_name(branch: int) -> str:
    return f"mean of pass {branch}"
