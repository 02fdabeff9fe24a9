"""The files of the study of anomalies, and what each of its rules depends on."""

import hashlib
import json
from typing import Any

from diffmech.anomaly.tables import ENTROPIES, FOLDS, OF_CERTAINTY, OF_PAGE, SPLITS
from diffmech.config.anomaly_data import FromFiles
from diffmech.config.studies.anomaly import AUTOENCODERS, ENSEMBLE, AnomalyStudy
from diffmech.workflow.fingerprints import fingerprint, module_file
from diffmech.workflow.front import FINDINGS, PAGE
from diffmech.workflow.study import Study
from diffmech.workflow.watched import watched_folder

FOLDER = "results/anomaly/"
SLICES, DIGEST = FOLDER + "slices.zarr.zip", FOLDER + "slices.sha256"
OF_ROUND = FOLDER + "{round}/"
SEEN, TESTED = OF_ROUND + "seen.sha256", OF_ROUND + "tested.sha256"
RECORD, WEIGHTS = OF_ROUND + "networks/{network}/anomaly.json", OF_ROUND + "networks/{network}/anomaly.safetensors"
SCORES = OF_ROUND + "scores/{scored}.zarr.zip"
PREDICTION = OF_ROUND + "predictions/{scored}.zarr.zip"
COMPETITORS = SCORES.replace("{scored}", "competitors")
CHECKPOINTS = "results/.checkpoints/anomaly-{digest}"


class Anomaly:
    """What the study of anomalies makes of one validated config.yaml."""

    def __init__(self, study: Study) -> None:
        """Take its section, or the defaults."""
        self.study = study
        self.section: AnomalyStudy = study.section("anomaly")
        self.page = PAGE.format(study="anomaly")
        self.findings = FINDINGS.format(study="anomaly")
        self.picture = FOLDER + "slices.svg"
        self.rounds = self.section.rounds
        self.networks = list(self.section.networks)
        self.predicting = list(self.section.predicting)
        self.autoencoders = list(AUTOENCODERS)
        self.members = self.section.members
        self.table = (SPLITS if self.section.folds is None else FOLDS).path

    @property
    def of_certainty(self) -> list[str]:
        """The names of the tables of calibration, reliability, risk and review."""
        return [table.name for table in OF_CERTAINTY]

    @property
    def of_page(self) -> list[str]:
        """The names of the tables that the page is written from."""
        return [table.name for table in OF_PAGE]

    def of_rounds(self, path: str, **names: list[str]) -> list[str]:
        """Return a file of every round and of every name of one further wildcard."""
        [(key, values)] = names.items() or [("", [""])]
        return [path.replace("{round}", name).replace(f"{{{key}}}", value) for name in self.rounds for value in values]

    def records(self) -> list[str]:
        """Return the records of all networks of all rounds."""
        return self.of_rounds(RECORD, network=self.networks)

    def scores(self) -> list[str]:
        """Return the stores of scores of all rounds."""
        return self.of_rounds(SCORES, scored=[*self.predicting, *self.autoencoders, "competitors"])

    def compared(self) -> list[str]:
        """Return the stores of scores that ablations are told from."""
        return self.of_rounds(SCORES, scored=self.predicting)

    def predictions(self) -> list[str]:
        """Return the stores of predictions of all rounds."""
        return self.of_rounds(PREDICTION, scored=self.predicting)

    def shown(self) -> list[str]:
        """Return the predictions of the ensemble, which the page shows."""
        return self.of_rounds(PREDICTION, scored=[ENSEMBLE])

    def entropies(self) -> list[str]:
        """Return the tables of entropies of all members of all rounds."""
        return self.of_rounds(ENTROPIES.path, network=self.members)

    def behind(self, path: str, scored: str) -> list[str]:
        """Return a file of each network that predicts together with others as `scored`, its round left open."""
        return [path.replace("{network}", name) for name in self.section.predicting.get(scored, [scored])]

    def checkpoints(self, name: str, network: str) -> str:
        """Return the folder where a training keeps its checkpoints: undeclared, since outputs are deleted on retry.

        What it sees is none of the name: a checkpoint of other slices is not gone on from, by their digest in it.
        """
        settings = json.dumps([name, network, self.training_settings(name, network)], sort_keys=True)
        return CHECKPOINTS.format(digest=hashlib.sha256(settings.encode()).hexdigest()[:16])

    # What rules track

    def data_settings(self) -> dict[str, Any]:
        """Return what the slices depend on."""
        return self.study.settings(data=self.section.data)

    def split_settings(self) -> dict[str, Any]:
        """Return what the splits depend on beside the slices: a benchmark publishes its own with its files."""
        return self.study.settings(data=self.section.data, splits=self.section.splits)

    def data_code(self, script: str) -> str:
        """Return the fingerprint of what reads the slices, with the module that reads this kind of them."""
        reader = self.section.data.implementation.split(":")[0]
        return self.study.code(script) + fingerprint(module_file(reader))

    def watched(self) -> str:
        """Return the digest of the user's files, '' of synthetic brains."""
        data = self.section.data
        return watched_folder(data.path) if isinstance(data, FromFiles) else ""

    def training_settings(self, name: str, network: str) -> dict[str, Any]:
        """Return what a network of the round `name` depends on beside its slices."""
        return self.study.settings(model=self.section.networks[network].of_round(self.rounds.index(name)))

    def scoring_settings(self) -> dict[str, Any]:
        """Return what the scores of a round depend on; how they are judged is none of it."""
        section = self.section
        chosen = {"seed": section.evaluation.seed}
        return self.study.settings(uncertainty=section.uncertainty, scores=section.scores) | chosen

    def judging_settings(self) -> dict[str, Any]:
        """Return what judging depends on beside the scores."""
        section = self.section
        return self.study.settings(evaluation=section.evaluation) | {"reference": section.scores.model}
