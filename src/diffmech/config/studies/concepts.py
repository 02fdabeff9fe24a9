"""`concepts`: which weights carry or suppress a concept; what erasing and amplifying it does to everything else."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from diffmech.config.concept_probes import HeadsConfig, InsideConfig, ProbesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.section import Count, Inference, Section, Seed, StudySection

# The parts of a denoiser whose weights are scored. `diffmech.concepts.groups` says which modules each stands for.
Group = Literal[
    "feed_forward",
    "self_query",
    "self_key",
    "self_value",
    "self_out",
    "cross_query",
    "cross_key",
    "cross_value",
    "cross_out",
    "joint_query",
    "joint_key",
    "joint_value",
    "joint_out",
    "convolution",
    "norm",
    "conditioning",
    "embedding",
]
GROUPS: tuple[Group, ...] = get_args(Group)
Granularity = Literal["global", "matrix", "row", "head", "mechanism"]
Objective = Literal["erase", "amplify"]
Order = Literal["first", "second"]
Baseline = Literal["random", "random_rows", "magnitude", "gradient", "wanda", "uce"]
# Where none are named.
BASELINES: dict[Objective, tuple[Baseline, ...]] = {
    "erase": get_args(Baseline),
    "amplify": ("random", "random_rows"),
}
Value = Annotated[float, Field(ge=0, le=1)]
Dose = Annotated[float, Field(gt=0)]
Words = str | Annotated[list[str], Field(min_length=1)]


class AttributeConcept(Section):
    """A value of an attribute that a conditional denoiser is told. The kind where none is given."""

    kind: Literal["attribute"] = Field("attribute", description="An attribute that the denoiser is told.")
    attribute: str | None = Field(None, description="Name of the attribute; null = that of the concept.")
    value: Value = Field(1.0, description="The value that asks for the concept.")
    base: Value | None = Field(0.0, description="The value without it; null = nothing is said of the attribute.")
    weak: Value | None = Field(
        0.5, description="The value that asks weakly, for amplification; null = nothing is said of the attribute."
    )

    @model_validator(mode="after")
    def _differs(self) -> "AttributeConcept":
        if self.base == self.value:
            raise ValueError(f"base {self.base} is the value that asks for the concept; give another one or null")
        # a judge sees the attribute where its value is high
        for name in ("base", "weak"):
            given = getattr(self, name)
            if given is not None and given >= self.value:
                raise ValueError(f"{name} {given} has to be less than value {self.value}, which asks for the concept")
        return self

    def seen(self, name: str) -> str:
        """Return what a judge looks for, given the name of the concept."""
        return self.attribute or name


class ClassConcept(Section):
    """A class of a denoiser that is conditioned on classes."""

    kind: Literal["class"] = Field(description="A class that the denoiser is conditioned on.")
    label: str | None = Field(None, description="Name of the class; null = that of the concept.")
    base: str | None = Field(
        None,
        description="The class that stands for images without it in the erase objective; null = no class is told. What "
        "else an edit takes away is seen in images of all other classes in turn. Asked weakly, for amplification, the "
        "denoiser is told no class, so that guidance does nothing.",
    )

    @model_validator(mode="after")
    def _differs(self) -> "ClassConcept":
        if self.label is not None and self.base == self.label:
            raise ValueError(f"base {self.base!r} is the class that is the concept; give another one or null")
        return self

    def seen(self, name: str) -> str:
        """Return what a judge looks for, given the name of the concept."""
        return self.label or name


class PromptConcept(Section):
    """Words that a pipeline is asked for: an object, a style, anything; of a pipeline of classes, names or numbers."""

    kind: Literal["prompt"] = Field(description="Words, or classes, that a pipeline is asked for.")
    prompt: Words = Field(
        description="Prompt that asks for the concept, or several ones that images have in turn. Of a pipeline of "
        "classes (DiT) a name, or a number in quotes."
    )
    base: Words = Field(
        "",
        description='The same without it: one for all prompts, or one for each. Nothing ("") is the empty prompt, or '
        "no class.",
    )
    weak: Words | None = Field(
        None, description="What asks weakly, for amplification: one for all prompts, or one for each; null = `base`."
    )
    others: dict[str, Words] = Field(
        {},
        description="Prompts of images without the concept, in turn, by what the judge looks for in them: what else an "
        "edit takes away is seen there. Where there are none, these images have the base prompts, and it is not.",
    )
    negative: str = Field("", description="What the unconditional pass of guidance is given.")
    attribute: str | None = Field(None, description="What the judge looks for; null = the name of the concept.")

    @model_validator(mode="after")
    def _fits(self) -> "PromptConcept":
        for name in ("base", "weak"):
            count, asked = len(listed(getattr(self, name) or "")), len(listed(self.prompt))
            if count not in (1, asked):
                raise ValueError(f"{name} has {count} prompts beside {asked} in prompt; give one, or one for each")
        same = [asked for asked, base in zip(self.prompts("asked"), self.prompts("base"), strict=True) if asked == base]
        if same:
            raise ValueError(f"base {same[0]!r} is the prompt that asks for the concept; give one without it")
        return self

    def prompts(self, way: Literal["asked", "base", "weak"]) -> list[str]:
        """Return the prompts of one way of asking, as many as ask for the concept."""
        base = self.base if way == "base" or self.weak is None else self.weak
        found = listed(self.prompt if way == "asked" else base)
        return found * len(listed(self.prompt)) if len(found) == 1 else found

    def seen(self, name: str) -> str:
        """Return what a judge looks for, given the name of the concept."""
        return self.attribute or name


def listed(words: str | list[str]) -> list[str]:
    """Return one prompt or several ones as a list."""
    return [words] if isinstance(words, str) else words


def _attribute_by_default(value: Any) -> Any:
    return {"kind": "attribute", **value} if isinstance(value, Mapping) else value


AnyConcept = Annotated[
    Annotated[AttributeConcept | ClassConcept | PromptConcept, Field(discriminator="kind")],
    BeforeValidator(_attribute_by_default),
]


class NamedConcept(Section):
    """A concept as jobs get it: with its name."""

    name: str = Field(description="Its name in config.yaml.")
    concept: AnyConcept = Field(AttributeConcept.model_validate({}), description="What it is to the denoiser.")
    scheduler: str | None = Field(None, description="Sampler of a pipeline; null = its own.")


class AttributionConfig(Section):
    """Scores of weights, from trajectories that are asked for the concept."""

    samples: Count = Field(4, description="Trajectories per concept; the same ones for all timesteps and objectives.")
    steps: Count = Field(25, description="Steps of each trajectory; each is a point where gradients are taken.")
    guidance: Annotated[float, Field(ge=0)] = Field(3.0, description="Classifier-free guidance of the trajectories.")
    windows: Count = Field(3, description="Parts of the timesteps, of equal length, that scores are also told for.")
    seed: Seed = Field(100, description="Seed of the trajectories: other images than those of the evaluation.")


class FidelityConfig(Section):
    """Do scores predict? Predicted against actual change of the objective, over random sets of weights."""

    masks: Annotated[int, Field(ge=3)] = Field(200, description="Random sets of weights that are set to zero.")
    weights: Count = Field(800, description="Weights in each set, from the groups that are edited.")
    samples: Count = Field(1, description="Trajectories; predictions are made anew on these very points.")
    timesteps: Count = Field(2, description="Points of each trajectory, evenly spread.")
    objectives: Annotated[list[Objective], Field(min_length=1)] = Field(
        ["erase"], description="Objectives that are checked; amplify costs as much again."
    )


class EditConfig(Section):
    """Which weights an edit changes, and how far."""

    groups: Annotated[list[Group], Field(min_length=1)] = Field(
        ["feed_forward"], description="Groups whose weights compete with each other."
    )
    granularity: Granularity = Field(
        "global",
        description="What a dose counts in: all weights of the groups, each matrix, each row of a matrix (one output), "
        "each attention head, or all heads of each mechanism, which the main study then has to find first.",
    )
    doses: Annotated[list[Dose], Field(min_length=1)] = Field(
        [800, 3000],
        description="How many weights are changed: below 1 a share of each unit of the granularity, rounded down, from "
        "1 on a number of each. Only weights whose score is not negative are.",
    )
    compared: list[Dose] | None = Field(
        [3000.0],
        description="Doses at which edits of equally many other weights are sampled too, several times as many images; "
        "nothing is found at others. null = all.",
    )
    baselines: list[Baseline] | None = Field(
        None,
        description="Edits of equally many weights: at random, at random in the same rows, largest weights, largest "
        "gradients, largest weights times activations (Wanda); and for erasing the closed-form edit of cross-attention "
        "values (UCE), where there are such, which changes them all. null = all for erasing, random ones to amplify.",
    )
    random_draws: Count = Field(2, description="Random sets of weights behind each random baseline.")
    order: Order = Field(
        "first", description="`first`: w dJ/dw. `second`: that less half of the squared weight times the curvature."
    )
    factor: Annotated[float, Field(ge=0)] = Field(0.0, description="What each is multiplied by; 0 knocks it out.")

    @model_validator(mode="after")
    def _doses_count(self) -> "EditConfig":
        if odd := [dose for dose in self.doses if dose >= 1 and dose != int(dose)]:
            raise ValueError(f"doses: {odd[0]:g} is no whole number; below 1 it is a share, from 1 on a number")
        if len(set(self.doses)) != len(self.doses):
            raise ValueError(f"doses must differ, found {self.doses}")
        if odd := [dose for dose in self.compared or () if dose not in self.doses]:
            raise ValueError(f"compared: {odd[0]:g} is not among doses; name some of these, or null for all")
        if self.factor == 1:
            raise ValueError("factor 1 changes nothing; give 0 to knock weights out, or another number")
        return self


class EvaluationConfig(Inference):
    """What an edit does to images of the same seeds."""

    seeds: Annotated[int, Field(ge=2)] = Field(15, description="Seeds (images), the unit of all intervals.")
    steps: Count = Field(6, description="Sampling steps.")
    guidance: Annotated[float, Field(ge=0)] = Field(3.0, description="Classifier-free guidance.")
    seed: Seed = Field(200, description="Seed of these images, which no score and no choice has seen.")
    examples: Count = Field(6, description="Seeds whose images the page shows.")


class ConceptsStudy(StudySection):
    """Which weights carry or suppress a concept, and what becomes of images without them."""

    title: ClassVar[str] = "Which weights carry a concept"

    concepts: Annotated[dict[str, AnyConcept], Field(min_length=1)] = Field(
        {name: AttributeConcept.model_validate({}) for name in ("glasses", "hat", "beard", "smile")},
        description="Concepts by name.",
    )
    groups: Annotated[list[Group], Field(min_length=1)] | None = Field(
        None, description="Groups whose weights are scored; null = all that the denoiser has."
    )
    attribution: AttributionConfig = Field(AttributionConfig(), description="How weights are scored.")
    fidelity: FidelityConfig = Field(FidelityConfig(), description="Whether scores predict.")
    edits: Annotated[dict[Objective, EditConfig], Field(min_length=1)] = Field(
        {"erase": EditConfig(), "amplify": EditConfig(random_draws=1)},
        description="What is changed for each objective.",
    )
    judges: JudgesConfig = Field(JudgesConfig(), description="Who looks at images.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="What is measured of edits.")
    probes: ProbesConfig | None = Field(
        ProbesConfig.model_validate({}),
        description="Whether an erased concept is destroyed or avoided; null = not asked.",
    )

    inside: InsideConfig | None = Field(
        InsideConfig.model_validate({}), description="What edits do to attention; null = not asked."
    )

    heads: HeadsConfig = Field(
        HeadsConfig.model_validate({}), description="In which attention heads weights carry a concept."
    )

    def compared(self, objective: Objective) -> list[float]:
        """Return the doses of an objective that are looked at more closely."""
        edit = self.edits[objective]
        return [dose for dose in edit.doses if edit.compared is None or dose in edit.compared]

    def baselines(self, objective: Objective) -> list[Baseline]:
        """Return what the edits of an objective are compared with."""
        given = self.edits[objective].baselines
        return list(BASELINES[objective]) if given is None else given

    @model_validator(mode="after")
    def _edited_groups_scored(self) -> "ConceptsStudy":
        for objective, edit in self.edits.items():
            missing = [group for group in edit.groups if self.groups is not None and group not in self.groups]
            if missing:
                raise ValueError(f"edits.{objective}.groups: {missing[0]} is not among groups, so it has no scores")
        if self.evaluation.seed == self.attribution.seed:
            raise ValueError(
                f"evaluation.seed {self.evaluation.seed} is that of attribution; give one no score has seen"
            )
        return self
