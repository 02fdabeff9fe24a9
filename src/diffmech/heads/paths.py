"""The main study, of attention heads: its settings, which files answer what, and the targets of its rules.

Paths and targets are pure functions of the validated configuration.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffmech.config.patching import source_file
from diffmech.data.tables import REFERENCES
from diffmech.heads.files import ATTENTION, LATENTS
from diffmech.mechanisms.tables import PHASES
from diffmech.planted.tables import PAIRS, RECOVERY, SUMMARY
from diffmech.workflow.shards import blocks, shards
from diffmech.workflow.study import Study

CHOSEN = REFERENCES.path
ABLATION = "results/ablation/{model}/{dataset}/{group}/{block}/{shard}.zarr.zip"
CIRCUIT = "results/circuit/{model}/{dataset}/circuit.json"
REFERENCE = "results/ablation/{model}/{block}.reference.zarr.zip"
PATCHING = "results/patching/{model}/{dataset}/{source}.zarr.zip"


class Heads:
    """What the main study makes of one validated config.yaml."""

    def __init__(self, study: Study) -> None:
        """Cut the passes of `study` into jobs."""
        self.study = study
        self.config = study.config
        self.model = study.model
        self.domains = study.domains
        self.datasets = study.datasets
        self.shards = study.shards
        self.blocks = blocks(self.config.capture.timesteps, self.config.capture.block_span)
        self.ablation_shards = shards(self.config.ablation.samples, self.config.ablation.shard_size)

    # Passes of the denoiser

    def workload(self, cores: int) -> dict[str, Any]:
        """Return how the study is cut into jobs, and how many of those that run the denoiser fit on so many cores."""
        per_block = 1 + len(self.datasets) * len(self.config.ablation.groups) * len(self.ablation_shards)
        return {
            "shards": list(self.shards.values()),
            "blocks": list(self.blocks.values()),
            "ablations": len(self.ablation_blocks) * per_block,
            "side_by_side": 1 if self.study.gpus else max(1, cores // self.study.threads),
        }

    def blocks_at(self, timesteps: list[int]) -> list[str]:
        """Return the blocks that hold any of `timesteps`."""
        return [block for block, members in self.blocks.items() if set(timesteps) & set(members)]

    def latents(self, dataset: str, *, samples: int | None = None) -> list[str]:
        """Return the latents of `dataset` that hold its first `samples` images (all of them by default)."""
        return self._captured(LATENTS, dataset, samples, list(self.blocks))

    def latents_of_block(self, dataset: str, block: str, samples: int) -> list[str]:
        """Return one block's latents of `dataset` that hold its first `samples` images."""
        return self._captured(LATENTS, dataset, samples, [block])

    def attention(self, dataset: str) -> list[str]:
        """Return all attention stores of `dataset`."""
        return self._captured(ATTENTION, dataset, None, list(self.blocks))

    def all_attention(self) -> list[str]:
        """Return the attention stores of both data sets."""
        return [path for dataset in self.datasets for path in self.attention(dataset)]

    def untrained(self) -> list[str]:
        """Return the stores of the untrained twins, in the order of the domains."""
        return [f"results/untrained/{self.model}/{dataset}.zarr.zip" for dataset in self.datasets]

    # Ablation, and the reference images behind it

    @property
    def ablation_blocks(self) -> list[str]:
        """The blocks in which heads are ablated."""
        return [block for block in self.blocks if self.ablated_in(block)]

    def ablated_in(self, block: str) -> list[int]:
        """Return the timesteps of `block` at which heads are ablated."""
        return sorted(set(self.config.ablation_timesteps) & set(self.blocks[block]))

    def ablation_settings(self, group: str) -> dict[str, Any]:
        """Return the settings one ablation job depends on; only mechanisms have controls of their own."""
        keys = ["methods", "window", "reference_samples", "method_samples"]
        if group == "mechanisms":
            keys += ["controls", "alpha"]
        return self.study.settings(ablation=keys)

    @property
    def among_references(self) -> dict[str, int]:
        """Among which images reference images are chosen, how many, and how many are studied."""
        config = self.config
        first, count, stop = config.reference_ids[0], config.ablation.reference_samples, config.capture.samples
        studied, tested = config.studied_samples, config.tested_samples
        return {"studied": studied, "tested": tested, "first": first, "stop": stop, "count": count}

    def reference_latents(self, dataset: str, block: str, chosen: str | None = None) -> list[str]:
        """Return one block's latents of `dataset` that hold the reference images, or those of the table `chosen`."""
        if chosen is None:
            return self._holding(dataset, block, self.config.reference_ids)
        with Path(chosen).open(encoding="utf-8", newline="") as rows:
            own = [row for row in csv.DictReader(rows) if row["domain"] == self.study.domain_of(dataset)]
        return self._holding(dataset, block, [int(row["sample"]) for row in own])

    def ablation_references(self, group: str, block: str) -> list[str]:
        """Return the reference outputs one ablation job needs: mechanisms match their controls over all blocks."""
        needed = self.ablation_blocks if group == "mechanisms" else [block]
        return [REFERENCE.format(model=self.model, block=name) for name in needed]

    def ablation_latents(self, dataset: str, block: str, shard: str) -> list[str]:
        """Return the latents that hold the images of one ablation shard in one block."""
        return self._holding(dataset, block, self.ablation_shards[shard])

    def ablations(self, dataset: str, group: str) -> list[str]:
        """Return the ablation stores of one group of heads on `dataset`."""
        return [
            ABLATION.format(model=self.model, dataset=dataset, group=group, block=block, shard=shard)
            for block in self.ablation_blocks
            for shard in self.ablation_shards
        ]

    def ablation_names(self) -> dict[str, dict[str, str]]:
        """Return, per domain and group, the name under which `ablation_effects` gets the stores."""
        groups = self.config.ablation.groups
        return {domain: {group: f"{domain}_{group}" for group in groups} for domain in self.domains}

    def named_ablations(self) -> dict[str, list[str]]:
        """Return all ablation stores by the names of `ablation_names`."""
        return {
            name: self.ablations(self.domains[domain], group)
            for domain, groups in self.ablation_names().items()
            for group, name in groups.items()
        }

    def phases(self, windows: Any) -> list[str]:
        """Return the table of phases where the windows of timesteps are the phases."""
        return [PHASES.at(model=self.model)] if windows == "phases" else []

    # Circuits

    def circuit_latents(self, dataset: str) -> list[str]:
        """Return the latents of the images and timesteps whose effects are attributed to heads."""
        samples = self.config.circuit_samples
        return [path for block in self.ablation_blocks for path in self.latents_of_block(dataset, block, samples)]

    def discovery_latents(self, dataset: str) -> list[str]:
        """Return the latents of the images and timesteps on which the circuit of `dataset` is sought."""
        samples = self.config.discovery_samples
        blocks = self.blocks_at(self.config.discovery_timesteps)
        return [path for block in blocks for path in self.latents_of_block(dataset, block, samples)]

    def discovery_references(self) -> list[str]:
        """Return the reference outputs of the timesteps at which a circuit is sought."""
        blocks = self.blocks_at(self.config.discovery_timesteps)
        return [REFERENCE.format(model=self.model, block=block) for block in blocks]

    def ranked_by(self, dataset: str) -> list[str]:
        """Return the ablations that rank the heads of a circuit, none where gradients do."""
        return self.ablations(dataset, "heads") if self.config.discovery.ranking == "exact" else []

    def circuits(self) -> list[str]:
        """Return the circuits, in the order of the domains."""
        return [CIRCUIT.format(model=self.model, dataset=dataset) for dataset in self.datasets]

    # Activation patching

    @property
    def patching_sources(self) -> dict[str, str]:
        """What the second pass of activation patching is, by its name in paths."""
        return {source_file(source): source for source in self.config.patching_sources}

    def patching_latents(self, dataset: str, source: str) -> list[str]:
        """Return the latents between whose passes heads are patched; other samples are paired with as many more."""
        samples = self.config.patching.samples * (2 if source == "sample" else 1)
        blocks = self.blocks_at(self.config.patching_timesteps)
        return [path for block in blocks for path in self.latents_of_block(dataset, block, samples)]

    def patching_names(self) -> dict[str, dict[str, str]]:
        """Return, per domain and source, the name under which `patching_effects` gets the store."""
        sources = list(self.patching_sources)
        return {domain: {s: f"{domain}_{index}" for index, s in enumerate(sources)} for domain in self.domains}

    def named_patching(self) -> dict[str, str]:
        """Return all patching stores by the names of `patching_names`."""
        return {
            name: PATCHING.format(model=self.model, dataset=self.domains[domain], source=source)
            for domain, sources in self.patching_names().items()
            for source, name in sources.items()
        }

    @property
    def patching_windows(self) -> Any:
        """The windows of activation patching, in plain values."""
        windows = self.config.patching_windows
        return windows if isinstance(windows, str) else [list(window) for window in windows]

    # Planted denoisers

    def paired_latents(self, domain: str) -> list[str]:
        """Return the latents of `domain` on which pairs of heads, and untrained twins, are ablated, with references."""
        samples = max(self.config.ablation.pair_samples, self.config.untrained.samples)
        ids = [*range(samples), *self.config.reference_ids]
        return [path for block in self.ablation_blocks for path in self._holding(self.domains[domain], block, ids)]

    def recoveries(self) -> list[str]:
        """Return the tables of what was found of a planted denoiser, none for one that was not planted."""
        if self.config.model.source != "planted":
            return []
        return [table.at(model=self.model) for table in (RECOVERY, PAIRS, SUMMARY)]

    def symmetric_domains(self) -> dict[str, bool]:
        """Return, by domain, whether its images are planted ones whose fine structure is mirrored."""
        return {
            domain: getattr(self.config.datasets[name], "symmetric", False) for domain, name in self.domains.items()
        }

    def _holding(self, dataset: str, block: str, ids: Iterable[int]) -> list[str]:
        """Return one block's latents of `dataset` that hold any of the images `ids`."""
        wanted = set(ids)
        return [
            LATENTS.format(model=self.model, dataset=dataset, block=block, shard=shard)
            for shard, members in self.shards.items()
            if wanted & set(members)
        ]

    def _captured(self, pattern: str, dataset: str, samples: int | None, block_names: list[str]) -> list[str]:
        return [
            pattern.format(model=self.model, dataset=dataset, block=block, shard=shard)
            for block in block_names
            for shard, ids in self.shards.items()
            if samples is None or ids[0] < samples
        ]
