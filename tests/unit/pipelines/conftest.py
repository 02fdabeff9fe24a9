"""A tiny Stable Diffusion on disk, its pointer, and a shard of generated images, made once."""

from pathlib import Path

import pytest
from tiny_pipelines import PIPELINE_PROMPTS, PIPELINE_RUNTIME, PIPELINE_SAMPLING, stable_diffusion

from diffmech.attention.generated import generate_images
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.models.importing import import_denoiser


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    stable_diffusion(folder / "tokenizer_files").save_pretrained(folder / "sd")
    return folder / "sd"


@pytest.fixture(scope="session")
def pipeline_json(pipeline_folder: Path) -> Path:
    output = pipeline_folder.parent / "models" / "sd" / "model.json"
    output.parent.mkdir(parents=True)
    config = DenoiserConfig(source="pipeline", location=str(pipeline_folder))
    import_denoiser(config, output, root=pipeline_folder.parent, images=ImagesConfig(size=16, channels=3))
    return output


@pytest.fixture(scope="session")
def generated(pipeline_json: Path) -> Path:
    output = pipeline_json.parents[2] / "generated.zarr.zip"
    generate_images(
        pipeline_json,
        output,
        prompts=PIPELINE_PROMPTS,
        sampling=PIPELINE_SAMPLING,
        size=16,
        sample_ids=range(5),
        runtime=PIPELINE_RUNTIME,
    )
    return output
