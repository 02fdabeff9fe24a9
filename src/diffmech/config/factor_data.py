"""Data sets of factors: each kind names the class of `diffmech.data.factors` that draws or reads it."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from diffmech.config.images import CelebA, ImagesConfig
from diffmech.config.section import Count, Section

Size = Annotated[int, Field(ge=8, le=1024)]
Channels = Literal[1, 3]
SIZE: Any = Field(32, description="Height and width in pixels.")
SIZE_OR_STORED: Any = Field(None, description="Height and width in pixels; null = as stored.")
CHANNELS: Any = Field(1, description="1 = grey (Rec. 601 luma), 3 = RGB.")
CHANNELS_OR_STORED: Any = Field(None, description="1 = grey (Rec. 601 luma), 3 = RGB; null = as stored.")


class FactorDataConfig(Section):
    """What every kind has: `implementation` names its class, `known` its factors in their order.

    `changeable` says whether there is the same image with another value of one factor.
    """

    implementation: ClassVar[str]
    known: ClassVar[tuple[str, ...]] = ()
    changeable: ClassVar[bool] = True

    def names(self) -> list[str]:
        """Return the names of its factors, in their order."""
        return list(self.known)

    def arguments(self) -> dict[str, Any]:
        """Return what its class is made with."""
        return {name: value for name, value in self.model_dump().items() if name != "kind"}

    def files(self) -> list[Path]:
        """Return the user's files that it is read from, none where it is drawn; of those that may be many, one."""
        return []


class DSpritesLikeConfig(FactorDataConfig):
    """Drawn sprites on the grid of dSprites."""

    implementation: ClassVar[str] = "diffmech.data.factors.sprites:DSpritesLike"
    known: ClassVar[tuple[str, ...]] = ("shape", "scale", "orientation", "x", "y")
    kind: Literal["dsprites_like"] = Field(description="Drawn sprites: shape, scale, orientation, x, y.")
    size: Size = SIZE


class PendulumConfig(FactorDataConfig):
    """A scene with a known causal graph."""

    implementation: ClassVar[str] = "diffmech.data.factors.pendulum:PendulumScene"
    known: ClassVar[tuple[str, ...]] = ("angle", "light", "shadow_position", "shadow_length")
    kind: Literal["pendulum"] = Field(description="Drawn pendulum and lamp, which cause a shadow.")
    size: Size = SIZE
    channels: Channels = CHANNELS


class FacesConfig(FactorDataConfig):
    """Drawn faces with their attributes."""

    implementation: ClassVar[str] = "diffmech.data.factors.faces:Faces"
    known: ClassVar[tuple[str, ...]] = (
        "skin",
        "hair_colour",
        "hair_length",
        "eye_size",
        "glasses",
        "smile",
        "beard",
        "hat",
        "pose",
        "light",
        "background",
    )
    kind: Literal["faces"] = Field(description="Drawn faces with eleven attributes.")
    size: Size = SIZE
    channels: Channels = CHANNELS
    zoom: Annotated[float, Field(ge=1)] = Field(1.0, description="How much larger faces are drawn.")


class _OneFile(FactorDataConfig):
    path: str = Field(description="The published file.")
    size: Size | None = SIZE_OR_STORED

    def files(self) -> list[Path]:
        """Return the one file."""
        return [Path(self.path).expanduser()]


class DSpritesConfig(_OneFile):
    """dSprites as published."""

    implementation: ClassVar[str] = "diffmech.data.factors.dsprites:DSprites"
    known: ClassVar[tuple[str, ...]] = ("shape", "scale", "orientation", "x", "y")
    kind: Literal["dsprites"] = Field(description="dSprites (Matthey et al. 2017): the published .npz.")


class Shapes3DConfig(_OneFile):
    """3D Shapes as published."""

    implementation: ClassVar[str] = "diffmech.data.factors.shapes3d:Shapes3D"
    known: ClassVar[tuple[str, ...]] = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    kind: Literal["shapes3d"] = Field(description="3D Shapes (Burgess & Kim 2018): 3dshapes.h5, by the extra `hdf5`.")
    channels: Channels | None = CHANNELS_OR_STORED


class MPI3DConfig(_OneFile):
    """MPI3D as published."""

    implementation: ClassVar[str] = "diffmech.data.factors.mpi3d:MPI3D"
    known: ClassVar[tuple[str, ...]] = (
        "object_color",
        "object_shape",
        "object_size",
        "camera_height",
        "background_color",
        "horizontal_axis",
        "vertical_axis",
    )
    kind: Literal["mpi3d"] = Field(description="MPI3D (Gondal et al. 2019): one of the published .npz.")
    channels: Channels | None = CHANNELS_OR_STORED
    sizes: Annotated[list[Count], Field(min_length=7, max_length=7)] | None = Field(
        None, description="How many values each of the seven factors has; null = those of the published files."
    )


class SmallNORBConfig(FactorDataConfig):
    """SmallNORB as published."""

    implementation: ClassVar[str] = "diffmech.data.factors.smallnorb:SmallNORB"
    known: ClassVar[tuple[str, ...]] = ("category", "elevation", "azimuth", "lighting")
    kind: Literal["smallnorb"] = Field(description="SmallNORB (LeCun et al. 2004): the folder of its .mat files.")
    folder: str = Field(description="Folder of the .mat files, plain or .gz.")
    size: Size | None = Field(64, description="Height and width in pixels; null = as stored (96).")
    camera: Literal[0, 1] = Field(0, description="Which of the two cameras.")
    splits: Annotated[list[Literal["training", "testing"]], Field(min_length=1)] = Field(
        ["training", "testing"], description="Which of the two published splits; their toys differ."
    )

    def files(self) -> list[Path]:
        """Return the files of the folder."""
        return sorted(Path(self.folder).expanduser().glob("smallnorb-*.mat*"))


class CelebAConfig(FactorDataConfig):
    """CelebA with its attributes; no attribute of a photograph can be changed."""

    implementation: ClassVar[str] = "diffmech.data.factors.photographs:CelebAPhotographs"
    changeable: ClassVar[bool] = False
    kind: Literal["celeba"] = Field(description="CelebA (Liu et al. 2015): no factor of a photograph can be changed.")
    path: str = Field(description="Folder that holds img_align_celeba/ and list_attr_celeba.txt.")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="Central square that is kept.")
    attributes: list[str] | None = Field(None, description="Attributes that count as factors; null = all forty.")
    size: Size = SIZE
    channels: Channels = CHANNELS

    def names(self) -> list[str]:
        """Return the attributes that are named, or all that the file has; none without the file."""
        listed = Path(self.path).expanduser() / "list_attr_celeba.txt"
        if self.attributes is not None or not listed.is_file():
            return list(self.attributes or ())
        with listed.open(encoding="utf-8", errors="replace") as lines:
            return [line.split() for _, line in zip(range(2), lines, strict=False)][-1]

    def arguments(self) -> dict[str, Any]:
        """Return the photographs as the main study reads them, and their form."""
        form = ImagesConfig(size=self.size, channels=self.channels, match=None)
        return {"config": self.photographs, "images": form}

    @property
    def photographs(self) -> CelebA:
        """The same photographs as a data set of the main study."""
        return CelebA(kind="celeba", path=self.path, crop=self.crop, attributes=self.attributes)


AnyFactorData: TypeAlias = Annotated[
    DSpritesLikeConfig
    | PendulumConfig
    | FacesConfig
    | DSpritesConfig
    | Shapes3DConfig
    | MPI3DConfig
    | SmallNORBConfig
    | CelebAConfig,
    Field(discriminator="kind"),
]
