"""The budget of what runs the denoiser beside its captures: training, told images, patching, sampling, circuits. Ours.

Passes are counted from the settings, before anything is known of the images or of what heads turn out to do. Where that
decides, the count is the most that it can be (`at most`), or that of a circuit of half of the heads (`about`). What
only targets of their own run (`circuit`, `recognition.csv`) is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffmech.attention.planning import JOB_SECONDS, Estimate
from diffmech.circuits.curves import curve_sizes
from diffmech.config.root import Config
from diffmech.config.study import LABELLED
from diffmech.interventions.patching_study import IMAGES_ON_CPU
from diffmech.models.heldout import MOST_IMAGES

# A forward and a backward pass take as long as three forward ones: the backward one makes two products for each.
GRADIENT = 3


@dataclass(frozen=True)
class Facts:
    """What is known of the denoiser and of the data before the study runs.

    `images`: of each data set. `tellings`: how many things every image can be told; `branches`: passes of one sampling
    step with guidance; `rows`: of the gallery. `on_cpu` bounds the rows of a pass.
    """

    images: Sequence[int]
    heads: int
    sites: int
    tellings: int
    conditional: bool
    rows: int
    on_cpu: bool


@dataclass(frozen=True)
class Work:
    """One kind of jobs that run the denoiser, in rows of passes; `networks` are untrained ones that are made for it."""

    what: str
    jobs: int
    plain: int = 0
    observed: int = 0
    gradient: int = 0
    networks: int = 0
    disk: int = field(default=0)

    @property
    def passes(self) -> int:
        """All rows, of any kind."""
        return self.plain + self.observed + self.gradient

    def estimate(self, plain_seconds: float, pass_seconds: float, load_seconds: float) -> Estimate:
        """Return it as a row of the plan, from the seconds of a plain and of an observed pass."""
        running = (self.plain + GRADIENT * self.gradient) * plain_seconds + self.observed * pass_seconds
        seconds = self.jobs * JOB_SECONDS + running + self.networks * load_seconds
        return Estimate(self.what, self.jobs, self.disk, self.disk, seconds, seconds / max(1, self.jobs))


def plan_others(config: Config, facts: Facts) -> list[Work]:
    """Return all work beside captures, untrained twins and ablations, without what the study does not do."""
    work = [
        _training(config),
        _generated(config, facts),
        _heldout(config, facts),
        _gallery(config, facts),
        _told(config, facts),
        _patching(config, facts),
        _resampling(config, facts),
        _discovery(config, facts),
        _planted(config, facts),
    ]
    return [each for each in work if each.passes]


def _training(config: Config) -> Work:
    training = config.model.training
    passes = training.steps * training.batch_size if config.model.source == "train" else 0
    return Work("training", 1, gradient=passes)


def _generated(config: Config, facts: Facts) -> Work:
    """Images of a pipeline, which are those that are studied."""
    if config.model.source != "pipeline":
        return Work("generated images", 0)
    images = sum(facts.images)
    jobs = len(facts.images) * math.ceil(config.capture.samples / config.capture.shard_size)
    passes = images * config.sampling.steps * _branches(facts, config.sampling.guidance)
    return Work("generated images", jobs, passes)


def _heldout(config: Config, facts: Facts) -> Work:
    """The loss of the denoiser, which of a pipeline nobody knows."""
    known = config.model.source != "pipeline"
    images = sum(min(count, MOST_IMAGES) for count in facts.images) if known else 0
    return Work("denoising loss", 1, images * len(config.capture.timesteps))


def _gallery(config: Config, facts: Facts) -> Work:
    images = facts.rows * config.sampling.count
    return Work("gallery", 1, images * config.sampling.steps * _branches(facts, config.sampling.guidance))


def _told(config: Config, facts: Facts) -> Work:
    """Every image under each telling, and some of them by untrained twins too."""
    told, steps = config.told, len(config.told_timesteps)
    if not config.keeps_telling_apart:
        return Work("told images", 0)
    own = [min(told.samples, count) for count in facts.images]
    twins = [
        min(told.untrained_samples, count) + (facts.tellings - 1) * min(told.untrained_told, count) for count in own
    ]
    passes = facts.tellings * sum(own) + config.untrained.seeds * sum(twins)
    return Work("told images", len(own), observed=passes * steps, networks=len(own) * config.untrained.seeds)


def _patching(config: Config, facts: Facts) -> Work:
    """Both passes of a pair, and a patched one for every target, dose and direction, in batches that are filled up."""
    patching, steps = config.patching, len(config.patching_timesteps)
    targets = {"heads": facts.heads, "layers": facts.sites}
    count, further = sum(targets[group] for group in patching.groups), len(patching.doses) - 1
    at_once = min(config.runtime.batch_size, IMAGES_ON_CPU) if facts.on_cpu else config.runtime.batch_size
    passes = 0
    for source in config.patching_sources:
        for there in facts.images:
            pairs = min(patching.samples, there // 2 if source == "sample" else there)
            passes += _patched(pairs, count, 1, len(patching.directions), at_once)
            if further > 0:
                chosen = min(patching.dose_targets or count, count)
                passes += _patched(pairs, chosen, further, len(patching.directions), at_once)
    jobs = len(config.patching_sources) * len(facts.images)
    return Work("patching, at most", jobs, passes * steps)


def _patched(pairs: int, targets: int, doses: int, directions: int, at_once: int) -> int:
    """Return the rows of one timestep."""
    rows = 0
    for start in range(0, pairs, at_once):
        count = min(at_once, pairs - start)
        size = min(at_once, max(count * targets * doses, count))
        rows += 2 * size + directions * (size + math.ceil(count * targets * doses / size) * size)
    return rows


def _resampling(config: Config, facts: Facts) -> Work:
    """Clean images, those that give the means, and one image per removal and seed, in batches that are filled up."""
    settings = config.resampling
    domains = _resampled(config)
    steps = settings.steps or config.sampling.steps
    guidance = config.sampling.guidance if settings.guidance is None else settings.guidance
    clusters = config.mechanisms.clusters + config.mechanisms.cross_clusters
    windows = settings.windows
    cuts = 0 if windows is None else config.mechanisms.phases.maximum if isinstance(windows, str) else len(windows)
    removals = clusters * (1 + settings.controls + cuts)
    averaged = settings.mean_images if settings.method == "mean" else 0
    others = math.ceil((settings.reference or settings.images) / settings.parts)
    clean = averaged + settings.images + others  # in every part
    replaced = math.ceil(removals / settings.parts) * settings.images
    size = max(1, min(config.runtime.batch_size, max(clean, replaced)))
    rows = domains * settings.parts * size * (math.ceil(clean / size) + math.ceil(replaced / size))
    return Work("sampling again, at most", domains * settings.parts, rows * steps * _branches(facts, guidance))


def _resampled(config: Config) -> int:
    if config.model.source == "planted":
        return 0
    if config.resampling.domains is not None:
        return len(config.resampling.domains)
    return 2 if config.model.source == "pipeline" else len([LABELLED])


def _discovery(config: Config, facts: Facts) -> Work:
    """Sets of heads that are kept, on the half of the images that chooses and on the half that tests."""
    settings, steps, heads = config.discovery, len(config.discovery_timesteps), facts.heads
    circuit = max(1, heads // 2)
    subsets = 1 + settings.greedy_heads + 2 * settings.subset_orders
    if settings.search == "greedy":
        searching = heads * (heads + 1) // 2
    else:
        searching = 2 * math.ceil(math.log2(heads + 1)) + 2 * circuit
    greedy = sum(2 * (circuit - taken) for taken in range(settings.greedy_heads))
    choosing = 2 + searching + greedy + 2 * subsets + 2 * circuit * (1 + settings.subset_orders)
    orders = (1 if settings.ranking == "attribution" else 2) + settings.random_orders
    testing = 2 + 4 + settings.random_circuits + 3 + circuit + 2 * subsets + 2 * circuit
    testing += 2 + orders * len(curve_sizes(heads))
    senders = min(settings.graph_heads, circuit)
    testing += 2 + senders * (2 + senders)
    slopes = 1 + config.circuit.steps * (facts.sites if config.circuit.path == "site" else 1)
    plain = gradient = 0
    for there in facts.images:
        count = min(config.discovery_samples, there)
        first, second = count - count // 2, count // 2
        plain += steps * (first * choosing + second * testing)
        gradient += steps * first * slopes
    return Work("circuits, about", len(facts.images), plain, gradient=gradient)


def _planted(config: Config, facts: Facts) -> Work:
    """Every pair of planted heads, and every head of untrained twins."""
    if config.model.source != "planted":
        return Work("planted heads", 0)
    steps, pairs = len(config.ablation_timesteps), math.comb(facts.heads, 2)
    passes = twins = 0
    for there in facts.images:
        passes += min(config.ablation.pair_samples, there) * (1 + facts.heads + pairs)
        twins += config.untrained.seeds * min(config.untrained.samples, there) * (1 + facts.heads)
    return Work("planted heads", 1, (passes + twins) * steps, networks=config.untrained.seeds)


def _branches(facts: Facts, guidance: float) -> int:
    return 2 if facts.conditional and guidance != 1 else 1
