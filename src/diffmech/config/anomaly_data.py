"""Settings of the brains in which anomalies are looked for: synthetic ones, or those of the user's files."""

import re
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from diffmech.config.section import Count, Section, Seed

Modality: TypeAlias = Literal["flair", "t1", "t1ce", "t2"]
LesionKind: TypeAlias = Literal["bright", "faint", "dark", "iso"]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class SplitConfig(Section):
    """Which patients train, validate and test: by a hash of their names, so that none moves when others come."""

    validation: Part = Field(0.15, description="Share of the patients that validate, on average.")
    test: Part = Field(0.35, description="Share of the patients that test, on average.")
    seed: Seed = Field(
        1, description="Seed of the hash; 1 is the first under which 60 synthetic patients are split about so."
    )

    @model_validator(mode="after")
    def _some_train(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation:g} and test {self.test:g} of the patients leave none to train on"
            )
        return self


class BrainData(Section):
    """What all sets of slices share."""

    size: Annotated[int, Field(ge=16, le=512)] = Field(64, description="Height and width of a slice in pixels.")
    least_brain: Share = Field(0.02, description="Slices with less brain than this share of their pixels are left out.")


class WithModalities(BrainData):
    """Slices of one or several modalities."""

    modalities: Annotated[list[Modality], Field(min_length=1)] = Field(
        ["flair"],
        description="Modalities, in order. FLAIR alone by default: lesions show best in it, it is what a threshold "
        "without a model uses, and studies can be compared by it.",
    )

    @field_validator("modalities")
    @classmethod
    def _once(cls, value: list[Modality]) -> list[Modality]:
        if len(set(value)) != len(value):
            raise ValueError(f"name each modality once, found {', '.join(value)}")
        return value


class SyntheticLesions(Section):
    """Lesions of synthetic brains."""

    share: Share = Field(0.75, description="Share of the patients with lesions, on average; the others have none.")
    most: Count = Field(3, description="Most lesions of a patient; the number is drawn evenly from 1 on.")
    kinds: Annotated[list[LesionKind], Field(min_length=1)] = Field(
        ["bright", "faint", "dark", "iso", "iso"],
        description="Kinds that are drawn, each as often as it is named. `iso` is cortex of the same patient in a "
        "place where there is none: its intensities are those of cortex, so that no threshold sees it.",
    )
    radius: tuple[Positive, Positive] = Field(
        (8.0, 28.0), description="Smallest and largest radius in mm; drawn evenly in its logarithm."
    )

    @field_validator("radius")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the smallest radius, {value[0]:g} mm, is above the largest, {value[1]:g} mm")
        return value


class SyntheticBrains(WithModalities):
    """Synthetic brains: maps of tissues of the ICBM152 average of real brains, deformed, coloured and given lesions."""

    implementation: ClassVar[str] = "diffmech.anomaly.synthetic:read"
    kind: Literal["synthetic_brains"] = Field(
        "synthetic_brains", description="Drawn from maps of tissues of real brains."
    )
    patients: Count = Field(60, description="Patients; one is the same however many there are.")
    slices: Annotated[int, Field(ge=2)] = Field(16, description="Slices of a patient, evenly spread over the brain.")
    field: Positive = Field(192.0, description="Height and width of a slice in mm.")
    thickness: Positive = Field(5.0, description="Thickness of a slice in mm, over which tissue is averaged.")
    deformation: NotNegative = Field(2.5, description="Standard deviation of the elastic deformation in mm.")
    bias: NotNegative = Field(0.06, description="Standard deviation of the logarithm of the bias field.")
    noise: NotNegative = Field(0.02, description="Standard deviation of the Rician noise; white matter is about 0.5.")
    lesions: SyntheticLesions = Field(SyntheticLesions(), description="Lesions.")
    seed: Seed = Field(0, description="Seed of the patients.")


class FromFiles(Section):
    """What is read from the user's files."""

    path: str = Field(description="Folder of the data set.")


class ByPatient(FromFiles):
    """Folders of patients."""

    on_bad_patient: Literal["error", "skip"] = Field(
        "error", description="Whether a patient whose files cannot be used stops the study, or is left out and noted."
    )


