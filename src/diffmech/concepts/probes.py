"""Is a concept destroyed or avoided? Ways to look for it in an edited denoiser without training that denoiser.

After "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025, arXiv 2505.17013): where an edit
destroys a concept, none of them brings it back; where the denoiser only avoids it, some do.

- completion: the unedited denoiser does the first steps, the edited one finishes (diffusion completion, there after 5
  and 10 of 50 steps); beside the last hand-over, a random edit of as many weights finishes.
- noise: fresh noise at every step of sampling, eta up to 1.85 (noise-based probe, there the best of several variants of
  an image is taken, here each eta is told by itself); beside it, the unedited denoiser with the same noise.
- inversion: a token is looked for that brings the concept back (`concepts.inversion`); beside it, a token that was
  looked for in the same way on images without the concept.

All of them are of the seeds of the evaluation and compared with the edit by itself; the random edit is the first of its
evaluation. How much comes back, and what is made of it, is ours (`concepts.recovery`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import provenance, write_store
from diffmech.batches import in_smaller_batches
from diffmech.concepts.asking import open_asking
from diffmech.concepts.baselines import baseline
from diffmech.concepts.edits import CONTROL, ORIGINAL, OWN, RANDOM, TEXT, Way
from diffmech.concepts.gradients import Gradients
from diffmech.concepts.inversion import inverted_token, with_token
from diffmech.concepts.masks import Mask, applied, edited_weights, read_mask
from diffmech.concepts.ways import Conditioned
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.concept_probes import ProbesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.studies.concepts import EvaluationConfig, Granularity, NamedConcept
from diffmech.judging.panel import open_panel
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import checked, cut_steps, initial_noise, steps_from

COMPLETION, NOISE, INVERSION = "completion", "noise", "inversion"


@dataclass(frozen=True)
class Probed:
    """Images `(image, channel, y, x)` of one edit under one probe; `setting` is a share of steps, eta, or steps."""

    probe: str
    setting: float
    edit: str
    images: Tensor


class Stepper:
    """Steps the images of one concept through some of the steps of an evaluation."""

    def __init__(self, asking: Conditioned, evaluation: EvaluationConfig, runtime: RuntimeConfig) -> None:
        """Take the concept and its denoiser."""
        self.asking, self.denoiser, self.evaluation, self.runtime = asking, asking.denoiser, evaluation, runtime

    def told(self, way: Way, *, count: int | None = None, seed: int | None = None) -> Condition:
        """Return the condition of the images of the evaluation, or of `count` others of another seed."""
        count, seed = count or self.evaluation.seeds, self.evaluation.seed if seed is None else seed
        return self.asking.shown(way, count, seed)

    def noise(self, count: int | None = None, seed: int | None = None) -> Tensor:
        """Return the noise that these images start from."""
        count, seed = count or self.evaluation.seeds, self.evaluation.seed if seed is None else seed
        return initial_noise(seed, range(count), self.denoiser.sample_shape)

    def run(
        self, x_t: Tensor, which: range, told: Condition, *, eta: float = 0.0, denoiser: Denoiser | None = None
    ) -> Tensor:
        """Return what `x_t` is after the steps `which` of the evaluation, of the denoiser as it is now."""
        with channels_last(self.denoiser.module):
            return steps_from(
                denoiser or self.denoiser,
                told,
                x_t,
                which,
                steps=self.evaluation.steps,
                guidance=self.evaluation.guidance,
                runtime=self.runtime,
                eta=eta,
                seed=self.evaluation.seed,
            )


def completion(stepper: Stepper, own: Mask, random: Mask, shares: list[float]) -> list[Probed]:
    """Return the images that edited denoisers finish, from each hand-over on, most noise first."""
    steps, told = stepper.evaluation.steps, stepper.told("asked")
    found, x_t, before = [], stepper.noise(), 0
    realised = sorted({min(max(round(share * steps), 1), steps) for share in shares})
    for after in realised:
        x_t, before = stepper.run(x_t, range(before, after), told), after
        # most of an image is there at the last of them: if a random edit loses it, that is damage
        for edit, mask in ((OWN, own), (RANDOM, random))[: 2 if after == realised[-1] else 1]:
            with applied(stepper.denoiser, mask):
                images = stepper.run(x_t, range(after, steps), told)
            found.append(Probed(COMPLETION, after / steps, edit, images))
    return found


def extra_noise(stepper: Stepper, own: Mask, etas: list[float]) -> list[Probed]:
    """Return images with fresh noise in every step, of the edited and of the unedited denoiser."""
    every, told, found = range(stepper.evaluation.steps), stepper.told("asked"), []
    for eta in etas:
        with applied(stepper.denoiser, own):
            found.append(Probed(NOISE, eta, OWN, stepper.run(stepper.noise(), every, told, eta=eta)))
        found.append(Probed(NOISE, eta, ORIGINAL, stepper.run(stepper.noise(), every, told, eta=eta)))
    return found


def inversion(stepper: Stepper, own: Mask, probes: ProbesConfig, seed: int) -> list[Probed]:
    """Return images of the edited denoiser, told by a token that was looked for on images of the concept, and by one
    that was looked for on images without it; both are of `seed`, which is not that of the evaluation."""
    search, denoiser = probes.inversion, stepper.denoiser
    if search is None or denoiser.tokens is None:
        return []
    every, found = range(stepper.evaluation.steps), []
    number, asked = denoiser.attributes.index(stepper.asking.attribute), stepper.told("asked")
    ways: dict[str, Way] = {OWN: "asked", CONTROL: "base"}
    for edit, way in ways.items():
        # the unedited denoiser shows what to look for; how it was told there is what the token has to say here
        images = stepper.run(
            stepper.noise(search.images, seed), every, stepper.told(way, count=search.images, seed=seed)
        ).clamp(-1, 1)
        with applied(denoiser, own):
            token = inverted_token(
                denoiser,
                number,
                images,
                stepper.told("asked", count=search.images, seed=seed),
                value=float(asked.values[0, number]),
                steps=search.steps,
                rate=search.rate,
                batch=search.batch,
                seed=seed,
            )
            told = with_token(denoiser, number, token)
            found.append(
                Probed(INVERSION, search.steps, edit, stepper.run(stepper.noise(), every, asked, denoiser=told))
            )
    return found


@in_smaller_batches
def probe_concept(
    model_json: Path | str,
    mask: Path | str,
    judge: Path | str | None,
    output: Path | str,
    *,
    concept: NamedConcept,
    evaluation: EvaluationConfig,
    probes: ProbesConfig,
    judges: JudgesConfig,
    seed: int,
    runtime: RuntimeConfig,
    root: Path | str = ".",
) -> None:
    """Write the store of all images that probe one edit; `seed` is that of the images that a token is looked for on.

    `absent` among its attributes names what could not be probed, and why.
    """
    asking = open_asking(model_json, concept, device=runtime.device)
    denoiser = asking.denoiser
    panel = open_panel(judges, judge, device=runtime.device, section="concepts.judges", root=root)
    own, found, absent, cut = read_mask(mask), [], [], {}
    if isinstance(asking, Conditioned):
        stepper = Stepper(asking, evaluation, runtime)
        found += completion(stepper, own, random_edit(denoiser, own, evaluation.seed), probes.completion)
        found += extra_noise(stepper, own, probes.eta)
        found += inversion(stepper, own, probes, seed)
        cut = {f"{eta:g}": cut_steps(denoiser, eta, evaluation.steps) for eta in probes.eta}
    else:
        absent.append("all of them: the denoiser is that of a pipeline, which samples by itself")
    if not absent and probes.inversion is not None and denoiser.tokens is None:
        absent.append("inversion: the denoiser has no conditioning tokens, so that none can be looked for")
    images = [checked(each.images, evaluation.steps).clamp(-1, 1) for each in found]
    pixels = torch.stack(images).numpy() if found else np.empty((0, evaluation.seeds, *denoiser.sample_shape))
    seen = np.empty((0, evaluation.seeds, len(panel.attributes)))
    store = xr.Dataset(
        {
            "images": (
                ("set", "image", "channel", "y", "x"),
                pixels.astype(np.float32),
                {"units": "1", "long_name": "generated image, -1 black to 1 white"},
            ),
            "seen": (
                ("set", "image", "attribute"),
                (np.stack([panel.probabilities(each) for each in images]) if found else seen).astype(np.float32),
                {"units": "1", "long_name": "probability that the judge gives"},
            ),
        },
        coords={
            "probe": ("set", np.array([each.probe for each in found], dtype=TEXT)),
            "setting": ("set", np.array([each.setting for each in found])),
            "edit": ("set", np.array([each.edit for each in found], dtype=TEXT)),
            "attribute": np.array(panel.attributes, dtype=TEXT),
            "image": np.arange(evaluation.seeds),
        },
        attrs={
            **{name: own.about[name] for name in ("concept", "attribute", "objective", "dose", "count")},
            "absent": absent,
            "steps": evaluation.steps,
            "cut": cut,
            "provenance": provenance(rule="probe_concept", probes=probes.canonical()),
        },
    )
    write_store(output, store)


def random_edit(denoiser: Denoiser, own: Mask, seed: int, *, matrix: bool = False, draw: int = 0) -> Mask:
    """Return an edit of as many weights at random in each unit of the granularity of `own`, or in each `matrix`."""
    among, about = edited_weights(denoiser, own), own.about["edit"]
    granularity: Granularity = "matrix" if matrix else about["granularity"]
    chosen = baseline("random", own.indices, among, Gradients({}), granularity=granularity, seed=seed, draw=draw)
    return Mask.of(chosen, about["factor"])
