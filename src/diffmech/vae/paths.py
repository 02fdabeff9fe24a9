"""The files of the study of VAEs, and what each of its rules depends on."""

import hashlib
import json
from typing import Any

from diffmech.config.factor_data import CelebAConfig
from diffmech.config.studies.vae import VaeMeasures, VaeStudy
from diffmech.vae.tables import EDGES, OF_ONE, SCORES
from diffmech.workflow.fingerprints import fingerprint, module_file
from diffmech.workflow.front import FINDINGS, PAGE
from diffmech.workflow.study import Study
from diffmech.workflow.watched import watched

RECORD, WEIGHTS = OF_ONE + "vae.json", OF_ONE + "vae.safetensors"
CODES = OF_ONE + "codes.zarr.zip"
OF_A_FACTOR = OF_ONE + "factors/{factor}.zarr.zip"
CHECKPOINTS = "results/.checkpoints/vae-{digest}"
# What each job measures; the rest of the section is about the statistics.
CODED = ("images", "steps", "span", "seed")
CHANGED = ("pairs", "twins", "share", "seed")
SCORED = ("votes", "floors", "scenes", "alpha", "permutations", "seed")


class Vaes:
    """What the study of VAEs makes of one validated config.yaml."""

    def __init__(self, study: Study) -> None:
        """Take its section, or the defaults."""
        self.study = study
        self.section: VaeStudy = study.section("vae")
        self.page = PAGE.format(study="vae")
        self.findings = FINDINGS.format(study="vae")
        self.names = list(self.section.data)
        self.families = list(self.section.families)
        self.seeds = [str(seed) for seed in self.section.seeds]
        self.factors = list(dict.fromkeys(factor for data in self.names for factor in self.section.studied(data)))
        self.picture = "results/vae/traversals.svg"

    def of_all(self, path: str) -> list[str]:
        """Return a file of every VAE of a data set, by family and seed, with the data set left open."""
        return [
            path.replace("{family}", family).replace("{vae_seed}", seed)
            for family in self.families
            for seed in self.seeds
        ]

    def records(self, data: str) -> list[str]:
        """Return the records of all VAEs of a data set."""
        return [path.format(data=data) for path in self.of_all(RECORD)]

    def codes(self, data: str) -> list[str]:
        """Return the stores of codes of all VAEs of a data set."""
        return [path.format(data=data) for path in self.of_all(CODES)]

    def scores(self, data: str) -> list[str]:
        """Return the scores of all VAEs of a data set."""
        return [path.format(data=data) for path in self.of_all(SCORES.path)]

    def edges(self, data: str) -> list[str]:
        """Return the edges of all VAEs of a data set; none where no factor can be changed."""
        return [path.format(data=data) for path in self.of_all(EDGES.path)] if self._changes(data) else []

    def of_factors(self, data: str) -> list[str]:
        """Return the stores of all VAEs and factors of a data set; none where no factor can be changed."""
        if not self._changes(data):
            return []
        factors = self.section.studied(data)
        return [path.format(data=data, factor=factor) for path in self.of_all(OF_A_FACTOR) for factor in factors]

    def files(self, data: str) -> list[str]:
        """Return the user's files behind a data set, as far as they exist."""
        return [str(path) for path in self.section.data[data].files() if path.is_file()]

    def checkpoints(self, data: str, family: str, seed: str) -> str:
        """Return the folder where a training keeps its checkpoints: undeclared, since outputs are deleted on retry."""
        settings = json.dumps(self.training_settings(data, family, seed), sort_keys=True)
        return CHECKPOINTS.format(digest=hashlib.sha256(settings.encode()).hexdigest()[:16])

    # What rules track

    def code(self, script: str, data: str) -> str:
        """Return the fingerprint of a script and of the module that draws or reads a data set."""
        return self.study.code(script) + fingerprint(module_file(self.section.data[data].implementation.split(":")[0]))

    def training_settings(self, data: str, family: str, seed: str) -> dict[str, Any]:
        """Return what a training depends on."""
        return {
            "vae": self.section.vae(family, int(seed)).canonical(),
            "data": self.section.data[data].canonical(),
            "watched": self._watched(data),
        }

    def coding_settings(self, data: str) -> dict[str, Any]:
        """Return what the codes of a VAE, and what setting its latents does, depend on."""
        return self._measured(data, CODED)

    def changing_settings(self, data: str) -> dict[str, Any]:
        """Return what changing one factor depends on."""
        return self._measured(data, CHANGED)

    def scoring_settings(self, data: str) -> dict[str, Any]:
        """Return what the scores and the graph of a VAE depend on."""
        return {**self._measured(data, SCORED), "factors": self.section.studied(data)}

    def table_settings(self, data: str) -> dict[str, Any]:
        """Return what the tables of a data set depend on beside their inputs."""
        section = self.section
        return {
            "data": section.data[data].canonical(),
            "families": {name: family.canonical() for name, family in section.families.items()},
            "measures": section.measures.canonical(),
        }

    def _measured(self, data: str, keys: tuple[str, ...]) -> dict[str, Any]:
        canonical = self.section.measures.canonical()
        # defaults in place of what the job does not depend on, so that the section can be restored
        kept = VaeMeasures().canonical() | {key: canonical[key] for key in keys}
        return {"data": self.section.data[data].canonical(), "measures": kept, "watched": self._watched(data)}

    def _changes(self, data: str) -> bool:
        return self.section.data[data].changeable

    def _watched(self, data: str) -> str:
        config = self.section.data[data]
        return watched(data, config.photographs) if isinstance(config, CelebAConfig) else ""
