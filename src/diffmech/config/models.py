"""`models`: the denoisers, trained by the workflow, bundled, taken from a diffusers directory or hub id, or the user's
own class."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from diffmech.config.section import Count, Section, Seed


class Architecture(Section):
    """The network that the workflow trains: a UNet2DConditionModel, or, told classes, a UNet2DModel."""

    conditioning: Literal["tokens", "classes"] = Field(
        "tokens",
        description="How it is told what an image shows. `tokens`: its domain and attributes, one token each, which "
        "transformer layers read by cross-attention. `classes`: attributes are one-hot classes, and the embedding of "
        "the class is added to that of the timestep; attention is self-attention, and the domain is not told.",
    )
    channels: list[Count] = Field([32, 64, 128], description="Channels of each resolution level.")
    attention: list[bool] = Field(
        [False, True, False],
        description="Levels with transformer layers: one on the way down and two on the way up each.",
    )
    middle_attention: bool = Field(False, description="A further transformer layer at the lowest resolution.")
    heads: Count = Field(8, description="Attention heads per layer.")
    layers_per_block: Count = Field(1, description="Residual layers per block.")
    norm_groups: Count = Field(8, description="Groups of the group normalisation.")
    token_width: Count = Field(64, description="Width of the conditioning tokens.")
    timesteps: Count = Field(1000, description="Steps of the diffusion (DDPM, epsilon prediction).")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "squaredcos_cap_v2", description="Noise schedule, in the names of diffusers."
    )

    @model_validator(mode="after")
    def _levels_agree(self) -> "Architecture":
        if len(self.channels) != len(self.attention):
            raise ValueError(
                f"channels has {len(self.channels)} levels but attention has {len(self.attention)}; "
                "give each level one entry of both"
            )
        for channels in self.channels:
            if channels % self.norm_groups:
                raise ValueError(f"channels {channels} is not a multiple of norm_groups {self.norm_groups}")
        attended = [c for c, a in zip(self.channels, self.attention, strict=True) if a]
        if self.middle_attention:
            attended.append(self.channels[-1])
        if not attended:
            raise ValueError("no level has attention; set one entry of attention to true")
        if self.conditioning == "classes" and len(set(attended)) > 1:
            raise ValueError(
                f"levels with attention have {attended} channels, but a UNet2DModel has one width of heads; give them "
                "equally many, or conditioning tokens"
            )
        for channels in attended:
            if channels % self.heads:
                raise ValueError(
                    f"channels {channels} of a level with attention is not a multiple of heads {self.heads}"
                )
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the section as rules track it: conditioning by tokens is told as before there was another."""
        return {k: v for k, v in super().canonical().items() if k != "conditioning" or v != "tokens"}


class Training(Section):
    """How the denoiser is trained."""

    steps: Count = Field(2400, description="Optimiser steps.")
    batch_size: Count = Field(32, description="Images per step.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1.5e-3, description="Peak of the one-cycle schedule.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="Decay of the averaged weights.")
    domain_shares: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {"real": 0.3, "synthetic": 0.7},
        description="Share of each domain in a batch (normalised to sum 1); not given, domains of other names have "
        "equal ones.",
    )
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of images trained without any condition, for classifier-free guidance."
    )
    attribute_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of single attributes replaced by their null token."
    )
    holdout: Annotated[int, Field(ge=0)] = Field(
        5, description="Every n-th image of each data set is kept out of training; 0 keeps none out."
    )
    flip: list[str] = Field(["real"], description="Domains whose images are mirrored at random (no sided attributes).")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "auto", description="`auto` is bfloat16 autocast where the device is known to gain by it."
    )
    seed: Seed = Field(0, description="Seed of the weights, batches and noise.")


class Schedule(Section):
    """The diffusion a denoiser of one's own was trained in."""

    config: str | None = Field(
        None,
        description="A scheduler_config.json of diffusers, or the directory that holds it, for a schedule that the "
        "other keys cannot describe; they are then ignored.",
    )
    timesteps: Count = Field(1000, description="Steps of the diffusion.")
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        "linear", description="Noise schedule, in the names of diffusers; the linear one goes from 0.0001 to 0.02."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = Field(
        "epsilon", description="What the network predicts: the noise, v, or the clean image."
    )


# What a planted head may be; `diffmech.planted.roles` says how each is built.
PlantedRole = Literal[
    "local",
    "mirror",
    "global",
    "uniform",
    "edge",
    "texture",
    "semantic",
    "sink",
    "positional",
    "pair_first",
    "pair_second",
    "dead_local",
    "dead_sink",
    "writer",
    "reader",
]
PLANTED_ROLES: tuple[PlantedRole, ...] = get_args(PlantedRole)


class PlantedCircuit(Section):
    """A denoiser whose heads are built by hand, so that what each attends to and whether it matters is known."""

    layers: list[Annotated[list[PlantedRole], Field(min_length=1)]] = Field(
        [
            ["edge", "texture", "semantic", "sink", "local", "dead_sink"],
            ["mirror", "global", "uniform", "positional", "pair_first", "pair_second", "dead_local"],
        ],
        min_length=1,
        description="The role of each head, layer by layer; the seed shuffles them within each layer.",
    )
    weight_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="Standard deviation of random errors of the queries' and keys' weights, as a share of each."
    )
    images: Annotated[int, Field(ge=16)] = Field(192, description="Images that the readout is fitted on.")
    seed: Seed = Field(0, description="Seed of the order of the heads, of the errors, and of those images.")

    @model_validator(mode="after")
    def _each_role_once(self) -> "PlantedCircuit":
        roles = [role for layer in self.layers for role in layer]
        repeated = next((role for role in roles if roles.count(role) > 1), None)
        if repeated is not None:
            raise ValueError(f"layers name {repeated!r} {roles.count(repeated)} times; give each role to one head")
        return self

    @model_validator(mode="after")
    def _chain_whole(self) -> "PlantedCircuit":
        layer_of = {role: number for number, layer in enumerate(self.layers) for role in layer}
        if {"writer", "reader"} & set(layer_of):
            if not layer_of.get("writer", len(self.layers)) < layer_of.get("reader", -1):
                raise ValueError("layers must name writer before reader, in an earlier layer, or neither of them")
            if "sink" in layer_of:
                raise ValueError("layers name sink and writer, who would tell the same; leave one of them out")
        return self


