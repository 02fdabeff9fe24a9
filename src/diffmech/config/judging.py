"""Who looks at images: part of the section of every study that judges some."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffmech.config.models import IMPLEMENTATION
from diffmech.config.section import Section

Prompts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)]


class DetectorConfig(Section):
    """A detector of yours: a function that says how sure it is that images show attributes."""

    function: str = Field(
        description="`path/to/file.py:function`, or `package.module:function` where that can be imported. It gets "
        "images (image, channel, y, x), a float32 tensor of torch in [-1, 1], on the CPU and without gradients, and "
        "returns a probability in [0, 1] for each (image, attribute), as a tensor or an array of NumPy."
    )
    attributes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        description="The attributes that it looks for, in the order of what it returns; none of them need be known to "
        "the trained judge."
    )
    files: list[str] = Field(
        [], description="Files that it reads, such as weights: images are judged anew when one of them changes."
    )

    @model_validator(mode="after")
    def _names_a_function_once(self) -> "DetectorConfig":
        if not IMPLEMENTATION.fullmatch(self.function):
            raise ValueError(f"function is {self.function!r}; expected one like detectors/mine.py:detect")
        if len(set(self.attributes)) != len(self.attributes):
            raise ValueError(f"attributes of a detector must differ, found {', '.join(self.attributes)}")
        return self


class JudgesConfig(Section):
    """The feature space of distances between sets of images, and what judges attributes."""

    features: Literal["judge", "clip", "inception"] = Field(
        "judge",
        description="Feature space of the distances: the classifier that the workflow trains on drawn faces, the image "
        "embedding of a CLIP model, or an Inception network of yours.",
    )
    clip: str | None = Field(None, description="Directory or hub id of a CLIP model, for features and text_attributes.")
    inception: str | None = Field(
        None,
        description="TorchScript file of the Inception (`features: inception`): it gets uint8 images (image, 3, y, x) "
        "and returns (image, feature).",
    )
    attributes: list[str] | None = Field(
        None,
        description="Attributes of recognition.attributes that the trained judge looks for; null = all that the "
        "denoiser knows and no detector looks for, [] = none.",
    )
    text_attributes: dict[str, Prompts] = Field(
        {},
        description="Attributes that CLIP judges instead, by what shows them and what does not, e.g. "
        "{glasses: [a face with glasses, a face without glasses]}.",
    )
    detector: DetectorConfig | None = Field(
        None, description="A detector of yours, which looks for its attributes beside the judge of all others."
    )

    @model_validator(mode="after")
    def _judges_fit_together(self) -> "JudgesConfig":
        if self.features == "clip" and not self.clip:
            raise ValueError("features clip needs the CLIP model in clip, a directory or hub id")
        if self.features == "inception" and not self.inception:
            raise ValueError("features inception needs the TorchScript file in inception")
        if self.text_attributes and not self.clip:
            raise ValueError("text_attributes need the CLIP model in clip, a directory or hub id")
        if self.text_attributes and self.attributes is not None:
            raise ValueError("text_attributes and attributes name two judges; give one of them")
        twice = [name for name in self.detected if name in self.text_attributes or name in (self.attributes or ())]
        if twice:
            raise ValueError(f"{twice[0]} has two judges, the detector and another one; leave one of them out")
        return self

    @property
    def detected(self) -> list[str]:
        """The attributes that the user's own detector looks for."""
        return [] if self.detector is None else self.detector.attributes

    @property
    def trained_judge(self) -> bool:
        """Whether anything is measured by the classifier of drawn faces."""
        others = bool(self.text_attributes) or (self.detector is not None and self.attributes == [])
        return self.features == "judge" or not others
