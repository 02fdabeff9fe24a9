"""Who looks at images: part of the section of every study that judges some."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffmech.config.section import Section

Prompts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)]


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
        None, description="Attributes of recognition.attributes that are judged; null = all that the denoiser knows."
    )
    text_attributes: dict[str, Prompts] = Field(
        {},
        description="Attributes that CLIP judges instead, by what shows them and what does not, e.g. "
        "{glasses: [a face with glasses, a face without glasses]}.",
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
        return self

    @property
    def trained_judge(self) -> bool:
        """Whether anything is measured by the classifier of drawn faces."""
        return self.features == "judge" or not self.text_attributes
