"""A class of the user's own is studied like every other denoiser, and what is wrong with it is said in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file

from diffmech.artifacts import open_store, read_json
from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.attention.sites import find_sites
from diffmech.attention.store import open_attention
from diffmech.attention.untrained import capture_untrained
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.load import read_config
from diffmech.config.models import DenoiserConfig, SamplingConfig, Schedule
from diffmech.config.study import CaptureConfig, LatentsConfig, UntrainedConfig
from diffmech.errors import ConfigError, ModelError
from diffmech.interventions.ablation import ablate_heads
from diffmech.interventions.reference import reference_outputs
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.heldout import heldout_loss
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import generate_gallery
from diffmech.testing import assert_same_up_to_rounding

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "own-model.md"
LINEAR = """
import torch
from torch import nn
class Linear(nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain
        self.layer = nn.Conv2d(1, 1, 1)
    def forward(self, x_t, timestep):
        return self.gain * self.layer(x_t)
"""

Write = Callable[..., DenoiserConfig]
Take = Callable[[DenoiserConfig], Path]
Observe = Callable[[DenoiserConfig], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and gives the entry of `models` that names it."""

    def run(text: str = LINEAR, name: str = "Linear", **keys: object) -> DenoiserConfig:
        (tmp_path / "mine.py").write_text(text)
        return DenoiserConfig(source="custom", implementation=f"mine.py:{name}", **keys)

    return run


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Return a function that imports a denoiser of 8 x 8 images and gives back its pointer."""

    def run(config: DenoiserConfig) -> Path:
        output = tmp_path / "results" / "models" / "mine" / "model.json"
        import_denoiser(config, output, root=tmp_path, images=ImagesConfig(size=8))
        return output

    return run


def code_block(language: str, index: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[index]


def predict(denoiser: Denoiser, condition: Condition | None = None) -> torch.Tensor:
    return denoiser.predict_noise(torch.linspace(-2, 2, 64).reshape(1, 1, 8, 8), 20, condition)


SMALL = {"patch": 2, "width": 16, "depth": 2, "size": 8}
ENTRY = DenoiserConfig(source="custom", implementation="mine.py:PatchDenoiser", arguments=SMALL)


@pytest.fixture
def observe(stores: dict[str, Path], quiet: RuntimeConfig, take: Take) -> Observe:
    """Return a function that captures the attention of a denoiser on three drawn faces."""

    def run(config: DenoiserConfig) -> Path:
        model_json = take(config)
        latents, output = model_json.with_name("latents.zarr.zip"), model_json.with_name("attention.zarr.zip")
        make_latents(
            stores["synthetic"],
            model_json,
            latents,
            domain="synthetic",
            timesteps=[100, 700],
            sample_ids=range(3),
            latents=LatentsConfig(),
        )
        capture_attention(latents, model_json, output, capture=CaptureConfig(keep_maps=3), runtime=quiet)
        return output

    return run


def test_documented_example_is_short_and_studied_from_latents_to_attention(tmp_path: Path, observe: Observe) -> None:
    example = code_block("python")
    assert len(example.splitlines()) <= 40
    (tmp_path / "patch_denoiser.py").write_text(example)
    (tmp_path / "study.yaml").write_text(code_block("yaml"))
    config = read_config(ROOT / "config.yaml", tmp_path / "study.yaml").model
    namespace: dict = {}
    exec(example, namespace)
    torch.save(namespace["PatchDenoiser"](**SMALL).state_dict(), tmp_path / "patch_denoiser.pt")
    with open_attention([observe(config.model_copy(update={"arguments": SMALL}))]) as store:
        assert sorted(store.children) == ["block00.self", "block01.self"]
        site = store["block01.self"].to_dataset()
        maps = site["maps"].values.astype(np.float64)
    assert maps.shape == (3, 2, 4, 16, 16)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=5e-3)  # 16 keys, each rounded to float16
    entropy = -(maps * np.log(np.maximum(maps, 1e-30))).sum(-1).mean(-1)
    np.testing.assert_allclose(site["entropy"].values, entropy, atol=5e-3)


def test_twins_ablations_losses_and_samples_of_the_example_are_made_too(
    tmp_path: Path, observe: Observe, stores: dict[str, Path], quiet: RuntimeConfig
) -> None:
    (tmp_path / "mine.py").write_text(code_block("python"))
    folder = observe(ENTRY).parent
    model, latents = folder / "model.json", folder / "latents.zarr.zip"
    capture_untrained(
        [latents], model, folder / "twins.zarr.zip", untrained=UntrainedConfig(seeds=2, samples=2), runtime=quiet
    )
    with open_attention([folder / "twins.zarr.zip"]) as store:
        twins = store["block00.self"]["entropy"].values
    assert twins.shape == (2, 2, 2, 4)
    assert not np.array_equal(twins[0], twins[1])
    ablation = AblationConfig(samples=1, methods=["zero"])
    reference, ablated = folder / "reference.zarr.zip", folder / "ablated.zarr.zip"
    reference_outputs({"synthetic": [latents]}, model, reference, reference_ids=[1, 2], runtime=quiet)
    ablate_heads([latents], model, [reference], ablated, group="heads", ablation=ablation, seed=0, runtime=quiet)
    effects = open_store(ablated).to_dataset()
    assert effects.sizes["target"] == 8
    assert (effects["shift"] > 0).all()
    generate_gallery(model, folder / "gallery.zarr.zip", sampling=SamplingConfig(count=1, steps=2), runtime=quiet)
    rows = open_store(folder / "gallery.zarr.zip").to_dataset()["row"].values.tolist()
    assert {"real", "synthetic", "synthetic, glasses", "synthetic, no smile"} <= set(rows)
    tables = folder / "heldout.csv", folder / "denoising.csv"
    heldout_loss(model, stores, *tables, timesteps=[100], samples=4, runtime=quiet)
    assert np.isfinite(pd.read_csv(tables[1])["skill"]).all()
    assert pd.read_csv(tables[0]).empty  # nobody knows what it was trained on


def test_announced_attention_is_seen_like_that_of_torch(tmp_path: Path, observe: Observe) -> None:
    example = code_block("python")
    announced = example + code_block("python", 1)
    entropies = []
    for text in (example, announced):
        (tmp_path / "mine.py").write_text(text)
        with open_attention([observe(ENTRY)]) as store:
            entropies.append(store["block01.self"]["entropy"].values)
    assert_same_up_to_rounding(entropies[0], entropies[1])


def test_attention_that_is_neither_called_nor_announced_is_named_with_the_remedy(
    tmp_path: Path, observe: Observe
) -> None:
    announced = code_block("python") + code_block("python", 1)
    silent = re.sub(r".*announce\(self.*\n", "", announced)
    (tmp_path / "mine.py").write_text(silent)
    with pytest.raises(ModelError, match=r"block00\.self: .*; .* diffmech\.attention\.tap\.announce"):
        observe(ENTRY)
    (tmp_path / "mine.py").write_text(silent.replace("heads", "lanes"))
    with pytest.raises(
        ModelError, match=r"blocks\.0\.attn: a softmax of scores .*; .* diffmech\.attention\.tap\.announce"
    ):
        observe(ENTRY)


def test_plain_convolution_predicts_what_it_computes_itself(write: Write, take: Take, tmp_path: Path) -> None:
    layer = torch.nn.Conv2d(1, 1, 1)
    for name, save in (("w.pt", torch.save), ("w.safetensors", save_file)):
        save({f"layer.{key}": value for key, value in layer.state_dict().items()}, tmp_path / name)
        denoiser = load_denoiser(take(write(weights=name, arguments={"gain": 2.0})), device="cpu")
        x_t = torch.randn(2, 1, 8, 8)
        assert_same_up_to_rounding(denoiser.predict_noise(x_t, 7), 2 * layer(x_t))
        assert not denoiser.module.training
        assert (denoiser.conditional, denoiser.timesteps) == (False, 1000)


@pytest.mark.parametrize("answer", ["out", "(out, None)", "Answer(out)", "torch.cat([out, out], 1)"])
def test_tensor_tuple_sample_and_predicted_variance_are_the_same_answer(write: Write, take: Take, answer: str) -> None:
    text = LINEAR.replace("return self.gain * self.layer(x_t)", f"out = self.layer(x_t)\n        return {answer}")
    text += "\nfrom dataclasses import dataclass\n@dataclass\nclass Answer:\n    sample: object\n"
    assert torch.equal(
        predict(load_denoiser(take(write(text)), device="cpu")), predict(load_denoiser(take(write()), device="cpu"))
    )


def test_condition_reaches_a_class_that_names_domains_or_attributes(write: Write, take: Take) -> None:
    text = LINEAR.replace("class Linear(nn.Module):", "class Linear(nn.Module):\n    attributes = ['hat']").replace(
        "def forward(self, x_t, timestep):\n        return self.gain * self.layer(x_t)",
        "def forward(self, x_t, timestep, condition):\n"
        "        return self.layer(x_t) + condition.values.nan_to_num()[:, :, None, None]",
    )
    pointer = take(write(text))
    denoiser = load_denoiser(pointer, device="cpu")
    assert (denoiser.conditional, read_json(pointer)["attributes"]) == (True, ["hat"])
    known = Condition(torch.tensor([-1]), torch.tensor([[0.5]]))
    assert_same_up_to_rounding(predict(denoiser, known), predict(denoiser) + 0.5)


def test_schedule_is_that_of_the_keys_or_of_a_diffusers_file(write: Write, take: Take, tmp_path: Path) -> None:
    keys = Schedule(timesteps=40, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    denoiser = load_denoiser(take(write(schedule=keys)), device="cpu")
    assert (denoiser.timesteps, denoiser.prediction_type) == (40, "v_prediction")
    DDIMScheduler(50, beta_end=0.1, prediction_type="sample").save_pretrained(tmp_path / "scheduler")
    for path in ("scheduler", "scheduler/scheduler_config.json"):
        denoiser = load_denoiser(take(write(schedule=Schedule(config=path))), device="cpu")
        assert (denoiser.timesteps, denoiser.prediction_type) == (50, "sample")
        betas = np.linspace(1e-4, 0.1, 50)
        assert_same_up_to_rounding(denoiser.alphas_cumprod, np.cumprod(1 - betas))


def test_untrained_twin_is_built_anew_by_seed_and_reads_no_weights(write: Write, take: Take, tmp_path: Path) -> None:
    torch.save({f"layer.{k}": v for k, v in torch.nn.Conv2d(1, 1, 1).state_dict().items()}, tmp_path / "w.pt")
    pointer = take(write(weights="w.pt"))
    trained = predict(load_denoiser(pointer, device="cpu"))
    (tmp_path / "w.pt").unlink()
    first, again, other = (predict(load_denoiser(pointer, device="cpu", untrained_seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, trained)
    with pytest.raises(ModelError, match=r"w\.pt: is gone"):
        load_denoiser(pointer, device="cpu")


def test_edited_code_or_weights_are_noticed_and_comments_are_not(write: Write, take: Take, tmp_path: Path) -> None:
    torch.save({f"layer.{k}": v for k, v in torch.nn.Conv2d(1, 1, 1).state_dict().items()}, tmp_path / "w.pt")
    pointer = take(write(weights="w.pt"))
    (tmp_path / "mine.py").write_text('"""Mine."""\n' + LINEAR + "# the end\n")
    load_denoiser(pointer, device="cpu")
    (tmp_path / "mine.py").write_text(LINEAR.replace("self.gain *", "2 *"))
    with pytest.raises(ModelError, match="the code or the weights changed"):
        load_denoiser(pointer, device="cpu")
    (tmp_path / "mine.py").write_text(LINEAR)
    torch.save({f"layer.{k}": v for k, v in torch.nn.Conv2d(1, 1, 1).state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="the code or the weights changed"):
        load_denoiser(pointer, device="cpu")


def test_files_beside_the_class_are_imported_as_they_are_now(write: Write, take: Take, tmp_path: Path) -> None:
    text = "from size_of_mine import GAIN\n" + LINEAR.replace("gain=1.0", "gain=GAIN")
    gains = []
    for gain in (2.0, 3.0):
        (tmp_path / "size_of_mine.py").write_text(f"GAIN = {gain}\n")
        gains.append(load_denoiser(take(write(text)), device="cpu").module.gain)
    assert gains == [2.0, 3.0]


def test_importable_module_is_named_by_its_path(tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "nets.py").write_text("from .sizes import ONE\n" + LINEAR.replace("1.0", "ONE"))
    (tmp_path / "mypackage" / "sizes.py").write_text("ONE = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = DenoiserConfig(source="custom", implementation="mypackage.nets:Linear")
    assert load_denoiser(take(config), device="cpu").module.gain == 1.0


def test_site_of_a_patch_transformer_is_named_after_its_block(tmp_path: Path) -> None:
    namespace: dict = {}
    exec(code_block("python"), namespace)
    sites = find_sites(namespace["PatchDenoiser"]())
    assert [(site.name, site.heads) for site in sites] == [(f"block{index:02d}.self", 4) for index in range(4)]


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (("", ""), "Liner", r"mine\.py: has no class Liner; nearest: Linear"),
        (("import torch\n", "import torch\nimport nothing_at_all\n"), "Linear", r"mine\.py, line 3: ModuleNotFound"),
        (("class Linear(nn.Module):", "class Linear(nn.Module:"), "Linear", r"mine\.py, line 4: SyntaxError"),
        (("class Linear(nn.Module):", "class Linear:"), "Linear", r"Linear is a class that is no torch\.nn\.Module"),
        (("super().__init__()", "super().__init__()\n        1 / 0"), "Linear", r"mine\.py, line 7: ZeroDivisionError"),
        (("self.layer(x_t)", "self.layer(x_t, 3)"), "Linear", r"mine\.py, line 10: TypeError"),
        (("self.layer(x_t)", "self.layer(x_t)[..., :4]"), "Linear", r"shape \(2, 1, 8, 4\) for images"),
        (("self.layer(x_t)", "None"), "Linear", r"mine\.py, line 10: TypeError"),
        (("return self.gain * self.layer(x_t)", "return None"), "Linear", "returned a NoneType for images"),
        (("self.layer(x_t)", "self.layer(x_t) / 0"), "Linear", "predicts NaN or infinity"),
        (("self.layer(x_t)", "torch.randn_like(x_t)"), "Linear", "differently each time"),
        (("return self.gain", "raise torch.OutOfMemoryError('No memory.')\n        return self.gain"),
         "Linear", r"line \d+: OutOfMemoryError: No memory; study smaller images \(images\.size\)"),
        (("timestep):", "timestep, text):"), "Linear", r"forward is \(x_t, timestep, text\), expected"),
        (("nn.Conv2d(1, 1, 1)", "nn.Identity()"), "Linear", "has no parameters"),
        (("    def forward", "    domains = 'real'\n    def forward"), "Linear", "domains is 'real'; expected a list"),
        (("    def forward", "    domains = ['real']\n    def forward"), "Linear", "since it has attributes or"),
        (("(1, 1, 1)", "(1, 1, 1).requires_grad_()\n        self.layer.weight.data[:] = self.layer.bias.data[:] = 1"),
         "Linear", "the same weights under every seed"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_class_is_one_clear_line(
    write: Write, take: Take, tmp_path: Path, change: tuple[str, str], name: str, message: str
) -> None:
    assert change[0] in LINEAR
    with pytest.raises(ModelError, match=message) as caught:
        take(write(LINEAR.replace(*change), name))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("model.json"))


def test_arguments_that_the_class_does_not_accept_are_named_with_those_it_does(write: Write, take: Take) -> None:
    with pytest.raises(ModelError, match=r"Linear\(gain=1\.0\) does not accept .*'gian'.*models\.<name>\.arguments"):
        take(write(arguments={"gian": 2.0}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"layer.weight": torch.ones(1, 1, 1, 1)},
            r"which has 2: 1 are missing, first layer\.bias; give",
        ),
        (
            {"layer.weight": torch.ones(1, 1, 3, 3), "layer.bias": torch.ones(1)},
            "1 x 1 x 3 x 3, expected 1 x 1 x 1 x 1",
        ),
        (
            {"module.a": torch.ones(1)},
            r"2 are missing, .*, 1 are not of the class, first module\.a",
        ),
        ({"epoch": 3, "model": {}}, "holds epoch, model; expected the tensors"),
        (torch.ones(3), "holds a Tensor; expected"),
        (None, "cannot be read as tensors"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    write: Write, take: Take, tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    if content is None:
        (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=message) as caught:
        take(write(weights="w.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"implementation": "gone.py:Net"}, r"'gone\.py:Net': no such file .*give path/to/file\.py:Class"),
        ({"implementation": "gone.module:Net"}, "no such module can be imported"),
        ({"implementation": "mine.py:Linear", "weights": "gone.pt"}, r"weights 'gone\.pt': no such file"),
        ({"implementation": "mine.py:Linear", "schedule": Schedule(config="gone")}, r"schedule\.config 'gone'"),
        ({"implementation": "mine.py:Linear", "sample_shape": [1, 16, 16]}, "denoises 1 x 16 x 16 .* gives 1 x 8 x 8"),
    ],
)
def test_files_that_are_not_there_are_named(write: Write, take: Take, keys: dict, message: str) -> None:
    write()
    with pytest.raises(ModelError, match=message) as caught:
        take(DenoiserConfig(source="custom", **keys))
    places = re.findall(r"looked from (\S+) and (\S+)\)", str(caught.value))
    assert all(first != second for first, second in places)


def test_a_folder_is_named_once_where_it_is_both_that_of_the_study_and_the_current_one(
    write: Write, take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=rf"no such file \(looked from {re.escape(str(tmp_path.resolve()))}\); give"):
        take(DenoiserConfig(source="custom", implementation="gone.py:Net"))


def test_schedule_that_is_no_diffusion_by_betas_is_refused(write: Write, take: Take, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler is not supported"):
        take(write(schedule=Schedule(config="scheduler_config.json")))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "custom"}, "needs an implementation like models/mine.py:MyDenoiser, found None"),
        ({"source": "custom", "implementation": "mine.py"}, "found 'mine.py'"),
        ({"source": "custom", "implementation": "m.py:N", "weights": "w.npz"}, "'w.npz' is none of .safetensors"),
        ({"source": "untrained", "weights": "w.pt"}, "weights belongs to source custom"),
    ],
)
def test_config_says_what_a_custom_denoiser_needs(tmp_path: Path, keys: dict, message: str) -> None:
    overlay = tmp_path / "study.yaml"
    overlay.write_text(json.dumps({"study": {"model": "mine"}, "models": {"mine": keys}}))
    with pytest.raises(ConfigError, match="models.mine: .*" + re.escape(message)):
        read_config(ROOT / "config.yaml", overlay)


def test_keys_of_a_custom_denoiser_are_tracked_for_it_alone(write: Write) -> None:
    assert "implementation" not in DenoiserConfig(source="untrained").canonical()
    config = write(arguments={"gain": 2.0})
    assert DenoiserConfig.restore(config.canonical()) == config
