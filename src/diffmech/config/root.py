"""The whole study, and the checks that need more than one section."""

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, model_validator

from diffmech.config.analysis import (
    AblationConfig,
    ComplexityConfig,
    EntropyConfig,
    MechanismsConfig,
    ReportConfig,
    RuntimeConfig,
)
from diffmech.config.circuit import CircuitConfig, DiscoveryConfig
from diffmech.config.further import further_fields
from diffmech.config.images import AUTO, AnyDataset, ImagesConfig, Moments
from diffmech.config.models import DenoiserConfig, RecognitionConfig, SamplingConfig
from diffmech.config.patching import PatchingConfig, Windows, attribute_of, check_windows
from diffmech.config.resampling import ResamplingConfig
from diffmech.config.section import Section
from diffmech.config.study import (
    DEFAULT_DOMAINS,
    CaptureConfig,
    LatentsConfig,
    StudyConfig,
    ToldConfig,
    UntrainedConfig,
)
from diffmech.statistics.halves import FEWEST, finding

# Sources of denoisers that the workflow, or whoever bundled them, trained on matched images, or that no image trained.
MATCHED_SOURCES = ("bundled", "train", "untrained")


class CommonConfig(Section):
    """config.yaml without further studies."""

    study: StudyConfig = Field(description="What is compared.")
    images: ImagesConfig = Field(ImagesConfig(), description="The form in which every image is studied.")
    datasets: dict[str, AnyDataset] = Field(description="Named sets of images.")
    models: dict[str, DenoiserConfig] = Field(description="Named denoisers.")
    sampling: SamplingConfig = Field(SamplingConfig(), description="Images generated to show what the model learned.")
    recognition: RecognitionConfig = Field(RecognitionConfig(), description="Do samples show their attributes?")
    latents: LatentsConfig = Field(LatentsConfig(), description="The noised images.")
    capture: CaptureConfig = Field(CaptureConfig(), description="Which passes are observed.")
    untrained: UntrainedConfig = Field(UntrainedConfig(), description="The untrained null.")
    told: ToldConfig = Field(ToldConfig(), description="Images told to be of either domain, and nothing.")
    entropy: EntropyConfig = Field(EntropyConfig(), description="Attention entropy and divergence.")
    mechanisms: MechanismsConfig = Field(MechanismsConfig(), description="Features, clusters and labels of heads.")
    ablation: AblationConfig = Field(AblationConfig(), description="Ablations and their controls.")
    circuit: CircuitConfig = Field(CircuitConfig(), description="Attribution patching of the heads.")
    discovery: DiscoveryConfig = Field(DiscoveryConfig(), description="The circuit of each domain.")
    patching: PatchingConfig = Field(PatchingConfig(), description="Activation patching between two inputs.")
    resampling: ResamplingConfig = Field(ResamplingConfig(), description="What removed heads do to whole images.")
    complexity: ComplexityConfig = Field(ComplexityConfig(), description="Circuit complexity.")
    report: ReportConfig = Field(ReportConfig(), description="The page at the end.")
    runtime: RuntimeConfig = Field(RuntimeConfig(), description="Performance only; never recomputes anything.")

    @model_validator(mode="before")
    @classmethod
    def _match_as_in_training(cls, raw: Any) -> Any:
        """Decide on `images.match: auto`: a denoiser from elsewhere gets its images unshifted."""
        images = raw.get("images", {}) if isinstance(raw, dict) else None
        if not isinstance(images, dict) or images.get("match", AUTO) != AUTO:
            return raw
        try:
            source = raw["models"][raw["study"]["model"]]["source"]
        except (KeyError, TypeError):
            return raw  # the mistake is told below
        match = Moments().canonical() if source in MATCHED_SOURCES else None
        return {**raw, "images": {**images, "match": match}}

    @model_validator(mode="before")
    @classmethod
    def _shares_of_own_domains(cls, raw: Any) -> Any:
        """Give domains of other names equal shares of a training whose file gives none."""
        try:
            study, models = raw["study"], raw["models"]
            model = models[study["model"]]
            training = dict(model.get("training") or {})
            domains = StudyConfig.model_validate(study).domains
        except (KeyError, TypeError, AttributeError, ValueError):
            return raw  # the mistake is told below
        own = model.get("source") in ("train", "untrained") and set(domains) != set(DEFAULT_DOMAINS)
        if not own or "domain_shares" in training:
            return raw
        training["domain_shares"] = dict.fromkeys(domains, 1 / len(domains))
        return {**raw, "models": {**models, study["model"]: {**model, "training": training}}}

    @model_validator(mode="after")
    def _names_exist(self) -> "CommonConfig":
        if self.study.model not in self.models:
            raise ValueError(f"study.model: {self.study.model!r} is not in models, which has {sorted(self.models)}")
        for domain, dataset in self.study.domains.items():
            if dataset not in self.datasets:
                raise ValueError(
                    f"study.domains.{domain}: {dataset!r} is not in datasets, which has {sorted(self.datasets)}"
                )
        model = self.models[self.study.model]
        for domain, dataset in self.study.domains.items():
            prompted = self.datasets[dataset].kind == "prompts"
            if prompted != (model.source == "pipeline"):
                wanted = (
                    "of kind prompts, since its images are generated" if model.source == "pipeline" else "of images"
                )
                raise ValueError(
                    f"study.domains.{domain}: {dataset!r} is of kind {self.datasets[dataset].kind}, but "
                    f"models.{self.study.model} is of source {model.source} and needs data sets {wanted}"
                )
        if model.source == "pipeline" and self.images.channels != 3:
            raise ValueError("images.channels: a pipeline generates RGB images; set channels to 3")
        if self.latents.kind == "trajectory" and model.source != "pipeline":
            raise ValueError(
                "latents.kind: 'trajectory' needs a model of source pipeline, which generates its images; give 'noised'"
            )
        if model.source == "train":
            for domain in model.training.domain_shares:
                if domain not in self.study.domains:
                    raise ValueError(
                        f"models.{self.study.model}.training.domain_shares: {domain!r} is not a domain of the study, "
                        f"which has {sorted(self.study.domains)}"
                    )
        return self

    @model_validator(mode="after")
    def _unseen_on_record(self) -> "CommonConfig":
        if self.capture.images == "unseen":
            name, model = self.study.model, self.model
            if model.source not in ("train", "bundled", "diffusers"):
                raise ValueError(
                    f"capture.images: 'unseen' needs a record of what models.{name} was trained on, and of source "
                    f"{model.source} there is none; give all"
                )
            if model.source == "train" and model.training.holdout == 0:
                raise ValueError(
                    f"capture.images: 'unseen' needs images that were kept out of training, but "
                    f"models.{name}.training.holdout is 0; give it 2 or more, or give all"
                )
        return self

    @model_validator(mode="after")
    def _timesteps_fit(self) -> "CommonConfig":
        # The schedule of a foreign model is only known once it is loaded; latents check it then.
        if (steps := self._schedule()) is not None:
            for index, timestep in enumerate(self.capture.timesteps):
                if timestep >= steps:
                    raise ValueError(
                        f"capture.timesteps[{index}]: {timestep} is not below the scheduler's {steps} steps"
                    )
        for index, timestep in enumerate(self.ablation.timesteps or []):
            if timestep not in self.capture.timesteps:
                raise ValueError(
                    f"ablation.timesteps[{index}]: {timestep} is not in capture.timesteps {self.capture.timesteps}"
                )
        for name in ("maps_of", "factors_of"):
            for index, timestep in enumerate(getattr(self.capture, name).timesteps or []):
                if timestep not in self.capture.timesteps:
                    raise ValueError(
                        f"capture.{name}.timesteps[{index}]: {timestep} is not in capture.timesteps "
                        f"{self.capture.timesteps}"
                    )
        if self.ablation.samples > self.capture.samples:
            raise ValueError(
                f"ablation.samples: {self.ablation.samples} is above capture.samples {self.capture.samples}"
            )
        if self.circuit_samples > self.capture.samples:
            raise ValueError(f"circuit.samples: {self.circuit_samples} is above capture.samples {self.capture.samples}")
        if self.circuit_method not in self.ablation.methods:
            raise ValueError(
                f"circuit.method: {self.circuit_method!r} is not in ablation.methods {self.ablation.methods}, "
                "which gives the exact effects"
            )
        self._check_references()
        most = min(self.capture.samples, self.capture.shard_size)
        if self.untrained.samples > most:
            raise ValueError(
                f"untrained.samples: {self.untrained.samples} is above capture.samples {self.capture.samples} "
                f"or capture.shard_size {self.capture.shard_size}; give at most {most}"
            )
        self._check_halves()
        return self

    @model_validator(mode="after")
    def _controls_can_tell(self) -> "CommonConfig":
        # `statistics.reach.draws_needed`, without what it imports
        needed, controls = math.ceil(1 / self.ablation.alpha - 1e-9) - 1, self.ablation.controls
        if "mechanisms" in self.ablation.groups and controls < needed:
            raise ValueError(
                f"ablation.controls: {controls} allow no p-value below {1 / (1 + controls):.2g}, so that nothing could "
                f"be told from them at ablation.alpha {self.ablation.alpha:g}; give at least {needed}"
            )
        return self

    @model_validator(mode="after")
    def _patching_fits(self) -> "CommonConfig":
        for index, timestep in enumerate(self.patching.timesteps or []):
            if timestep not in self.capture.timesteps:
                raise ValueError(
                    f"patching.timesteps[{index}]: {timestep} is not in capture.timesteps {self.capture.timesteps}"
                )
        for index, source in enumerate(self.patching.sources or []):
            if source != "sample" and (why := self._told_nothing()):
                what = "the domain" if attribute_of(source) is None else "attributes"
                raise ValueError(
                    f"patching.sources[{index}]: {source!r} needs a denoiser that is told {what}, but {why}; "
                    "give sample"
                )
        # On a trajectory the timesteps are the nearest sampling steps, which only the job knows.
        if self.latents.kind == "noised":
            for key, passes in (("ablation", self.ablation_timesteps), ("patching", self.patching_timesteps)):
                check_windows(getattr(self, key).windows, f"{key}.windows", passes, self._schedule())
        return self

    @model_validator(mode="after")
    def _resampling_fits(self) -> "CommonConfig":
        for index, domain in enumerate(self.resampling.domains or []):
            if domain not in self.study.domains:
                raise ValueError(
                    f"resampling.domains[{index}]: {domain!r} is not a domain of the study, which has "
                    f"{sorted(self.study.domains)}"
                )
        for index, name in enumerate(self.resampling.attributes or []):
            if name not in self.recognition.attributes:
                raise ValueError(
                    f"resampling.attributes[{index}]: {name!r} is not in recognition.attributes "
                    f"{self.recognition.attributes}, which the judge is trained on"
                )
        return self

    def _told_nothing(self) -> str:
        """Return why the studied denoiser is known to be told neither domain nor attributes, empty where it may be."""
        if self.model.source in ("pipeline", "planted"):
            how = "is conditioned on prompts" if self.model.source == "pipeline" else "has no condition"
            return f"models.{self.study.model} is of source {self.model.source} and {how}"
        return "latents.condition is null" if self.latents.condition == "null" else ""

    def _schedule(self) -> int | None:
        """Return the length of the schedule, None where it is only known once the model is loaded."""
        model = self.model
        if model.source in ("diffusers", "pipeline") or (
            model.source == "custom" and model.schedule.config is not None
        ):
            return None
        return (model.schedule if model.source == "custom" else model.architecture).timesteps

    @model_validator(mode="after")
    def _discovery_fits(self) -> "CommonConfig":
        if self.discovery_samples > self.capture.samples:
            raise ValueError(
                f"discovery.samples: {self.discovery_samples} is above capture.samples {self.capture.samples}"
            )
        return self

    def _check_references(self) -> None:
        """Raise ValueError unless there are reference images apart from all that are studied."""
        first, studied = self.reference_ids[0], self.studied_samples
        if first < studied:
            raise ValueError(
                f"ablation.first_reference: {first} is a studied image, of which there are {studied}; give at least "
                f"{studied}, or null"
            )
        if self.reference_ids[-1] >= self.capture.samples:
            wanted = self.ablation.reference_samples
            raise ValueError(
                f"capture.samples: {self.capture.samples} are too few for {wanted} reference images from number "
                f"{first} on, after {studied} that are studied; give at least {first + wanted}, or lower "
                "ablation.reference_samples or the samples of ablation, discovery, circuit or patching"
            )

    def _check_halves(self) -> None:
        """Raise ValueError unless there are images on which clusters are found, apart from those that test them."""
        left = sum(finding(range(self.capture.samples), self.tested_samples))
        if left < FEWEST:
            raise ValueError(
                f"capture.samples: {self.capture.samples} leave {left} images on which clusters of heads are found, "
                f"beside the first {self.tested_samples} on which they are tested (studied, of reference, or seen by "
                f"untrained copies); give at least {self.tested_samples + FEWEST}, or lower "
                "ablation.reference_samples, ablation.first_reference, untrained.samples or the samples of ablation, "
                "discovery, circuit or patching"
            )

    @property
    def tested_samples(self) -> int:
        """How many first images of each domain find no clusters: those studied, of reference, or seen by the twins."""
        return max(self.reference_ids[-1] + 1, self.untrained.samples)

    @property
    def studied_samples(self) -> int:
        """How many first images of each domain are ablated, attributed, patched or used to find and test a circuit."""
        # `sample` pairs every image with another one.
        patched = self.patching.samples * (2 if "sample" in self.patching_sources else 1)
        counts = [self.ablation.samples, self.circuit_samples, self.discovery_samples, patched]
        if self.model.source == "planted":  # whose pairs of heads are ablated, and whose untrained twins
            counts += [self.ablation.pair_samples, self.untrained.samples]
        return max(counts)

    @property
    def reference_ids(self) -> list[int]:
        """The images of each domain whose head outputs replace those of the studied ones: none is studied itself."""
        first = self.ablation.first_reference
        first = self.studied_samples if first is None else first
        return list(range(first, first + self.ablation.reference_samples))

    @property
    def model(self) -> DenoiserConfig:
        """The denoiser that is studied."""
        return self.models[self.study.model]

    @property
    def ablation_timesteps(self) -> list[int]:
        """The timesteps at which heads are ablated."""
        return sorted(self.ablation.timesteps or self.capture.timesteps)

    @property
    def keeps_telling_apart(self) -> bool:
        """Whether every image is also observed when told to be of either domain, and nothing.

        Not known of a denoiser that was not made here until it is loaded: it may read no condition.
        """
        # On a sampling trajectory the noised image itself depends on what was told.
        return self.latents.condition == "full" and self.latents.kind == "noised" and self.model.source != "planted"

    @property
    def circuit_method(self) -> str:
        """What replaces a head's output in attribution patching."""
        return self.circuit.method or self.ablation.methods[0]

    @property
    def circuit_samples(self) -> int:
        """The images per domain of attribution patching."""
        return self.circuit.samples or self.ablation.samples

    @property
    def discovery_samples(self) -> int:
        """The images per domain on which a circuit is chosen and tested."""
        return self.discovery.samples or self.ablation.samples

    @property
    def discovery_timesteps(self) -> list[int]:
        """The timesteps at which a circuit is sought."""
        return _spread(self.ablation_timesteps, self.discovery.timesteps)

    @property
    def told_timesteps(self) -> list[int]:
        """The timesteps at which images are told something else than what they are."""
        return _spread(sorted(self.capture.timesteps), self.told.timesteps)

    @property
    def patching_timesteps(self) -> list[int]:
        """The timesteps at which heads are patched."""
        return sorted(self.patching.timesteps or self.ablation_timesteps)

    @property
    def patching_sources(self) -> list[str]:
        """What the second pass of activation patching is."""
        if self.patching.sources is not None:
            return self.patching.sources
        own = self.model.source in ("bundled", "train", "untrained") and not self._told_nothing()
        told = own and set(self.study.domains) <= set(self.model.training.domain_shares)
        tokens = self.model.architecture.conditioning == "tokens"  # of classes it is not told the domain
        return ["domain"] if told and tokens else ["sample"]

    @property
    def patching_windows(self) -> Windows:
        """The windows of timesteps of activation patching."""
        return self.patching.windows or self.ablation.windows


if TYPE_CHECKING:

    class Config(CommonConfig):
        """config.yaml."""

else:
    Config = create_model(
        "Config",
        __base__=CommonConfig,
        __doc__="config.yaml.",
        __module__=__name__,
        **further_fields(CommonConfig.model_fields),
    )


def _spread(timesteps: list[int], count: int | None) -> list[int]:
    """Return `count` of the timesteps, spread evenly, or all."""
    count = min(count or len(timesteps), len(timesteps))
    return [timesteps[(2 * place + 1) * len(timesteps) // (2 * count)] for place in range(count)]
