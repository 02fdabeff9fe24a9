"""Path patching: how much of one head's effect reaches another directly, and what goes on from there.

Ablating a sender changes the prediction by its total effect. A second pass takes the sender's new output while all
other heads but the receivers are frozen at their clean outputs: there the receivers see the sender's change along the
direct path alone, through the residual stream and not through other heads. What they then write is put into a clean
pass, and the change of the prediction is the effect of the path sender -> receiver. Of the total effect are

    direct   the sender ablated and every other head frozen: what reaches the output through no other head,
    mediated the sum over receivers of the paths sender -> receiver -> output,
    residual total - direct - mediated: longer chains of heads, and what the parts do only together.

In a linear network the residual is the chains of three heads and more, exactly. Path patching: Wang et al. 2023,
Goldowsky-Dill et al. 2023; this partition, with its residual shown, is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.attention.tap import AttentionCall, AttentionTap
from diffmech.errors import ConfigError
from diffmech.interventions.attribution import Loss
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, PatchHead, ReferenceOutputs
from diffmech.interventions.recording import predict, record_heads
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Denoiser

CLEAN, SENT = "clean", "sent"


@dataclass(frozen=True)
class PathEffects:
    """Changes of a loss per sample when a sender is ablated: total, direct (sample,), mediated (receiver, sample)."""

    sender: HeadId
    receivers: tuple[HeadId, ...]
    total: Tensor
    direct: Tensor
    mediated: Tensor

    @property
    def residual(self) -> Tensor:
        """What neither the direct path nor any single receiver accounts for, (sample,)."""
        return self.total - self.direct - self.mediated.sum(0)


def path_effects(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    passes: Passes,
    sender: HeadIntervention,
    *,
    loss: Loss,
    receivers: Sequence[HeadId] | None = None,
    reference: ReferenceOutputs | None = None,
) -> PathEffects:
    """Return the effects on `loss` of `sender`, an ablation of one head, along the paths to each of `receivers`.

    `loss` takes predictions to one number per sample. Receivers are by default all heads of the sites that run after
    the sender's, since earlier heads cannot change. Raises ConfigError for heads that do not exist and for a receiver
    that is the sender.
    """
    order: list[str] = []

    def note(call: AttentionCall) -> None:
        order.append(call.site.name)

    with torch.no_grad(), AttentionTap(denoiser.module, observers=[note], sites=sites):
        predict(denoiser, passes)
    resolve_heads([str(sender.head)], sites)
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    later = order[order.index(sender.head.site) + 1 :]
    chosen = [head for head in heads if head.site in later] if receivers is None else list(receivers)
    for head in chosen:
        resolve_heads([str(head)], sites)
        if head == sender.head:
            raise ConfigError(f"{head} is both the sender and a receiver; a head has no path to itself")
    clean, outputs = record_heads(denoiser, sites, passes)
    recorded: dict[str | int, Mapping[str, Tensor]] = {CLEAN: outputs}
    base = loss(clean)
    sources = ReferenceOutputs(
        passes.timestep,
        {} if reference is None else reference.mean,
        {} if reference is None else reference.bank,
        recorded if reference is None else {**reference.recorded, **recorded},
    )
    run = _Runner(denoiser, sites, passes, sources)
    frozen = [PatchHead(head, CLEAN) for head in heads if head != sender.head]
    total = loss(run.predicted([sender])[0]) - base
    direct_prediction, sent = run.predicted([sender, *frozen], see=True)
    direct = loss(direct_prediction) - base
    sources = ReferenceOutputs(passes.timestep, {}, {}, {SENT: sent})
    onward = _Runner(denoiser, sites, passes, sources)
    mediated = [loss(onward.predicted([PatchHead(head, SENT)])[0]) - base for head in chosen]
    stacked = torch.stack(mediated) if mediated else base.new_zeros(0, len(base))
    return PathEffects(sender.head, tuple(chosen), total, direct, stacked)


@dataclass(frozen=True)
class _Runner:
    denoiser: Denoiser
    sites: Sequence[AttentionSite]
    passes: Passes
    sources: ReferenceOutputs

    def predicted(
        self, interventions: Sequence[HeadIntervention], *, see: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the prediction with `interventions` in every row, and what heads would have written, if `see`."""
        plan = AblationPlan(
            [interventions] * len(self.passes), self.sites, reference=self.sources, device=self.passes.x_t.device
        )
        written: dict[str, Tensor] = {}

        # Observers see a head's own output, before it is replaced: what the head makes of its changed input.
        def keep(call: AttentionCall) -> None:
            written[call.site.name] = call.output.clone()

        observers = [keep] if see else []
        with (
            torch.no_grad(),
            AttentionTap(self.denoiser.module, observers=observers, interventions=[plan], sites=self.sites),
        ):
            return predict(self.denoiser, self.passes), written
