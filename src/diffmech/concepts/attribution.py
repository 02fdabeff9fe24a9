"""The jobs that score the weights of one concept, and that check its scores."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from diffmech.artifacts import provenance
from diffmech.batches import in_smaller_batches
from diffmech.concepts.asking import open_asking
from diffmech.concepts.edits import Way
from diffmech.concepts.fidelity import ORDERS, fidelity, pearson
from diffmech.concepts.gradients import Gradients, gradients, write_gradients
from diffmech.concepts.groups import Weight, module_of, weights
from diffmech.concepts.objectives import Points, amplify_points, erase_points, input_norms
from diffmech.concepts.tables import FIDELITY, MAP
from diffmech.concepts.trajectories import Trajectories
from diffmech.concepts.ways import Asking
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.concepts import AttributionConfig, FidelityConfig, Group, NamedConcept, Objective
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Conditioning


class Subject:
    """One concept of one denoiser: its trajectories, and the points of each objective on them."""

    def __init__(
        self,
        asking: Asking,
        attribution: AttributionConfig,
        runtime: RuntimeConfig,
        *,
        samples: int | None = None,
    ) -> None:
        """Sample the trajectories."""
        self.asking, self.attribution, self.runtime = asking, attribution, runtime
        self.samples = samples or attribution.samples
        self.trajectories = asking.trajectories(
            self.samples,
            steps=attribution.steps,
            guidance=attribution.guidance,
            seed=attribution.seed,
            runtime=runtime,
        )

    def points(self, objective: Objective, trajectories: Trajectories | None = None) -> Points:
        """Return the points of an objective, on all or on some of the trajectories' points."""
        chosen = trajectories or self.trajectories
        denoiser, seed = self.asking.denoiser, self.attribution.seed

        def told(way: Way) -> tuple[Conditioning, ...]:
            return self.asking.conditions(way, self.samples, seed, chosen.timesteps)

        if objective == "erase":
            return erase_points(denoiser, chosen, told("asked"), told("base"), batch_size=self.runtime.batch_size)
        return amplify_points(chosen, told("weak"), self.asking.noised, seed=seed)


@in_smaller_batches
def attribute_concept(
    model_json: Path | str,
    outputs: Mapping[Objective, Sequence[str]],
    map_csv: Path | str,
    *,
    concept: NamedConcept,
    groups: Sequence[Group] | None,
    attribution: AttributionConfig,
    curvature: bool,
    runtime: RuntimeConfig,
) -> None:
    """Write the gradients of each objective and window of timesteps, and the table of sums of their scores.

    `outputs` are the files of each objective, one per window, most noise first. Gradients are parts of the mean over
    all points, so that those of the windows add up. Raises ModelError for a group that the denoiser lacks, and as
    `open_asking` does.
    """
    asking = open_asking(model_json, concept, device=runtime.device)
    denoiser = asking.denoiser
    among = weights(denoiser, groups)
    subject = Subject(asking, attribution, runtime)
    modules = {weight.name: module_of(denoiser, weight.name) for weight in among}
    rows: list[dict[str, object]] = []
    for objective, files in outputs.items():
        for window, (file, steps) in enumerate(zip(files, windows(attribution.steps, len(files)), strict=True)):
            part, base_inputs = _points_and_base(subject, modules, objective, steps)
            found = gradients(
                denoiser,
                part,
                among,
                batch_size=runtime.batch_size,
                total=attribution.steps * attribution.samples,
                curvature=curvature,
                seed=attribution.seed + window,
                show=runtime.progress,
            )
            found.base_inputs.update(base_inputs)
            about = {
                "concept": concept.name,
                "objective": objective,
                "window": window,
                "timesteps": part.timesteps,
                "provenance": provenance(rule="attribute_concept", attribution=attribution.canonical()),
            }
            write_gradients(found, file, about)
            rows += [
                {
                    "concept": concept.name,
                    "objective": objective,
                    "window": window,
                    "first_timestep": part.timesteps[0],
                    "last_timestep": part.timesteps[-1],
                    "guided_steps": subject.trajectories.guided_steps,
                    **sums,
                }
                for sums in map_rows(found, among)
            ]
    MAP.write(map_csv, MAP.frame(rows))


def windows(steps: int, count: int) -> list[list[int]]:
    """Return the steps of each of `count` windows of equal length. Raises ConfigError for more windows than steps."""
    if count > steps:
        raise ConfigError(f"concepts.attribution.windows: {count} are more than its {steps} steps; give less")
    return [part.tolist() for part in np.array_split(np.arange(steps), count)]


def map_rows(found: Gradients, among: Sequence[Weight]) -> Iterator[dict[str, object]]:
    """Yield the sums of positive and of negative scores of each tensor."""
    for weight in among:
        score = found.scores([weight], "first")[weight.name].double()
        yield {
            "weight": weight.name,
            "group": weight.group,
            "weights": weight.parameter.numel(),
            "positive": float(score.clamp(min=0).sum()),
            "negative": float(score.clamp(max=0).sum()),
        }


def _points_and_base(
    subject: Subject, modules: dict[str, nn.Module], objective: Objective, steps: list[int]
) -> tuple[Points, dict[str, Tensor]]:
    """Return the points of some steps, and the squared inputs of layers where the concept is not asked for."""
    squares: dict[str, Tensor] = {}
    with input_norms(modules, squares):
        points = subject.points(objective, subject.trajectories.of(steps, subject.samples))
    return points, squares


@in_smaller_batches
def concept_fidelity(
    model_json: Path | str,
    output_csv: Path | str,
    *,
    concept: NamedConcept,
    groups: Mapping[Objective, Sequence[Group]],
    attribution: AttributionConfig,
    check: FidelityConfig,
    draws: int,
    confidence: float,
    runtime: RuntimeConfig,
) -> None:
    """Write whether scores predict the fall of each objective where random sets of weights of its groups are 0."""
    asking = open_asking(model_json, concept, device=runtime.device)
    denoiser = asking.denoiser
    subject = Subject(asking, attribution, runtime, samples=check.samples)
    count = min(check.timesteps, attribution.steps)
    spread = np.linspace(0, attribution.steps - 1, count).round().astype(int).tolist()
    some = subject.trajectories.of(spread, check.samples)
    rows = []
    for objective, edited in groups.items():
        found = fidelity(
            denoiser,
            subject.points(objective, some),
            weights(denoiser, edited),
            masks=check.masks,
            count=check.weights,
            seed=attribution.seed,
            batch_size=runtime.batch_size,
            show=runtime.progress,
        )
        for order in ORDERS:
            settings = {"draws": draws, "confidence": confidence, "seed": attribution.seed}
            r = pearson(found.predicted[order], found.actual, **settings)  # type: ignore[arg-type]
            means = (found.actual.mean(), found.predicted[order].mean(), found.intact)
            rows.append((concept.name, objective, order, r.estimate, r.low, r.high, *means, check.masks, check.weights))
    FIDELITY.write(output_csv, FIDELITY.frame(rows))
