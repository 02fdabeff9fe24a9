"""A planted denoiser and its images in two halves, ready for the search of circuits."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from diffmech.artifacts import read_json
from diffmech.attention.latents import make_latents
from diffmech.attention.sites import HeadId
from diffmech.circuits.kept import KeptHeads
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.load import merge, validate
from diffmech.data.store import prepare_dataset
from diffmech.interventions.reference import open_reference, reference_outputs, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser

ROOT = Path(__file__).parents[3]
RUNTIME = RuntimeConfig(progress=False, device="cpu", batch_size=64)
TIMESTEPS = [60]
IMAGES = 16
REFERENCES = 16


@dataclass(frozen=True)
class PlantedFiles:
    """The files of a planted study of mirrored images, and the role of every head."""

    model_json: Path
    latents: Path
    reference: Path
    roles: dict[HeadId, str]

    def halves(self, *, untrained_seed: int | None = None, batch_size: int = 64) -> tuple[KeptHeads, KeptHeads]:
        """Return the discovery and the test half; untrained, nothing of the denoiser is built by hand."""
        denoiser = load_denoiser(self.model_json, device="cpu", untrained_seed=untrained_seed)
        files, references = open_latent_files([self.latents]), open_reference([self.reference])
        sites = tapped_sites(denoiser, files)
        runtime = RUNTIME.model_copy(update={"batch_size": batch_size})
        ids = files.samples[:IMAGES]
        first, second = (
            KeptHeads(
                denoiser,
                sites,
                files,
                references,
                samples=half,
                timesteps=TIMESTEPS,
                method="mean" if untrained_seed is None else "zero",
                seed=0,
                runtime=runtime,
            )
            for half in (ids[: IMAGES // 2], ids[IMAGES // 2 :])
        )
        return first, second

    def named(self, *roles: str) -> list[HeadId]:
        """Return the heads of these roles."""
        return [next(head for head, own in self.roles.items() if own == role) for role in roles]


def write_planted(folder: Path) -> PlantedFiles:
    """Build the denoiser of resources/studies/planted.yaml and what its search needs, on few images."""
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    config = validate(merge(raw, yaml.safe_load((ROOT / "resources/studies/planted.yaml").read_text())))
    model_json = folder / "model/model.json"
    few = config.model.planted.model_copy(update={"images": 64})
    import_denoiser(config.model.model_copy(update={"planted": few}), model_json, root=ROOT, images=config.images)
    dataset, latents, reference = (folder / f"{name}.zarr.zip" for name in ("dataset", "latents", "reference"))
    images = config.datasets["symmetric_images"].model_copy(update={"count": IMAGES + REFERENCES})
    prepare_dataset(images, config.images, dataset, name="symmetric_images", runtime=RUNTIME)
    make_latents(
        dataset,
        model_json,
        latents,
        domain="symmetric",
        timesteps=TIMESTEPS,
        sample_ids=list(range(IMAGES + REFERENCES)),
        latents=config.latents,
    )
    others = range(IMAGES, IMAGES + REFERENCES)
    reference_outputs({"symmetric": [latents]}, model_json, reference, reference_ids=others, runtime=RUNTIME)
    roles = {HeadId.parse(head): role for head, role in read_json(model_json)["roles"].items()}
    return PlantedFiles(model_json, latents, reference, roles)
