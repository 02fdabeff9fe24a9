"""The loss of a denoiser of which only some heads are kept: all others are ablated in one and the same pass.

A set of kept heads is judged on the noised images that ablation uses, image by image and timestep by timestep. Every
set and image is a row of its own, so that one batch holds many sets. On a sampling trajectory, where nobody knows the
noise, the loss is the mean square of the clean prediction plus that of its change, as it is for single heads: what sets
differ by is then the output shift alone. Keeping a set and ablating the rest by its mean: Wang et al. 2023.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.attention.tap import AttentionTap
from diffmech.config.analysis import RuntimeConfig
from diffmech.interventions.ablation import rows_at_once
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import HeadIntervention, ReferenceOutputs, replace_heads
from diffmech.interventions.recording import mean_square, predict
from diffmech.interventions.reference import ReferenceStore
from diffmech.interventions.replay import LatentFiles, Passes
from diffmech.interventions.targets import Heads
from diffmech.models.denoiser import Denoiser
from diffmech.statistics.units import Groups, number_of_units, over_units


class KeptHeads:
    """Losses of sets of kept heads on `samples` at `timesteps` of `files`; each set is run once, however often asked.

    `method` is what the other heads are replaced by, `groups` say which of the images belong together. Batches differ
    in size only as far as they must, which changes the speed, not the result.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sites: Sequence[AttentionSite],
        files: LatentFiles,
        references: ReferenceStore,
        *,
        samples: Sequence[int],
        timesteps: Sequence[int],
        method: str,
        seed: int,
        runtime: RuntimeConfig,
        groups: Groups = None,
    ) -> None:
        self.groups = groups
        self.denoiser, self.sites, self.files, self.references = denoiser, list(sites), files, references
        self.samples, self.timesteps, self.method, self.runtime = list(samples), list(timesteps), method, runtime
        self.batch_size = rows_at_once(denoiser, runtime)
        self.heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
        self.everything: Heads = frozenset(self.heads)
        references.check_apart(samples)
        self._sources = [
            references.resample_source(files.domain, i, seed) if method == "resample" else 0 for i in self.samples
        ]
        self._passes: dict[int, Passes] = {}
        self._means: dict[int, ReferenceOutputs] = {}
        self._clean: dict[int, Tensor] = {}
        self._known: dict[Heads, np.ndarray] = {}

    def losses(self, sets: Sequence[Heads], what: str = "circuits") -> Float[np.ndarray, "set unit timestep"]:
        """Return the loss with only the heads of each set kept; no heads, or all, are sets.

        A unit is an image, or the mean over a group of them. `what` names the sets in the progress bar.
        """
        missing = list(dict.fromkeys(kept for kept in sets if kept not in self._known))
        if missing:
            found = np.full((len(missing), len(self.samples), len(self.timesteps)), np.nan)
            rows = len(missing) * len(self.samples)
            batches = math.ceil(rows / self.batch_size)
            total = len(self.timesteps) * batches
            for _ in progress(self._run(missing, found), what, total=total, show=self.runtime.progress):
                pass
            self._known |= dict(zip(missing, found, strict=True))
        return over_units(np.stack([self._known[kept] for kept in sets]), self.groups, axis=1)

    @property
    def units(self) -> int:
        """How many units the samples are."""
        return number_of_units(len(self.samples), self.groups)

    def passes(self, timestep: int) -> Passes:
        """Return the passes of all samples at `timestep`."""
        if timestep not in self._passes:
            self._passes[timestep] = self.files.read(timestep, self.samples, self.denoiser.device)
        return self._passes[timestep]

    def reference(self, timestep: int) -> ReferenceOutputs:
        """Return the reference outputs of `timestep`; means stay in memory, banks, which are large, do not."""
        if timestep in self._means:
            return self._means[timestep]
        outputs = self.references.at(timestep, self.sites, self.files.domain, self.denoiser.device)
        if self.method != "resample":
            outputs = self._means[timestep] = replace(outputs, bank={})
        return outputs

    def replaced(self, heads: Sequence[HeadId], sample: int) -> tuple[HeadIntervention, ...]:
        """Return the ablation of `heads` for the sample at position `sample`."""
        return replace_heads(self.method, heads, source=self._sources[sample])

    def clean(self, timestep: int) -> Float[Tensor, "sample ..."]:
        """Return the clean predictions of all samples at `timestep`."""
        if timestep not in self._clean:
            passes, size = self.passes(timestep), self.batch_size
            rows = torch.arange(len(passes), device=passes.x_t.device).split(size)
            with torch.inference_mode():
                self._clean[timestep] = torch.cat([predict(self.denoiser, passes.rows(some)) for some in rows])
        return self._clean[timestep]

    def _run(self, sets: Sequence[Heads], found: np.ndarray) -> Iterator[None]:
        rows = [(index, sample) for index in range(len(sets)) for sample in range(len(self.samples))]
        # Equal batches: kernels round a little differently for each size.
        size = math.ceil(len(rows) / math.ceil(len(rows) / self.batch_size))
        ablated = [[head for head in self.heads if head not in kept] for kept in sets]
        per_sample = self.method == "resample"
        cache: dict[tuple[int, int], tuple[HeadIntervention, ...]] = {}
        for column, timestep in enumerate(self.timesteps):
            reference = self.reference(timestep)
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                for index, sample in batch:
                    key = (index, sample if per_sample else 0)
                    if key not in cache:
                        cache[key] = self.replaced(ablated[index], sample)
                plans = [cache[index, sample if per_sample else 0] for index, sample in batch]
                losses = self._ablated(timestep, plans, [sample for _, sample in batch], reference)
                for (index, sample), loss in zip(batch, losses, strict=True):
                    found[index, sample, column] = loss
                yield

    def _ablated(
        self,
        timestep: int,
        rows: Sequence[Sequence[HeadIntervention]],
        samples: Sequence[int],
        reference: ReferenceOutputs,
    ) -> np.ndarray:
        device = self.denoiser.device
        positions = torch.tensor(samples, device=device)
        passes = self.passes(timestep).rows(positions)
        plan = AblationPlan(rows, self.sites, reference=reference, device=device)
        with (
            torch.inference_mode(),
            AttentionTap(self.denoiser.module, interventions=[plan], sites=self.sites),
        ):
            predicted = predict(self.denoiser, passes)
        if passes.noise is not None:
            return mean_square(predicted - passes.noise).numpy()
        clean = self.clean(timestep)[positions]
        return (mean_square(clean) + mean_square(predicted - clean)).numpy()