class Brats(WithModalities, ByPatient):
    """BraTS: a folder per patient with NIfTI files *_flair, *_t1, *_t1ce, *_t2 and *_seg, or, from 2023 on, *-t2f,
    *-t1n, *-t1c, *-t2w and *-seg; .nii or .nii.gz, without skulls. A patient without a tumour has a mask of zeros."""

    implementation: ClassVar[str] = "diffmech.anomaly.brats:read"
    kind: Literal["brats"] = Field(description="BraTS: a folder of NIfTI files per patient.")
    slices: Annotated[int, Field(ge=1)] | None = Field(
        16, description="Slices of a patient, evenly spread over the brain; null = all."
    )
    field: Positive = Field(192.0, description="Height and width of a slice in mm, around the middle of the brain.")
    labels: list[Count] | None = Field(
        None, description="Labels that count as lesion; null = all but 0. Slices that hold others alone are left out."
    )


class Lgg(WithModalities, ByPatient):
    """LGG segmentation data set (kaggle_3m): a folder per patient with PATIENT_N.tif, whose channels are pre-contrast
    T1 (t1), FLAIR (flair) and post-contrast T1 (t1ce), and PATIENT_N_mask.tif. Skulls are in it: what counts as brain
    is the head."""

    implementation: ClassVar[str] = "diffmech.anomaly.lgg:read"
    kind: Literal["lgg"] = Field(description="LGG segmentation data set (kaggle_3m).")
    modalities: Annotated[list[Literal["flair", "t1", "t1ce"]], Field(min_length=1)] = Field(  # type: ignore[assignment]
        ["flair"], description="Modalities, in order. Where a sequence was missing, the data set repeats FLAIR."
    )


class Published(BrainData, FromFiles):
    """Slices with the splits that a benchmark published."""

    on_shared_patient: Literal["error", "drop"] = Field(
        "error",
        description="Whether a patient in two splits stops the study, or their slices are dropped from all but the "
        "last of train, validation and test that has any, which makes other splits than those published.",
    )


class MedIAnomaly(Published):
    """BraTS2021 as in MedIAnomaly (Cai et al. 2024): train/, test/normal/, test/tumor/ and test/annotation/."""

    implementation: ClassVar[str] = "diffmech.anomaly.published:read"
    kind: Literal["medianomaly"] = Field(description="BraTS2021 as in MedIAnomaly.")


class Bmad(Published):
    """Brain MRI as in BMAD (Bao et al. 2024): train/good, valid/ and test/ with good/ and Ungood/, img/ and label/."""

    implementation: ClassVar[str] = "diffmech.anomaly.published:read"
    kind: Literal["bmad"] = Field(description="Brain MRI as in BMAD.")


class PictureFolder(BrainData, FromFiles):
    """Pictures of slices in normal/ and abnormal/, with masks of the same names in masks/ where there are any."""

    implementation: ClassVar[str] = "diffmech.anomaly.pictures:read"
    kind: Literal["picture_folder"] = Field(description="Pictures in normal/ and abnormal/.")
    patient: str | None = Field(
        None,
        description="Regular expression whose first group, in the path of a picture below normal/ or abnormal/, is the "
        "name of the patient. Null: the folder there that holds the picture, and a picture that lies in none is a "
        "patient of its own, which is wrong wherever a patient has several.",
    )
    position: str | None = Field(
        None,
        description="Regular expression whose first group is the number of the slice, from the bottom up; its place "
        "among those of its patient is its position. Null: not known.",
    )
    refuse_ct: bool = Field(
        True, description="Refuse pictures with a closed ring of pixels at the end of the scale, as bone is in CT."
    )

    @field_validator("patient", "position")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from error
        if groups != 1:
            raise ValueError(f"{value!r} has {groups} groups in brackets; give it one, around what is meant")
        return value


AnyBrains: TypeAlias = Annotated[
    SyntheticBrains | Brats | Lgg | MedIAnomaly | Bmad | PictureFolder, Field(discriminator="kind")
]
