"""The jobs that score the weights of one concept, and that check its scores."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from diffmech.artifacts import provenance
from diffmech.batches import in_smaller_batches
from diffmech.concepts.asking import check_told, condition
from diffmech.concepts.fidelity import ORDERS, fidelity, pearson
from diffmech.concepts.gradients import Gradients, gradients, write_gradients
from diffmech.concepts.groups import Weight, module_of, weights
from diffmech.concepts.objectives import Points, amplify_points, erase_points, input_norms
from diffmech.concepts.tables import FIDELITY, MAP
from diffmech.concepts.trajectories import Trajectories, sample_trajectories
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.concepts import AttributionConfig, FidelityConfig, Group, NamedConcept, Objective
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser


class Subject:
    """One concept of one denoiser: its trajectories, and the points of each objective on them."""

    def __init__(
        self,
        denoiser: Denoiser,
        concept: NamedConcept,
        attribution: AttributionConfig,
        runtime: RuntimeConfig,
        *,
        samples: int | None = None,
    ) -> None:
        """Sample the trajectories. Raises ConfigError or ModelError for a concept that the denoiser is not told."""
        self.denoiser, self.concept, self.attribution, self.runtime = denoiser, concept, attribution, runtime
        check_told(denoiser, concept)
        self.samples = samples or attribution.samples
        self.trajectories = sample_trajectories(
            denoiser,
            self._told("asked"),
            steps=attribution.steps,
            guidance=attribution.guidance,
            seed=attribution.seed,
            runtime=runtime,
        )

    def points(self, objective: Objective, trajectories: Trajectories | None = None) -> Points:
        """Return the points of an objective, on all or on some of the trajectories' points."""
        chosen = trajectories or self.trajectories
        if objective == "erase":
            asked, base = self._told("asked"), self._told("base")
            return erase_points(self.denoiser, chosen, asked, base, batch_size=self.runtime.batch_size)
        return amplify_points(self.denoiser, chosen, self._told("weak"), seed=self.attribution.seed)

    def _told(self, way: Any) -> Any:
        return condition(self.denoiser, self.concept, way, self.samples, self.attribution.seed)


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
    `Subject` does.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    among = weights(denoiser, groups)
    subject = Subject(denoiser, concept, attribution, runtime)
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
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    subject = Subject(denoiser, concept, attribution, runtime, samples=check.samples)
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
