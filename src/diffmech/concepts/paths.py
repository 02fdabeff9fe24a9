"""The files of the study of concepts, and what each of its rules depends on."""

from collections.abc import Sequence
from typing import Any

from diffmech.concepts.tables import FIDELITY, MAP
from diffmech.config.concept_probes import InsideConfig, ProbesConfig
from diffmech.config.studies.concepts import ConceptsStudy
from diffmech.workflow.front import FINDINGS, PAGE
from diffmech.workflow.study import Study

FOLDER = "results/concepts/{model}"
GRADIENTS = FOLDER + "/gradients/{concept}/{objective}.{window}.safetensors"
ORIGINALS = FOLDER + "/originals/{concept}.zarr.zip"
MASK = FOLDER + "/masks/{concept}/{objective}/{dose}.safetensors"
EVALUATION = FOLDER + "/evaluations/{concept}/{objective}/{dose}.zarr.zip"
INSIDE = FOLDER + "/attention/{concept}/{objective}/{dose}.zarr.zip"
PROBED = FOLDER + "/probes/{concept}/{dose}.zarr.zip"
# What samples images for the evaluation; the rest of its section says how they are compared and shown.
SAMPLED = ("seeds", "steps", "guidance", "seed")


def dose_name(dose: float) -> str:
    """Return how files are called after a dose, with all of its digits."""
    return f"{dose:.15g}"


