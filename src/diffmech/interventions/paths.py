"""Path patching: how much of one head's effect reaches another directly, and what goes on from there.

Ablating a sender changes the prediction by its total effect. A second pass takes the sender's new output while all
other heads are frozen at their clean outputs: there the later heads see the sender's change along the direct path
alone, through the residual stream and not through other heads. What a receiver writes there is put into a clean pass,
and the change of the prediction is the effect of the path sender -> receiver. Of the total effect are

    direct   the sender ablated and every other head frozen: what reaches the output through no other head,
    mediated the sum over receivers of the paths sender -> receiver -> output,
    residual total - direct - mediated: longer chains of heads, heads that are no receivers, and what the parts do only
             together.

In a linear network, with every later head a receiver, the residual is the chains of three heads and more, exactly.
Every sender, receiver and sample is a row of its own, so that a few batches hold all paths. Path patching: Wang et al.
2023, Goldowsky-Dill et al. 2023; this partition, with its residual shown, is ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError
from diffmech.interventions.attribution import Loss
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, PatchHead, ReferenceOutputs
from diffmech.interventions.recording import predict, record_heads, repeated
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Denoiser

CLEAN, SENT = "clean", "sent"


@dataclass(frozen=True)
class PathEffects:
    """Changes of a loss per sample when a sender is ablated: total, direct, and mediated by each receiver."""

    sender: HeadId
    receivers: tuple[HeadId, ...]
    total: Float[Tensor, "sample"]
    direct: Float[Tensor, "sample"]
    mediated: Float[Tensor, "receiver sample"]

    @property
    def residual(self) -> Float[Tensor, "sample"]:
        """What neither the direct path nor any single receiver accounts for."""
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

    As `paths_between` with one sender. Raises ConfigError, too, for a receiver that is the sender.
    """
    if receivers is not None and sender.head in receivers:
        raise ConfigError(f"{sender.head} is both the sender and a receiver; a head has no path to itself")
    return paths_between(
        denoiser, sites, passes, [[sender] * len(passes)], loss=loss, receivers=receivers, reference=reference
    )[0]


def paths_between(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    passes: Passes,
    senders: Sequence[Sequence[HeadIntervention]],
    *,
    loss: Loss,
    receivers: Sequence[HeadId] | None = None,
    reference: ReferenceOutputs | None = None,
    batch_size: int = 64,
) -> list[PathEffects]:
    """Return for each of `senders` the effects on `loss` along the paths to those of `receivers` that run after it.

    A sender is one ablation of one head per sample of `passes`. `loss` takes predictions of all samples, in order, to
    one number per sample. Receivers are by default all heads; those that run before a sender, or beside it in its own
    site, cannot change and are left out of its effects. Passes have one size, of at most `batch_size` rows (or as many
    as there are samples), which changes the speed and the memory taken, not the result. Raises ConfigError for heads
    that do not exist.
    """
    order: list[str] = []

    def note(call: AttentionCall) -> None:
        order.append(call.site.name)

    with torch.no_grad(), AttentionTap(denoiser.module, observers=[note], sites=sites, whole=True):
        predict(denoiser, passes.rows(torch.zeros(1, dtype=torch.long, device=passes.x_t.device)))
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    sending = [sender[0].head for sender in senders]
    wanted = heads if receivers is None else list(receivers)
    resolve_heads([str(head) for head in [*sending, *wanted]], sites)  # raises, naming the nearest heads
    later = [[head for head in wanted if order.index(head.site) > order.index(own.site)] for own in sending]
    pairs = [(index, sample) for index in range(len(senders)) for sample in range(len(passes))]
    size = _even(len(pairs), batch_size)
    filled, outputs = record_heads(denoiser, sites, repeated(passes, max(size, len(passes))))
    clean = filled[: len(passes)]
    recorded: dict[str | int, Mapping[str, Tensor]] = {CLEAN: outputs}
    given = reference or ReferenceOutputs(passes.timestep, {}, {})
    sources = replace(given, timestep=passes.timestep, recorded={**given.recorded, **recorded})
    run = _Runner(denoiser, sites, passes, heads, sources, size)
    total, direct = torch.stack([clean] * len(senders)), torch.stack([clean] * len(senders))
    mediated = [torch.stack([clean] * len(chosen)) if chosen else clean[:0, None] for chosen in later]
    for start in range(0, len(pairs), size):
        batch = pairs[start : start + size]
        ablations = [senders[index][sample] for index, sample in batch]
        rows = [sample for _, sample in batch]
        for (index, sample), predicted in zip(batch, run.ablated(ablations, rows), strict=True):
            total[index, sample] = predicted
        predictions, sent = run.frozen(ablations, rows)
        for (index, sample), predicted in zip(batch, predictions, strict=True):
            direct[index, sample] = predicted
        onward = [(row, place) for row, (index, _) in enumerate(batch) for place in range(len(later[index]))]
        for some in range(0, len(onward), size):
            part = onward[some : some + size]
            patched = [PatchHead(later[batch[row][0]][place], SENT, row=row) for row, place in part]
            predictions = run.patched(patched, sent, [rows[row] for row, _ in part])
            for (row, place), predicted in zip(part, predictions, strict=True):
                index, sample = batch[row]
                mediated[index][place, sample] = predicted
    base = loss(clean)

    def change(predicted: Tensor) -> Tensor:
        return loss(predicted) - base

    return [
        PathEffects(
            own,
            tuple(chosen),
            change(total[index]),
            change(direct[index]),
            torch.stack([change(one) for one in mediated[index]]) if chosen else base.new_zeros(0, len(base)),
        )
        for index, (own, chosen) in enumerate(zip(sending, later, strict=True))
    ]


