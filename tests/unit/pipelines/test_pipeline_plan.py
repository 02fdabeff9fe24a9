"""A study of a pipeline is planned from one shard of its images: both passes of guidance, and the tokens of prompts."""

from pathlib import Path

import pytest
from tiny_pipelines import PIPELINE_PROMPTS, PIPELINE_RUNTIME

from diffmech.attention.calibration import STEPS, spread
from diffmech.attention.capture import capture_attention
from diffmech.attention.generated import generated_latents
from diffmech.attention.plan_study import Workload, calibrate_study, plan_study
from diffmech.attention.planning import plan_captures
from diffmech.config.analysis import AblationConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.config.patching import PatchingConfig
from diffmech.config.root import Config
from diffmech.config.study import CaptureConfig, LatentsConfig, StudyConfig, UntrainedConfig

TIMESTEPS = [100, 500, 900]


def study(pipeline_folder: Path) -> Config:
    return Config(
        study=StudyConfig(name="tiny", model="sd", domains={"real": "photos", "drawn": "drawings"}),
        images=ImagesConfig(size=16, channels=3),
        datasets={"photos": PIPELINE_PROMPTS, "drawings": PIPELINE_PROMPTS},
        models={"sd": DenoiserConfig(source="pipeline", location=str(pipeline_folder))},
        latents=LatentsConfig(),
        capture=CaptureConfig(timesteps=TIMESTEPS, samples=32, shard_size=5, keep_maps=2, keep_factors=2),
        untrained=UntrainedConfig(samples=4),
        ablation=AblationConfig(samples=8, reference_samples=4),
        patching=PatchingConfig(samples=4),
        runtime=PIPELINE_RUNTIME,
    )


def test_a_pipeline_is_planned_without_its_text_encoders(
    generated: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    plan = plan_study(
        study(pipeline_folder),
        Workload([list(range(5))], [TIMESTEPS], ablations=1, side_by_side=1),
        results=tmp_path,
        root=tmp_path,
        generated=generated,
    )
    assert f"{2 * 32 * 3 * 2:,} passes" in plan  # data sets, samples, timesteps, branches of guidance
    assert "captures: maps of 2, factors of 2" in plan


def test_a_capture_of_a_pipeline_takes_the_disk_that_was_planned(
    generated: Path, pipeline_folder: Path, pipeline_json: Path, tmp_path: Path
) -> None:
    config = study(pipeline_folder)
    (tmp_path / "plan").mkdir()
    measured = calibrate_study(
        config, 5, results=tmp_path, folder=tmp_path / "plan", root=tmp_path, generated=generated
    )[1]
    jobs = {(5, tuple(TIMESTEPS)): 1}
    rows = plan_captures(jobs, measured, capture=config.capture, runtime=config.runtime, folder=tmp_path)
    latents, output = tmp_path / "latents.zarr.zip", tmp_path / "attention.zarr.zip"
    generated_latents(
        generated,
        pipeline_json,
        latents,
        dataset="photos",
        domain="real",
        timesteps=spread(TIMESTEPS, STEPS),
        among=TIMESTEPS,
        sample_ids=range(5),
        latents=config.latents,
    )
    capture_attention(latents, pipeline_json, output, capture=config.capture, runtime=config.runtime)
    (row,) = [row for row in rows if row.configured]
    assert output.stat().st_size == pytest.approx(row.disk, rel=0.1)