class Concepts:
    """What the study of concepts makes of one validated config.yaml."""

    def __init__(self, study: Study) -> None:
        """Take its section, or the defaults."""
        self.study = study
        self.section: ConceptsStudy = study.section("concepts")
        self.page = PAGE.format(study="concepts")
        self.findings = FINDINGS.format(study="concepts")
        self.names = list(self.section.concepts)
        self.objectives = list(self.section.edits)
        self.pictures = [f"results/concepts/pictures/{name}.svg" for name in self.names]

    @property
    def judge(self) -> list[str]:
        """The trained judge, where it is asked and can be: a pipeline knows no attributes of drawn faces."""
        asked = self.section.judges.trained_judge and self.study.config.model.source not in ("pipeline", "planted")
        return ["results/judges/{model}.safetensors"] if asked else []

    def doses(self, objective: str) -> list[str]:
        """Return the doses of an objective as files are called after them."""
        return [dose_name(dose) for dose in self.section.edits[objective].doses]  # type: ignore[index]

    @property
    def every_dose(self) -> list[str]:
        """The doses of all objectives, each once."""
        return list(dict.fromkeys(dose for objective in self.objectives for dose in self.doses(objective)))

    def gradients(self, objective: str) -> list[str]:
        """Return the files of one objective, a window each, with the model and the concept left open."""
        return [
            GRADIENTS.replace("{objective}", objective).replace("{window}", str(window))
            for window in range(self.section.attribution.windows)
        ]

    def evaluations(self) -> list[str]:
        """Return the stores of all edits, by concept, objective and dose."""
        return [
            EVALUATION.format(model=self.study.model, concept=concept, objective=objective, dose=dose)
            for concept in self.names
            for objective in self.objectives
            for dose in self.doses(objective)
        ]

    def originals(self) -> list[str]:
        """Return the stores of unedited images, by concept."""
        return [ORIGINALS.format(model=self.study.model, concept=concept) for concept in self.names]

    def closer(self, path: str, objectives: Sequence[str]) -> list[str]:
        """Return a file of each edit that is looked at more closely, by concept, objective and dose."""
        return [
            path.format(model=self.study.model, concept=concept, objective=objective, dose=dose_name(dose))
            for concept in self.names
            for objective in objectives
            for dose in self.section.compared(objective)  # type: ignore[arg-type]
        ]

    def probed(self, path: str) -> list[str]:
        """Return a file of each edit that is probed; none where none is asked for."""
        asked = self.section.probes is not None and "erase" in self.objectives
        return self.closer(path, ["erase"]) if asked else []

    def by_mechanism(self, objective: str) -> bool:
        """Return whether the edits of an objective need the mechanisms of the main study."""
        return self.section.edits[objective].granularity == "mechanism"  # type: ignore[index]

    def all_gradients(self) -> list[str]:
        """Return the files of all concepts, objectives and windows, in this order."""
        return [
            path.format(model=self.study.model, concept=concept)
            for concept in self.names
            for objective in self.objectives
            for path in self.gradients(objective)
        ]

    def inside(self) -> list[str]:
        """Return the stores of attention of all edits that are looked at more closely; none where none is asked for."""
        return self.closer(INSIDE, self.objectives) if self.section.inside is not None else []

    def per_concept(self, path: str) -> list[str]:
        """Return a file of each concept."""
        return [path.format(model=self.study.model, concept=concept) for concept in self.names]

    # What rules track

    def _concept(self, name: str) -> dict[str, Any]:
        pipeline = self.study.config.model.source == "pipeline"
        sampler = {"scheduler": self.study.config.sampling.scheduler} if pipeline else {}
        return {"name": name, "concept": self.section.concepts[name].canonical(), **sampler}

    def _evaluation(self, *keys: str) -> dict[str, Any]:
        canonical = self.section.evaluation.canonical()
        return {key: canonical[key] for key in keys}

    def attribution_settings(self, concept: str) -> dict[str, Any]:
        """Return what gradients depend on; curvature is made only where some edit asks for it."""
        return {
            "concept": self._concept(concept),
            "groups": self.section.groups,
            "attribution": self.section.attribution.canonical(),
            "objectives": self.objectives,
            "curvature": any(edit.order == "second" for edit in self.section.edits.values()),
        }

    def fidelity_settings(self, concept: str) -> dict[str, Any]:
        """Return what the check of the scores depends on."""
        return {
            "concept": self._concept(concept),
            "attribution": self.section.attribution.canonical(),
            "fidelity": self.section.fidelity.canonical(),
            "groups": {
                objective: list(edit.groups)
                for objective, edit in self.section.edits.items()
                if objective in self.section.fidelity.objectives
            },
            "inference": self._evaluation("draws", "confidence"),
        }

    def originals_settings(self, concept: str) -> dict[str, Any]:
        """Return what unedited images, and those of closed-form edits, depend on."""
        uce = "erase" in self.section.edits and "uce" in self.section.baselines("erase")
        return {
            "concept": self._concept(concept),
            "evaluation": self._evaluation(*SAMPLED),
            "judges": self.section.judges.canonical(),
            "uce": uce,
        }

    def edit_settings(self, concept: str, objective: str, dose: str) -> dict[str, Any]:
        """Return what one edit and its images depend on beside its dose."""
        section = self.section.edits[objective]  # type: ignore[index]
        compared = section.compared is None or dose in [dose_name(each) for each in section.compared]
        others = [kind for kind in self.section.baselines(objective) if kind != "uce"]  # type: ignore[arg-type]
        # nothing of other doses, so that one more is all that is computed for it
        edit = {key: value for key, value in section.canonical().items() if key not in ("doses", "compared")}
        edit |= {"baselines": others if compared else []}
        return {
            "concept": self._concept(concept),
            "edit": edit,
            "evaluation": self._evaluation(*SAMPLED),
            "judges": self.section.judges.canonical(),
        }

    def confusion_settings(self) -> dict[str, Any]:
        """Return what verdicts on images that are there, and on faces drawn for this, depend on."""
        config = self.study.config
        return {
            **self.study.settings(recognition=["faces", "seed"], images=config.images),
            "judges": self.section.judges.canonical(),
            "confidence": self.section.evaluation.confidence,
        }

    def probe_settings(self, concept: str) -> dict[str, Any]:
        """Return what the probes of one edit depend on beside its mask; defaults where none are asked for."""
        probes = self.section.probes or ProbesConfig()
        return {
            "concept": self._concept(concept),
            "evaluation": self._evaluation(*SAMPLED),
            "judges": self.section.judges.canonical(),
            "probes": probes.canonical(),
            "seed": self.section.attribution.seed,
        }

    def inside_settings(self, concept: str) -> dict[str, Any]:
        """Return what the attention of one edited denoiser depends on beside its mask."""
        inside = self.section.inside or InsideConfig()
        return {
            "concept": self._concept(concept),
            "evaluation": self._evaluation(*SAMPLED),
            "inside": inside.canonical(),
        }

    def heads_settings(self) -> dict[str, Any]:
        """Return what the tables of heads depend on beside gradients and, where overlap is asked, ablations."""
        return {
            "concepts": self.names,
            "objectives": self.objectives,
            "components": self.section.heads.components,
            "method": self.study.config.ablation.methods[0],
            "permutations": self.section.evaluation.permutations,
        }

    def effects_settings(self) -> dict[str, Any]:
        """Return what the tables depend on beside the images."""
        return self._evaluation("draws", "permutations", "confidence")


MAPS, FIDELITIES = MAP.path, FIDELITY.path
