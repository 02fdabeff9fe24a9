"""What is planned is what a capture then takes, a capture without room for it is refused, and a plan needs no data."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_captures import RUNTIME

from diffmech.artifacts import zip_directory
from diffmech.attention import budget
from diffmech.attention.archive import archiving
from diffmech.attention.budget import Contents, readable, store_contents, stored_values
from diffmech.attention.calibration import calibrate, example_image, example_latents
from diffmech.attention.capture import capture_attention, lay_out, observe_passes, store_axes, survey_sites
from diffmech.attention.keeping import choose_kept
from diffmech.attention.passes import open_latents
from diffmech.attention.plan_study import Workload, plan_study
from diffmech.attention.planning import Estimate, beside_latents, capture_jobs, makespan, plan_captures, plan_latents
from diffmech.config.load import read_config
from diffmech.config.study import CaptureConfig, KeptPasses, LatentsConfig
from diffmech.errors import ConfigError, StoreError
from diffmech.machine import duration, free_disk, free_memory
from diffmech.models.load import load_denoiser

ROOT = Path(__file__).parents[3]
MakeLatents = Callable[..., Path]


def planned_and_written(
    latents: Path, model_json: Path, folder: Path, capture: CaptureConfig
) -> tuple[Contents, dict[str, int], int]:
    """Return what is planned on the empty store, the bytes of its chunks once filled, and those of the zip."""
    passes, denoiser = open_latents(latents), load_denoiser(model_json, device="cpu")
    layouts = survey_sites(denoiser, passes)
    timesteps = passes.timesteps.tolist()
    kept = choose_kept(capture, layouts, passes.samples.tolist(), dict(zip(timesteps, timesteps, strict=True)))
    directory = folder / "store"
    with archiving(directory) as store:
        arrays = lay_out(store, layouts, store_axes(passes), kept=kept, attrs={})
        contents = store_contents(store, arrays)
        observe_passes(denoiser, layouts, passes, arrays, kept, RUNTIME)
    zip_directory(directory, folder / "store.zip")
    return contents, stored_values(folder / "store.zip", arrays), (folder / "store.zip").stat().st_size


@pytest.mark.parametrize(
    "capture",
    [
        CaptureConfig(keep_maps=0),
        CaptureConfig(keep_maps=3, keep_factors=2),
        CaptureConfig(keep_maps=2, maps_of=KeptPasses(timesteps=[700], sites=["*.self"])),
    ],
    ids=["statistics", "both", "narrowed"],
)
def test_all_that_is_not_compressed_is_planned_to_the_byte(
    latents: MakeLatents, model_json: Path, tmp_path: Path, capture: CaptureConfig
) -> None:
    contents, stored, size = planned_and_written(latents(), model_json, tmp_path, capture)
    ratios = {name: stored[name] / contents.values[name] for name in stored}
    assert contents.bytes(ratios=ratios) == size
    assert contents.bytes(["statistics"], ratios) < size or not capture.keep_maps


@pytest.mark.parametrize("chunk", [None, 3], ids=["one chunk", "a last chunk that is filled up"])
def test_latents_are_planned_with_all_that_is_beside_images(
    latents: MakeLatents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int | None
) -> None:
    if chunk is not None:
        monkeypatch.setattr("diffmech.attention.latents.CHUNK_BYTES", 4 * 16 * 16 * chunk)
    written = latents(sample_ids=range(7), timesteps=(100, 400, 700), folder=f"chunks of {chunk}")
    found = open_latents(written)
    beside = partial(
        beside_latents, shape=(1, 16, 16), attributes=["glasses", "smile"], latents=LatentsConfig(), folder=tmp_path
    )
    planned = plan_latents({(7, (100, 400, 700)): 3}, found, beside)
    # names of data set and domain differ, and so does what is compressed of conditions
    assert planned.disk == pytest.approx(3 * written.stat().st_size, abs=3 * 100)
    assert planned.most_disk == planned.disk


def test_values_are_counted_before_compression(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    narrowed = CaptureConfig(keep_maps=2, maps_of=KeptPasses(timesteps=[700], sites=["up0.1.self"]))
    contents, _, _ = planned_and_written(latents(), model_json, tmp_path, narrowed)
    assert contents.part("maps") == 2 * 1 * 4 * 64 * 64 * 2  # samples, timesteps, heads, queries, keys, float16
    assert contents.values["loss"] == 6 * 2 * 4
    assert contents.part("factors") == 0


def test_a_capture_takes_the_disk_that_was_planned_without_its_images(
    latents: MakeLatents, model_json: Path, tmp_path: Path
) -> None:
    denoiser, capture = load_denoiser(model_json, device="cpu"), CaptureConfig(keep_maps=3, keep_factors=2)
    measured = calibrate(denoiser, example_latents(denoiser, 4, [100, 700]), RUNTIME, tmp_path)
    jobs = {(6, (100, 700)): 1}
    (row,) = [
        row
        for row in plan_captures(jobs, measured, capture=capture, runtime=RUNTIME, folder=tmp_path)
        if row.configured
    ]
    capture_attention(latents(), model_json, tmp_path / "store.zarr.zip", capture=capture, runtime=RUNTIME)
    assert (tmp_path / "store.zarr.zip").stat().st_size == pytest.approx(row.disk, rel=0.1)
    assert row.disk < row.most_disk
    assert row.seconds > 0


def test_each_choice_of_what_is_kept_is_told_and_the_configured_one_marked(model_json: Path, tmp_path: Path) -> None:
    denoiser = load_denoiser(model_json, device="cpu")
    measured = calibrate(denoiser, example_latents(denoiser, 4, [100, 700]), RUNTIME, tmp_path)
    rows = plan_captures(
        {(6, (100, 700)): 2, (3, (100,)): 1},
        measured,
        capture=CaptureConfig(keep_maps=0, keep_factors=3),
        runtime=RUNTIME,
        folder=tmp_path,
    )
    assert [row.what.removeprefix("captures: ") for row in rows] == [
        "statistics only",
        "maps of 3",
        "factors of 3",
        "maps of 3, factors of 3",
    ]
    assert [row.configured for row in rows] == [False, False, True, False]
    assert {row.jobs for row in rows} == {3}
    disk = [row.disk for row in rows]
    assert disk[0] < disk[2] < disk[1] < disk[3]
    assert disk[3] == pytest.approx(disk[1] + disk[2] - disk[0], abs=2)  # each is rounded to whole bytes


def test_a_capture_that_the_disk_cannot_hold_is_refused_before_its_passes(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "free_disk", lambda folder: 20_000)
    monkeypatch.setattr("diffmech.attention.capture.observe_passes", lambda *arguments: pytest.fail("it ran"))
    with pytest.raises(StoreError, match=r"needs at least .* \(statistics .* \+ maps .*20 kB are free in .*keep_maps"):
        capture_attention(
            latents(), model_json, tmp_path / "a.zarr.zip", capture=CaptureConfig(keep_maps=6), runtime=RUNTIME
        )
    assert not list(tmp_path.iterdir())


def test_a_capture_that_surely_fits_is_not_refused(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, capture = tmp_path / "a.zarr.zip", CaptureConfig(keep_maps=6, keep_factors=6)
    capture_attention(latents(), model_json, output, capture=capture, runtime=RUNTIME)
    size = output.stat().st_size
    monkeypatch.setattr(budget, "free_disk", lambda folder: size)
    output.unlink()
    capture_attention(latents(), model_json, output, capture=capture, runtime=RUNTIME)
    assert output.stat().st_size == size


def test_passes_that_memory_cannot_hold_are_refused_with_the_batch_that_may_fit(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "free_memory", lambda: 50_000)
    with pytest.raises(
        ConfigError, match=r"^runtime.batch_size: passes of 4 images .* 50 kB are left; give at most \d"
    ):
        capture_attention(
            latents(), model_json, tmp_path / "a.zarr.zip", capture=CaptureConfig(keep_maps=0), runtime=RUNTIME
        )
    monkeypatch.setattr(budget, "free_memory", lambda: None)  # a system that does not tell refuses nothing
    capture_attention(
        latents(), model_json, tmp_path / "a.zarr.zip", capture=CaptureConfig(keep_maps=0), runtime=RUNTIME
    )


def system(folder: Path, groups: str, **files: str) -> Path:
    """Write a /proc and a /sys with 8 GB of available memory; `__` in names of files stands for /."""
    for name, text in {
        "proc__meminfo": "MemTotal: 9 kB\nMemAvailable: 8000000 kB\n",
        "proc__self__cgroup": groups,
        **files,
    }.items():
        path = folder / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_limit_of_a_control_group_bounds_the_free_memory(tmp_path: Path) -> None:
    assert free_memory(system(tmp_path / "plain", "0::/\n")) == 8_192_000_000
    files = {
        "sys__fs__cgroup__job__memory-max": "3000000000\n",
        "sys__fs__cgroup__job__memory-current": "1000000000\n",
        "sys__fs__cgroup__job__memory-stat": "anon 5\ninactive_file 500000000\n",
        "sys__fs__cgroup__job__step__memory-max": "max\n",
    }
    assert free_memory(system(tmp_path / "two", "0::/job/step\n", **files)) == 2_500_000_000
    files = {
        "sys__fs__cgroup__memory__memory-limit_in_bytes": "2000000000\n",
        "sys__fs__cgroup__memory__memory-usage_in_bytes": "1500000000\n",
        "sys__fs__cgroup__memory__memory-stat": "total_inactive_file 0\n",
    }
    assert free_memory(system(tmp_path / "one", "4:cpu,memory:/docker/x\n1:cpu:/\n", **files)) == 500_000_000


def test_where_the_system_does_not_tell_its_memory_nothing_is_said(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def tiny_config(**edit: Any) -> Any:
    return read_config(ROOT / "config.yaml", ROOT / "resources/studies/tiny.yaml").model_copy(update=edit)


def test_a_study_is_planned_before_its_data_exist_and_its_denoiser_is_trained(tmp_path: Path) -> None:
    shards, blocks = [list(range(8)), list(range(8, 16))], [[10], [60]]
    plan = plan_study(
        tiny_config(), Workload(shards, blocks, ablations=4, side_by_side=2), results=tmp_path / "r", root=ROOT
    )
    lines = plan.splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("captures:")] == [
        ["statistics", "only"],
        ["maps", "of"],
        ["factors", "of"],
        ["maps", "of"],
    ]
    (configured,) = [line for line in lines if line.endswith("<- configured")]
    assert configured.startswith("captures: maps of 2 ")
    assert "random weights" in lines[-1]
    first = [line.split()[0] for line in lines if line]
    for what in ("training", "denoising", "gallery", "told", "patching,", "sampling", "circuits,"):
        assert first.count(what) == 1, what
    assert not list((tmp_path / "r").iterdir())


def test_a_pipeline_is_planned_from_generated_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    pipeline = config.model.model_copy(update={"source": "pipeline", "location": "nowhere"})
    config = config.model_copy(update={"models": {"tiny": pipeline}})
    monkeypatch.setattr("diffmech.attention.plan_study.import_denoiser", lambda *given, **named: None)
    monkeypatch.setattr("diffmech.attention.plan_study.load_denoiser", lambda *given, **named: None)
    missing = tmp_path / "results/generated/s0.zarr.zip"
    with pytest.raises(StoreError, match=r"s0.zarr.zip: is not there yet.*run `snakemake .*s0.zarr.zip` first"):
        plan_study(
            config,
            Workload([[0, 1]], [[10]], ablations=1, side_by_side=1),
            results=tmp_path,
            root=ROOT,
            generated=missing,
        )


def test_a_small_data_set_has_fewer_and_smaller_jobs() -> None:
    shards, blocks = [[0, 1, 2], [3, 4]], [[10, 20], [90]]
    assert capture_jobs(shards, blocks, [5, 2]) == {
        (3, (10, 20)): 1,
        (3, (90,)): 1,
        (2, (10, 20)): 2,
        (2, (90,)): 2,
    }


def test_jobs_side_by_side_take_their_share_of_the_time_but_no_less_than_the_longest() -> None:
    rows = [
        Estimate("a", jobs=8, disk=0, most_disk=0, seconds=80, longest=10),
        Estimate("b", jobs=2, disk=0, most_disk=0, seconds=60, longest=50),
    ]
    assert makespan(rows, 1) == 80 + 60
    assert makespan(rows, 4) == 20 + 50


def test_a_stand_in_for_an_image_has_the_spectrum_of_natural_ones() -> None:
    power = np.mean([np.abs(np.fft.fft2(example_image((1, 64, 64), sample)[0])) ** 2 for sample in range(40)], 0)
    low, high = power[0, 2] + power[2, 0], power[0, 16] + power[16, 0]
    assert np.log2(low / high) / np.log2(16 / 2) == pytest.approx(2, abs=0.5)  # amplitude 1/f is power 1/f^2


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (72.5e9, "72.5 GB"), (2.5e15, "2,500 TB")]
)
def test_bytes_are_told_in_the_unit_that_fits(size: float, text: str) -> None:
    assert readable(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4.2 s"), (59, "59 s"), (150, "2.5 min"), (7200, "2 h"), (864000, "10.0 days")]
)
def test_times_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