@dataclass(frozen=True)
class _Runner:
    """Runs passes whose rows are any samples of `passes`, each with interventions of its own, in batches of `size`.

    One size, since kernels may round differently for another one, and a dead head should change nothing.
    """

    denoiser: Denoiser
    sites: Sequence[AttentionSite]
    passes: Passes
    heads: Sequence[HeadId]
    sources: ReferenceOutputs
    size: int

    def ablated(self, senders: Sequence[HeadIntervention], rows: Sequence[int]) -> Tensor:
        """Return the predictions with each row's sender ablated."""
        return self._predicted([[sender] for sender in senders], rows, self.sources)[0]

    def frozen(self, senders: Sequence[HeadIntervention], rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the predictions with all other heads frozen too, and what heads would have written there."""
        patches = {head: PatchHead(head, CLEAN) for head in self.heads}
        kept = [[sender, *(patch for head, patch in patches.items() if head != sender.head)] for sender in senders]
        return self._predicted(kept, rows, self.sources, see=True)

    def patched(self, patches: Sequence[PatchHead], sent: Mapping[str, Tensor], rows: Sequence[int]) -> Tensor:
        """Return the predictions of clean passes into which each row's patch from `sent` is put."""
        source = ReferenceOutputs(self.passes.timestep, {}, {}, {SENT: sent})
        return self._predicted([[patch] for patch in patches], rows, source)[0]

    def _predicted(
        self,
        interventions: Sequence[Sequence[HeadIntervention]],
        rows: Sequence[int],
        sources: ReferenceOutputs,
        *,
        see: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device, filling = self.passes.x_t.device, self.size - len(rows)
        samples = [*rows, *[0] * filling]
        plan = AblationPlan(
            [*interventions, *[()] * filling], self.sites, reference=sources, samples=samples, device=device
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
            predicted = predict(self.denoiser, self.passes.rows(torch.tensor(samples, device=device)))
        return predicted[: len(rows)], written


def _even(rows: int, most: int) -> int:
    """Return the size of equal batches of at most `most` rows, with as little filling as can be."""
    return math.ceil(rows / math.ceil(rows / most)) if rows else 1
