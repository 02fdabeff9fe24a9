"""Two clones share trainings and captures (`snakemake --cache`): the same bytes, and nothing of another setting."""

import conftest
import pytest

pytestmark = pytest.mark.workflow

CAPTURED = "results/attention/tiny/lfw_subset/t0000-0049/s00000000-00000007.zarr.zip"
GALLERY = "results/models/tiny/gallery.zarr.zip"


def run(project, *targets: str, edit=None):
    done = project.snakemake(*targets, "--cache", "--cores", "2", edit=edit)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return project.folder


def ran(folder) -> set[str]:
    """Return the rules of which a job ran in a folder: only that tells beside its log what it was told."""
    return {path.relative_to(folder / "results/logs").parts[0] for path in (folder / "results/logs").rglob("*.json")}


def test_a_second_clone_takes_what_the_first_computed_and_another_setting_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(conftest.CPU, "SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "shared"))
    first, second, third = (conftest.copy_project(tmp_path / name) for name in ("first", "second", "third"))
    one = run(first, CAPTURED)
    assert ran(one) >= {"train_denoiser", "capture_attention"}
    two = run(second, CAPTURED, GALLERY)  # the latter loads the denoiser that was trained elsewhere
    assert ran(two) == {"prepare_dataset", "make_latents", "generate_gallery"}
    shared = [CAPTURED, *(path.relative_to(one).as_posix() for path in (one / "results/models/tiny").rglob("*.*"))]
    assert len(shared) == 10, shared
    for path in shared:
        assert (two / path).read_bytes() == (one / path).read_bytes()
        assert (two / path).resolve() == (one / path).resolve()
        assert (tmp_path / "shared") in (two / path).resolve().parents
    edit = {"models": {"tiny": {"training": {"steps": 7}}}}
    three = run(third, "results/models/tiny/model.json", edit=edit)
    assert "train_denoiser" in ran(three)
    weights = "results/models/tiny/unet/diffusion_pytorch_model.safetensors"
    assert (three / weights).read_bytes() != (one / weights).read_bytes()


def test_a_rule_whose_results_are_not_shared_is_named(module_project, tmp_path, monkeypatch):
    monkeypatch.setitem(conftest.CPU, "SNAKEMAKE_OUTPUT_CACHE", str(tmp_path))
    done = module_project.snakemake("--dry-run", CAPTURED, "--cache", "heldout_loss")
    assert done.returncode != 0
    assert "config: --cache heldout_loss: its results are not shared between workflows" in done.stdout + done.stderr
