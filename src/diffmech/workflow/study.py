"""The study as the rules see it: validated settings, the code each rule depends on, and which files answer what.

Paths and targets are pure functions of the validated configuration. Nothing here imports torch, diffusers or xarray.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffmech.config.images import IDENTITIES
from diffmech.config.load import validate
from diffmech.config.patching import source_file
from diffmech.config.section import Section
from diffmech.workflow.fingerprints import fingerprint, module_file
from diffmech.workflow.own_code import code_digest, find_code
from diffmech.workflow.shards import blocks, shards

CHOSEN = "results/ablation/{model}/references.csv"
UNSEEN = "results/unseen/{model}/{dataset}.zarr.zip"
GENERATED = "results/generated/{model}/{dataset}/{shard}.zarr.zip"
LATENTS = "results/latents/{model}/{dataset}/{block}/{shard}.zarr.zip"
ATTENTION = "results/attention/{model}/{dataset}/{block}/{shard}.zarr.zip"
ABLATION = "results/ablation/{model}/{dataset}/{group}/{block}/{shard}.zarr.zip"
CIRCUIT = "results/circuit/{model}/{dataset}/circuit.json"
GROUPS = "results/{folder}/{dataset}.groups.csv"  # beside the store whose images it numbers
REFERENCE = "results/ablation/{model}/{block}.reference.zarr.zip"
PATCHING = "results/patching/{model}/{dataset}/{source}.zarr.zip"

# Modules that `diffmech.models.load` finds by name, by the source of the denoiser: no import leads to them.
LOADERS = {
    "pipeline": "diffmech.models.pipelines",
    "custom": "diffmech.models.implementation",
    "planted": "diffmech.planted.denoiser",
}


def gpus(device: str) -> int:
    """Return how many GPUs a job that runs the denoiser takes: none where it runs on the CPU, so that jobs run at once.

    `auto` means CUDA where this machine has it. The driver's device node tells, since asking torch takes seconds.
    """
    if device == "auto":
        return int(Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    return int(device != "cpu")


class Study:
    """One validated config.yaml and the files it asks for."""

    def __init__(self, raw: Mapping[str, Any], root: Path) -> None:
        """Validate `raw` (ConfigError, one line per mistake); `root` is the folder that holds the Snakefile."""
        self.config = validate(raw)
        self.root = root
        self.model = self.config.study.model
        self.domains = self.config.study.domains
        self.datasets = list(self.domains.values())
        self.seed = self.config.study.seed
        self.threads = self.config.runtime.threads
        self.training_threads = self.config.runtime.training_threads
        self.gpus = gpus(self.config.runtime.device)
        self.blocks = blocks(self.config.capture.timesteps, self.config.capture.block_span)
        self.shards = shards(self.config.capture.samples, self.config.capture.shard_size)
        self.ablation_shards = shards(self.config.ablation.samples, self.config.ablation.shard_size)
        self.prompted = [name for name, dataset in self.config.datasets.items() if dataset.kind == "prompts"]
        self.collected = [name for name in self.config.datasets if name not in self.prompted]
        self.trained = [name for name, model in self.config.models.items() if model.source == "train"]
        self.imported = [name for name, model in self.config.models.items() if model.source != "train"]

    # What a rule tracks

    def settings(self, **sections: Section | list[str]) -> dict[str, Any]:
        """Return the canonical settings a rule depends on: a whole section, or the named keys of a top-level one."""
        tracked = {}
        for name, what in sections.items():
            if isinstance(what, list):
                canonical = getattr(self.config, name).canonical()
                tracked[name] = {key: canonical[key] for key in what}
            else:
                tracked[name] = what.canonical()
        return tracked

    def code(self, script: str) -> str:
        """Return the fingerprint of `workflow_scripts/<script>.py` and all library code that it reaches."""
        return fingerprint(self.root / "workflow_scripts" / f"{script}.py")

    def denoising_code(self, script: str) -> str:
        """Return `code(script)` of a script that runs the studied denoiser, with the module that loads this kind."""
        loader = LOADERS.get(self.config.model.source)
        return self.code(script) + (fingerprint(module_file(loader)) if loader else "")

    def source_code(self, dataset: str) -> str:
        """Return the fingerprint of the module that reads this kind of data set, which its script loads by name."""
        module = self.config.datasets[dataset].implementation.split(":")[0]
        return fingerprint(module_file(module))

    def own_code(self, model: str) -> str:
        """Return the digest of the user's code behind a custom denoiser, empty for others and where there is none."""
        implementation = self.config.models[model].implementation
        code = find_code(implementation, self.root) if implementation else None
        return code_digest(code) if code else ""

    def own_files(self, model: str) -> list[str]:
        """Return the files of weights and schedule that a custom denoiser names, as far as they exist."""
        config = self.config.models[model]
        named = [Path(name).expanduser() for name in (config.weights, config.schedule.config) if name]
        found = [path if path.exists() else self.root / path for path in named]
        files = [path / "scheduler_config.json" if path.is_dir() else path for path in found]
        return [str(path) for path in files if path.is_file()]

    def checkpoints(self, model: str) -> str:
        """Return the folder where a training keeps its checkpoints: undeclared, since outputs are deleted on retry."""
        settings = json.dumps(self.config.models[model].canonical(), sort_keys=True)
        return f"results/.checkpoints/{model}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def workload(self, cores: int) -> dict[str, Any]:
        """Return how the study is cut into jobs, and how many of those that run the denoiser fit on so many cores."""
        per_block = 1 + len(self.datasets) * len(self.config.ablation.groups) * len(self.ablation_shards)
        return {
            "shards": list(self.shards.values()),
            "blocks": list(self.blocks.values()),
            "ablations": len(self.ablation_blocks) * per_block,
            "side_by_side": 1 if self.gpus else max(1, cores // self.threads),
        }

    def domain_of(self, dataset: str) -> str:
        """Return the domain that `dataset` stands for."""
        return next(domain for domain, name in self.domains.items() if name == dataset)

    @property
    def grouped(self) -> list[str]:
        """The domains of which it is known which images belong together."""
        return [d for d, dataset in self.domains.items() if getattr(self.config.datasets[dataset], "group", None)]

    def groups(self, *datasets: str) -> list[str]:
        """Return the tables of groups of `datasets`, by default of both, in the order of `grouped`; often none."""
        return self._groups(self.studied_stores(), datasets)

    def groups_of_all(self) -> list[str]:
        """Return the tables of groups of whole data sets, also where only unseen images are studied."""
        return self._groups(self.dataset_stores(), ())

    def _groups(self, paths: list[str], datasets: tuple[str, ...]) -> list[str]:
        stores = dict(zip(self.domains, paths, strict=True))
        return [
            stores[domain].removesuffix(".zarr.zip") + ".groups.csv"
            for domain in self.grouped
            if not datasets or self.domains[domain] in datasets
        ]

    def group_table(self, dataset: str) -> list[str]:
        """Return the user's table that says which images of `dataset` belong together, where there is such a file."""
        config = self.config.datasets[dataset]
        named = {
            "image_folder": getattr(config, "labels", None),
            "celeba": f"{getattr(config, 'path', '')}/{IDENTITIES}",
        }
        table = named.get(config.kind)
        path = Path(table).expanduser() if table else None
        return [str(path)] if path is not None and path.is_file() else []

    def symmetric_domains(self) -> dict[str, bool]:
        """Return, by domain, whether its images are planted ones whose fine structure is mirrored."""
        return {
            domain: getattr(self.config.datasets[name], "symmetric", False) for domain, name in self.domains.items()
        }

    # Which files answer what

    def dataset_stores(self) -> list[str]:
        """Return the data set stores, in the order of the domains: what a denoiser is trained on."""
        return [f"results/datasets/{dataset}.zarr.zip" for dataset in self.datasets]

    def studied_store(self, dataset: str) -> str:
        """Return the store of the images of `dataset` that are studied: all, or those the denoiser never saw."""
        if self.config.capture.images == "all":
            return f"results/datasets/{dataset}.zarr.zip"
        return UNSEEN.format(model=self.model, dataset=dataset)

    def studied_stores(self) -> list[str]:
        """Return the stores of the studied images, in the order of the domains."""
        return [self.studied_store(dataset) for dataset in self.datasets]

    def generated(self, dataset: str) -> list[str]:
        """Return the generated images of a data set of prompts, none for a data set of images."""
        if dataset not in self.prompted:
            return []
        return [GENERATED.format(model=self.model, dataset=dataset, shard=shard) for shard in self.shards]

    def latents(self, dataset: str, *, samples: int | None = None) -> list[str]:
        """Return the latents of `dataset` that hold its first `samples` images (all of them by default)."""
        return self._captured(LATENTS, dataset, samples, list(self.blocks))

    def latents_of_block(self, dataset: str, block: str, samples: int) -> list[str]:
        """Return one block's latents of `dataset` that hold its first `samples` images."""
        return self._captured(LATENTS, dataset, samples, [block])

    def reference_latents(self, dataset: str, block: str, chosen: str | None = None) -> list[str]:
        """Return one block's latents of `dataset` that hold the reference images, or those of the table `chosen`."""
        if chosen is None:
            return self._holding(dataset, block, self.config.reference_ids)
        with Path(chosen).open(encoding="utf-8", newline="") as rows:
            own = [row for row in csv.DictReader(rows) if row["domain"] == self.domain_of(dataset)]
        return self._holding(dataset, block, [int(row["sample"]) for row in own])

    @property
    def among_references(self) -> dict[str, int]:
        """Among which images reference images are chosen, how many, and how many are studied."""
        config = self.config
        first, count, stop = config.reference_ids[0], config.ablation.reference_samples, config.capture.samples
        studied, tested = config.studied_samples, config.tested_samples
        return {"studied": studied, "tested": tested, "first": first, "stop": stop, "count": count}

    def circuit_latents(self, dataset: str) -> list[str]:
        """Return the latents of the images and timesteps whose effects are attributed to heads."""
        samples = self.config.circuit_samples
        return [path for block in self.ablation_blocks for path in self.latents_of_block(dataset, block, samples)]

    def discovery_latents(self, dataset: str) -> list[str]:
        """Return the latents of the images and timesteps on which the circuit of `dataset` is sought."""
        samples = self.config.discovery_samples
        blocks = [block for block, steps in self.blocks.items() if set(steps) & set(self.config.discovery_timesteps)]
        return [path for block in blocks for path in self.latents_of_block(dataset, block, samples)]

    def discovery_references(self) -> list[str]:
        """Return the reference outputs of the timesteps at which a circuit is sought."""
        blocks = [block for block, steps in self.blocks.items() if set(steps) & set(self.config.discovery_timesteps)]
        return [REFERENCE.format(model=self.model, block=block) for block in blocks]

    def ranked_by(self, dataset: str) -> list[str]:
        """Return the ablations that rank the heads of a circuit, none where gradients do."""
        return self.ablations(dataset, "heads") if self.config.discovery.ranking == "exact" else []

    def circuits(self) -> list[str]:
        """Return the circuits, in the order of the domains."""
        return [CIRCUIT.format(model=self.model, dataset=dataset) for dataset in self.datasets]

    def attention(self, dataset: str) -> list[str]:
        """Return all attention stores of `dataset`."""
        return self._captured(ATTENTION, dataset, None, list(self.blocks))

    def all_latents(self) -> list[str]:
        """Return the latents of both data sets."""
        return [path for dataset in self.datasets for path in self.latents(dataset)]

    def all_attention(self) -> list[str]:
        """Return the attention stores of both data sets."""
        return [path for dataset in self.datasets for path in self.attention(dataset)]

    def untrained(self) -> list[str]:
        """Return the stores of the untrained twins, in the order of the domains."""
        return [f"results/untrained/{self.model}/{dataset}.zarr.zip" for dataset in self.datasets]

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
        return self.settings(ablation=keys)

    def paired_latents(self, domain: str) -> list[str]:
        """Return the latents of `domain` on which pairs of heads, and untrained twins, are ablated, with references."""
        samples = max(self.config.ablation.pair_samples, self.config.untrained.samples)
        ids = [*range(samples), *self.config.reference_ids]
        return [path for block in self.ablation_blocks for path in self._holding(self.domains[domain], block, ids)]

    def recoveries(self) -> list[str]:
        """Return the tables of what was found of a planted denoiser, none for one that was not planted."""
        if self.config.model.source != "planted":
            return []
        return [f"results/planted/{self.model}/{table}.csv" for table in ("recovery", "pairs", "summary")]

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

    @property
    def patching_sources(self) -> dict[str, str]:
        """What the second pass of activation patching is, by its name in paths."""
        return {source_file(source): source for source in self.config.patching_sources}

    def patching_latents(self, dataset: str, source: str) -> list[str]:
        """Return the latents between whose passes heads are patched; other samples are paired with as many more."""
        samples = self.config.patching.samples * (2 if source == "sample" else 1)
        blocks = [block for block in self.blocks if set(self.config.patching_timesteps) & set(self.blocks[block])]
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

    def phases(self, windows: Any) -> list[str]:
        """Return the table of phases where the windows of timesteps are the phases."""
        return [f"results/mechanisms/{self.model}/phases.csv"] if windows == "phases" else []

    def other_domain(self, dataset: str) -> str:
        """Return the domain of the study that `dataset` does not stand for."""
        return next(domain for domain, name in self.domains.items() if name != dataset)

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
