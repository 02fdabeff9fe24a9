"""`images` and `datasets`: what the pictures are and how both domains are brought to the same form."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diffmech.config.section import Count, Probability, Section, Seed

IDENTITIES = "identity_CelebA.txt"  # which images of CelebA are of one person
GROUP = "Column that says which images belong together (person, patient, scene): the unit of all statistics."
AUTO = "auto"  # what `match` is where a file leaves it to the source of the denoiser


def _or_auto(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": AUTO})


class Moments(Section):
    """The mean and contrast that every data set is brought to, on the scale [-1, 1]."""

    mean: Annotated[float, Field(gt=-1, lt=1)] = Field(-0.1, description="Mean pixel value of each data set.")
    contrast: Probability = Field(0.4, description="Mean over images of the standard deviation of their pixels.")


class ImagesConfig(Section):
    """The form in which every image of every domain is studied."""

    size: Annotated[int, Field(ge=8, le=1024)] = Field(32, description="Height and width in pixels.")
    channels: Literal[1, 3] = Field(1, description="1 = grey (Rec. 601 luma), 3 = RGB.")
    resolution: Annotated[int, Field(ge=4)] | None = Field(
        None,
        description="Every image first passes through this many pixels, so that domains of different native "
        "resolution share one resolution limit. Null leaves them as they are.",
    )
    match: Moments | None = Field(
        Moments(),
        description="Bring each data set to this mean and contrast by one gain and one offset; null = off; `auto` "
        "(where a study says nothing) = mean -0.1 and contrast 0.4 for a denoiser of source bundled, train or "
        "untrained, off for one from elsewhere, which must get its images as in its training.",
        json_schema_extra=_or_auto,
    )

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2:
            raise ValueError(
                f"{list(value)} is a height and a width, but every image is studied as a square, cut from its middle "
                "(`crop` of its data set); give one number"
            )
        return value

    @field_validator("match", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return Moments() if value == AUTO else value  # a whole study has decided before, `Config`

    @model_validator(mode="after")
    def _resolution_fits(self) -> "ImagesConfig":
        if self.resolution is not None and self.resolution > self.size:
            raise ValueError(f"resolution {self.resolution} is above size {self.size}; give null or a smaller number")
        return self


class Dataset(Section):
    """What every kind of data set has."""

    implementation: ClassVar[str]
    count: Count | None = Field(None, description="Use so many images; null = all there are.")
    on_bad_file: Literal["error", "skip"] = Field(
        "error", description="`skip` leaves unreadable files out and lists them in the report; `error` stops."
    )


class Grouped(Dataset):
    """A data set of which it may be known which images belong together: those of one person, patient or scene.

    The group decides what the independent unit of all statistics is, and nothing about the images: it is no part of
    what is tracked of a data set, so that another column reruns statistics and captures nothing anew.
    """

    group: str | None = Field(None, description=f"{GROUP} Null: each image is a unit of its own.")

    def canonical(self) -> dict[str, Any]:
        """Return the section without `group`."""
        return {key: value for key, value in super().canonical().items() if key != "group"}


class SyntheticFaces(Dataset):
    """Procedurally drawn faces with eleven independent attributes and exact part masks."""

    implementation: ClassVar[str] = "diffmech.data.drawn:SyntheticFacesSource"
    kind: Literal["synthetic_faces"]
    count: Count = Field(2000, description="How many faces to draw.")
    first: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of the first face. A face is made from the seed and its number, so that numbers beyond "
        "those of a training are faces that the denoiser never saw.",
    )
    seed: Seed = Field(0, description="Seed of the attributes and identities.")
    zoom: Annotated[float, Field(ge=0.5, le=3)] = Field(
        1.0, description="1 shows head, hat and shoulders; 1.5 is a tight crop from forehead to chin."
    )
    fixed: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="Attributes held at one value in [0, 1], e.g. {glasses: 1}."
    )

    def canonical(self) -> dict[str, Any]:
        """Return the section as rules track it: a set that starts at 0 is told as before there was such a key."""
        return {key: value for key, value in super().canonical().items() if key != "first" or value}


class LfwSubset(Dataset):
    """The 100 real face crops (25 x 25, grey, from LFW) that ship inside scikit-image, in its order, which carries
    nothing: they were selected from LFW at random."""

    implementation: ClassVar[str] = "diffmech.data.bundled:LfwSubsetSource"
    kind: Literal["lfw_subset"]
    count: Annotated[int, Field(ge=1, le=100)] = Field(100, description="How many of the 100 faces to use.")


class Digits(Dataset):
    """The 1,797 handwritten digits (8 x 8, grey) that ship inside scikit-learn, in its order; ten classes, one-hot."""

    implementation: ClassVar[str] = "diffmech.data.digits:DigitsSource"
    kind: Literal["digits"]
    classes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(min_length=1)] = Field(
        list(range(10)), description="Which digits; every image says of all ten classes whether it is one."
    )


class NamedImages(Grouped):
    """What every kind of data set has whose images were collected, and so may be sorted by something."""

    seed: Seed = Field(
        0,
        description="Seed of the draw: images are put in the order of a hash of (seed, their own name) and the first "
        "`count` are taken, so that how a set is sorted decides nothing, and one that grows keeps nearly all.",
    )


class ImageFolder(NamedImages):
    """Any folder of images (jpg, png, tif, webp, bmp, pgm, ppm, gif and all else that Pillow reads, npy), with an
    optional table of labels and folder of masks. Of a picture in several views (MPO of phones) the primary one is
    taken. Images in a format that is not read (heic, raw) count as bad files. Folder, table and masks are watched."""

    implementation: ClassVar[str] = "diffmech.data.folder:ImageFolderSource"
    kind: Literal["image_folder"]
    path: str = Field(description="Folder of the images, searched recursively.")
    labels: str | None = Field(
        None,
        description="CSV whose first column is the file name (relative to `path`) and whose other columns are numeric "
        "attributes in [0, 1], with a first line of names. Cells are separated by commas, semicolons, tabs or bars; "
        "rows without an image are noted.",
    )
    masks: str | None = Field(
        None,
        description="Folder with one subfolder per part, each holding a mask image named like its image "
        "(white = the part; or a label image of 0 and 1 = the part; colours are refused).",
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Central square that is kept, as a fraction of the shorter side."
    )
    group: str | None = Field(
        None, description=f"{GROUP} A column of `labels`, of any text. Null: each image is a unit of its own."
    )

    @model_validator(mode="after")
    def _group_has_a_table(self) -> "ImageFolder":
        if self.group is not None and self.labels is None:
            raise ValueError(f"group: {self.group!r} is a column of the table `labels`, which is null; give that table")
        return self


class CelebA(NamedImages):
    """CelebA in its own layout: img_align_celeba/ and list_attr_celeba.txt under `path`."""

    implementation: ClassVar[str] = "diffmech.data.celeba:CelebASource"
    kind: Literal["celeba"]
    path: str = Field(description="Folder that holds img_align_celeba/ and list_attr_celeba.txt.")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="Central square that is kept, as a fraction of the shorter side (178 pixels)."
    )
    attributes: list[str] | None = Field(
        None, description="CelebA attributes to keep, e.g. [Eyeglasses, Smiling]; null = all forty."
    )
    group: Literal["identity"] | None = Field(
        None,
        description=f"`identity`: images of one person, by {IDENTITIES} under `path`, are one unit of all statistics. "
        "Null: each image is a unit of its own.",
    )


class HuggingFace(NamedImages):
    """A data set of the `datasets` library: a hub name, or a local folder written by `save_to_disk`."""

    implementation: ClassVar[str] = "diffmech.data.hub:HuggingFaceSource"
    kind: Literal["huggingface"]
    name: str = Field(description="Hub name, or the path of a local data set.")
    split: str = Field("train", description="Split to use.")
    revision: str | None = Field(None, description="Revision of the hub data set, for reproducibility.")
    image_column: str = Field("image", description="Column that holds the images.")
    attributes: list[str] = Field([], description="Numeric columns to keep as attributes in [0, 1].")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Central square that is kept.")


class PlantedImages(Dataset):
    """Images drawn so that it is known what helps to denoise them, for a model of source planted."""

    implementation: ClassVar[str] = "diffmech.planted.images:PlantedSource"
    kind: Literal["planted"]
    count: Count = Field(200, description="How many images to draw.")
    seed: Seed = Field(0, description="Seed of the images.")
    symmetric: bool = Field(True, description="Whether the fine structure is mirrored left to right.")


class Prompts(Dataset):
    """Images that the studied pipeline generates from prompts; the denoiser is observed on what they were made from."""

    implementation: ClassVar[str] = "diffmech.data.generated:GeneratedSource"
    kind: Literal["prompts"]
    prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="Texts (or class names, or class numbers, for a model conditioned on classes), one per image."
    )
    file: str | None = Field(None, description="Text file with one prompt per line, instead of `prompts`.")
    negative_prompt: str = Field("", description="What the unconditional pass of guidance is given.")
    seed: Seed = Field(
        0, description="Seed of the initial noise; image i is prompt i modulo the number of prompts, with noise i."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Prompts":
        if bool(self.prompts) == bool(self.file):
            raise ValueError("give either `prompts`, a list of texts, or `file`, a text file with one prompt per line")
        return self


AnyDataset = Annotated[
    SyntheticFaces | LfwSubset | Digits | ImageFolder | CelebA | HuggingFace | PlantedImages | Prompts,
    Field(discriminator="kind"),
]