# A file or an importable module, and a class in it.
IMPLEMENTATION = re.compile(r"(?:.+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Keys that only one source reads. Rules of the other sources do not track them, nor rerun when there are more of them.
KEYS_OF = {
    "custom": ("implementation", "arguments", "weights", "sample_shape", "schedule"),
    "pipeline": ("dtype",),
    "planted": ("planted",),
}


class DenoiserConfig(Section):
    """One denoiser to study."""

    source: Literal["bundled", "train", "diffusers", "pipeline", "custom", "planted", "untrained"] = Field(
        description="`bundled`: weights in resources/models/<location>; `train`: the workflow trains them; "
        "`diffusers`: a diffusers directory or hub id in `location`; `pipeline`: the same of a whole pipeline that "
        "generates images from prompts (Stable Diffusion, SDXL, SD3, Flux, PixArt, DiT); `custom`: a class of "
        "your own, docs/own-model.md; `planted`: built by hand, so that what should be found is known; `untrained`: "
        "random weights, the null study.",
    )
    location: str | None = Field(
        None, description="Directory or hub id (diffusers, pipeline), or bundle name (bundled)."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Precision of the weights and passes of a pipeline; statistics are in float32."
    )
    revision: str | None = Field(None, description="Revision of a hub model, for reproducibility.")
    subfolder: str = Field("unet", description="Folder of the denoiser inside a pipeline directory.")
    architecture: Architecture = Field(Architecture(), description="What to build (train, untrained).")
    training: Training = Field(Training(), description="How to train it (train); what the bundle was trained with.")
    implementation: str | None = Field(
        None,
        description="The class of a custom denoiser: `path/to/file.py:Class`, or `package.module:Class` where that "
        "can be imported.",
    )
    arguments: dict[str, Any] = Field({}, description="Keyword arguments of the class (custom).")
    weights: str | None = Field(
        None,
        description="Its state_dict (custom): a .safetensors file, or a .pt file that holds nothing but tensors; null "
        "= random weights of the seed training.seed.",
    )
    sample_shape: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = Field(
        None, description="Channels, height and width of its images (custom); null = those of `images`."
    )
    schedule: Schedule = Field(Schedule(), description="The diffusion it was trained in (custom).")
    planted: PlantedCircuit = Field(PlantedCircuit(), description="What to build (planted).")

    def canonical(self) -> dict[str, Any]:
        """Return the section as rules track it, without the keys that its source does not read."""
        unread = {key for source, keys in KEYS_OF.items() if source != self.source for key in keys}
        whole = super().canonical() | {"architecture": self.architecture.canonical()}
        return {key: value for key, value in whole.items() if key not in unread}

    @model_validator(mode="after")
    def _location_given(self) -> "DenoiserConfig":
        if self.source in ("bundled", "diffusers", "pipeline") and not self.location:
            raise ValueError(f"source {self.source} needs a location")
        return self

    @model_validator(mode="after")
    def _implementation_given(self) -> "DenoiserConfig":
        fields = DenoiserConfig.model_fields
        given = [key for key in KEYS_OF["custom"] if getattr(self, key) != fields[key].default]
        if self.source != "custom" and given:
            raise ValueError(f"{given[0]} belongs to source custom, but source is {self.source}; leave one of them out")
        if self.source != "planted" and self.planted != fields["planted"].default:
            raise ValueError(f"planted belongs to source planted, but source is {self.source}; leave one of them out")
        if self.source == "custom" and not IMPLEMENTATION.fullmatch(self.implementation or ""):
            raise ValueError(
                f"source custom needs an implementation like models/mine.py:MyDenoiser, found {self.implementation!r}"
            )
        if self.weights is not None and not self.weights.endswith(WEIGHT_FILES):
            raise ValueError(f"weights {self.weights!r} is none of {', '.join(WEIGHT_FILES)}; save model.state_dict()")
        return self


class SamplingConfig(Section):
    """The images that are generated: to show what the denoiser learned, or, from prompts, as the data set itself."""

    count: Count = Field(8, description="Images per row of the gallery.")
    scheduler: Literal["ddim", "ddpm", "dpmsolver++", "euler", "flow_euler"] | None = Field(
        None, description="Sampler of a pipeline; null = the pipeline's own. Other denoisers are sampled with DDIM."
    )
    steps: Count = Field(30, description="Sampling steps.")
    guidance: Annotated[float, Field(ge=0)] = Field(3.0, description="Classifier-free guidance; 1 = none.")
    attributes: list[str] = Field(
        ["glasses", "hat", "beard", "smile"],
        description="Attributes shown one by one; those the model lacks are left out.",
    )
    seed: Seed = Field(0, description="Seed of the initial noise.")


class RecognitionConfig(Section):
    """The check that conditional samples show their attributes: a small classifier trained on synthetic faces."""

    attributes: list[str] = Field(["glasses", "hat", "beard", "smile"], description="Attributes to recognise.")
    samples: Count = Field(64, description="Generated images per attribute.")
    faces: Count = Field(6000, description="Drawn faces the classifier is trained on.")
    epochs: Count = Field(6, description="Passes over them.")
    seed: Seed = Field(0, description="Seed of the classifier and of the samples.")
