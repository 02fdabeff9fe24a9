"""A tiny Stable Diffusion on disk, its pointer, and a shard of generated images, made once."""

from pathlib import Path

import pytest
from tiny_pipelines import stable_diffusion

from diffmech.attention.generated import generate_images
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, Prompts
from diffmech.config.models import DenoiserConfig, SamplingConfig
from diffmech.models.importing import import_denoiser

PIPELINE_RUNTIME = RuntimeConfig(progress=False, device="cpu", batch_size=2)
PIPELINE_PROMPTS = Prompts(kind="prompts", prompts=["a photo of a face", "a drawing of a hat", "a face with glasses"])
PIPELINE_SAMPLING = SamplingConfig(steps=4, guidance=5.0)


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
