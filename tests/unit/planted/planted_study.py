"""The steps of the planted study that its recovery needs, in one process and in the order of the rules."""

from pathlib import Path
from typing import Any

import yaml

from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.attention.untrained import capture_untrained
from diffmech.config.analysis import AblationConfig
from diffmech.config.load import merge
from diffmech.data.store import prepare_dataset
from diffmech.heads.paths import Heads
from diffmech.interventions.ablation import ablate_heads
from diffmech.interventions.effects import ablation_effects
from diffmech.interventions.reference import reference_outputs
from diffmech.mechanisms.clustering import cluster_heads
from diffmech.mechanisms.features import head_features
from diffmech.mechanisms.labels import label_mechanisms
from diffmech.mechanisms.phases import find_phases
from diffmech.models.importing import import_denoiser
from diffmech.planted.recovery import recover
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
# Of resources/studies/planted.yaml what its recovery needs, with half of the reference images and of those that
# untrained twins see; whole, over ten seeds, benchmarks/planted.py runs it.
ONE_TIMESTEP: dict[str, Any] = {
    "capture": {"timesteps": [60], "samples": 288},
    "ablation": {"timesteps": [60], "methods": ["mean"], "reference_samples": 32},
    "untrained": {"samples": 4},
}


class FewForPairs(AblationConfig):
    """Settings by which pairs of heads are ablated on fewer images: 78 of them take as long as all else."""

    @property
    def pair_samples(self) -> int:
        """Enough for random signs to tell the planted pair among all 78 (of 24 images too few show its line)."""
        return min(self.samples, 32)


def planted_study(seed: int, *overlays: dict[str, Any]) -> Study:
    """Return the study of resources/studies/planted.yaml with another seed of model and images."""
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    raw = merge(raw, yaml.safe_load((ROOT / "resources/studies/planted.yaml").read_text()))
    seeds = {
        "models": {"planted": {"planted": {"seed": seed}}},
        "datasets": {"symmetric_images": {"seed": 2 * seed}, "asymmetric_images": {"seed": 2 * seed + 1}},
        "runtime": {"progress": False, "device": "cpu"},
    }
    for overlay in (seeds, *overlays):
        raw = merge(raw, overlay)
    return Study(raw, ROOT)


def run_planted(study: Study, folder: Path, model_json: Path | None = None, *, few_for_pairs: bool = False) -> Path:
    """Run `study` in `folder` and return the folder of its recovery; `model_json` is studied in place of its model."""
    config, runtime = study.config, study.config.runtime
    ids = list(range(config.capture.samples))
    timesteps = config.capture.timesteps
    if model_json is None:
        model_json = folder / "model/model.json"
        import_denoiser(config.model, model_json, root=ROOT, images=config.images)
    attention, latents, datasets, untrained, ablations = ({} for _ in range(5))
    for domain, name in study.domains.items():
        datasets[domain] = folder / f"{name}.zarr.zip"
        prepare_dataset(config.datasets[name], config.images, datasets[domain], name=name, runtime=runtime)
        latents[domain] = [folder / f"{name}.latents.zarr.zip"]
        make_latents(
            datasets[domain],
            model_json,
            latents[domain][0],
            domain=domain,
            timesteps=timesteps,
            sample_ids=ids,
            latents=config.latents,
        )
        attention[domain] = [folder / f"{name}.attention.zarr.zip"]
        capture_attention(latents[domain][0], model_json, attention[domain][0], capture=config.capture, runtime=runtime)
        untrained[domain] = folder / f"{name}.untrained.zarr.zip"
        capture_untrained(latents[domain], model_json, untrained[domain], untrained=config.untrained, runtime=runtime)
    features, phases, members = (folder / name for name in ("features.zarr.zip", "phases.csv", "members.csv"))
    heads_csv, effects_csv = folder / "heads.csv", folder / "effects.csv"
    mechanisms = config.mechanisms
    tested = config.tested_samples
    head_features(
        attention, latents, datasets, untrained, features, mechanisms=mechanisms, tested=tested, seed=study.seed
    )
    find_phases(features, phases, mechanisms=mechanisms)
    cluster_heads(features, phases, members, folder / "clusters.csv", mechanisms=mechanisms)
    label_mechanisms(features, phases, members, heads_csv, mechanisms=mechanisms)
    reference = folder / "reference.zarr.zip"
    reference_outputs(latents, model_json, reference, reference_ids=config.reference_ids, runtime=runtime)
    for domain, files in latents.items():
        ablations[domain] = {"heads": [folder / f"{domain}.heads.zarr.zip"]}
        ablate_heads(
            files,
            model_json,
            [reference],
            ablations[domain]["heads"][0],
            group="heads",
            ablation=config.ablation,
            seed=study.seed,
            runtime=runtime,
        )
    ablation_effects(ablations, effects_csv, ablation=config.ablation, seed=study.seed)
    recover(
        model_json,
        heads_csv,
        effects_csv,
        latents,
        [reference],
        heads_output=folder / "recovery.csv",
        pairs_output=folder / "pairs.csv",
        summary_output=folder / "summary.csv",
        symmetric=Heads(study).symmetric_domains(),
        ablation=FewForPairs(**dict(config.ablation)) if few_for_pairs else config.ablation,
        untrained=config.untrained,
        seed=study.seed,
        runtime=runtime,
    )
    return folder
