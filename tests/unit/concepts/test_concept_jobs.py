"""The jobs of the study on an untrained denoiser: what they write, again alike, and that nothing is found there."""

import numpy as np
import pytest

from diffmech.artifacts import open_store
from diffmech.concepts.attribution import attribute_concept, concept_fidelity
from diffmech.concepts.effects import concept_effects
from diffmech.concepts.evaluation import edit_concept, original_images
from diffmech.concepts.masks import read_mask
from diffmech.concepts.tables import EFFECTS, FIDELITY, MAP
from diffmech.config.images import ImagesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.models import Architecture, RecognitionConfig
from diffmech.config.studies.concepts import (
    AttributionConfig,
    EditConfig,
    EvaluationConfig,
    FidelityConfig,
    NamedConcept,
)
from diffmech.judging.judge import make_judge
from diffmech.models.architecture import build_unet
from diffmech.models.schedules import noise_schedule
from diffmech.models.storage import find_layout, save_denoiser, write_pointer
from diffmech.models.tokens import AttributeTokens
from diffmech.report.concepts.findings import succeeds
from diffmech.training.seeds import seeded

SIZE, COUNT = 16, 20
TINY = Architecture(channels=[8, 16], attention=[False, True], heads=2, norm_groups=4, token_width=8, timesteps=50)
SCHEDULE = {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"}
HAT = NamedConcept(name="hat")
ATTRIBUTION = AttributionConfig(samples=2, steps=4, windows=2)
EVALUATION = EvaluationConfig(seeds=8, steps=3)
JUDGES = JudgesConfig()
SETTINGS = {"draws": 100, "permutations": 400, "confidence": 0.95, "seed": 0}


def untrained(folder, seed):
    with seeded(seed):
        unet, tokens = build_unet(TINY, (1, SIZE, SIZE)), AttributeTokens(["glasses", "hat"], ["real", "synthetic"], 8)
    save_denoiser(folder / "model", unet, tokens, noise_schedule(folder / "scheduler_config.json", SCHEDULE))
    pointer = folder / "model.json"
    write_pointer(pointer, find_layout(folder / "model"), parameters=1, source="untrained")
    return pointer


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    from diffmech.config.analysis import RuntimeConfig

    folder = tmp_path_factory.mktemp("judge")
    made = folder / "judge.safetensors"
    recognition = RecognitionConfig(attributes=["glasses", "hat"], faces=80, epochs=1)
    runtime = RuntimeConfig(progress=False, device="cpu")
    images = ImagesConfig(size=SIZE)
    make_judge(untrained(folder, 0), made, recognition=recognition, images=images, runtime=runtime)
    return made


def run(folder, judge, runtime, seed, *, baselines=("random",), objective="erase", judges=JUDGES):
    """Score, edit and compare one untrained denoiser; return the rows of the table of effects."""
    folder.mkdir()
    model = untrained(folder, seed)
    files = [str(folder / f"{window}.safetensors") for window in range(2)]
    settings = {"concept": HAT, "runtime": runtime}
    attribute_concept(
        model,
        {objective: files},
        folder / "map.csv",
        groups=None,
        attribution=ATTRIBUTION,
        curvature=False,
        **settings,
    )
    shared = {"evaluation": EVALUATION, "judges": judges, **settings}
    original_images(model, judge, folder / "originals.zip", uce=True, **shared)
    edit_concept(
        model,
        files,
        folder / "originals.zip",
        judge,
        folder / "mask.safetensors",
        folder / "edit.zip",
        objective=objective,
        edit=EditConfig(baselines=list(baselines)),
        dose=COUNT,
        **shared,
    )
    tables = [folder / f"{name}.csv" for name in ("rates", "effects", "quality")]
    concept_effects({"hat": folder / "originals.zip"}, [folder / "edit.zip"], *tables, **SETTINGS)
    return EFFECTS.read(tables[1])


def test_jobs_write_scores_masks_images_and_tables_again_alike(judge, runtime, tmp_path):
    kinds = ("random", "random_rows", "magnitude", "gradient", "wanda")
    effects = run(tmp_path / "once", judge, runtime, 1, baselines=kinds)
    assert effects["against"].tolist() == ["original", "uce", *kinds]
    assert (effects["count"] == COUNT).all()
    mask = read_mask(tmp_path / "once/mask.safetensors")
    assert (mask.count, mask.about["attribute"], mask.about["rounded_to_zero"]) == (COUNT, "hat", 0)
    scores = MAP.read(tmp_path / "once/map.csv")
    assert set(scores["window"]) == {0, 1}
    assert (scores["guided_steps"] == 4).all()
    assert (scores["negative"] <= 0).all()
    store = open_store(tmp_path / "once/edit.zip").to_dataset()
    assert store["images"].shape == (2 + 4 + 3, 8, 1, SIZE, SIZE)
    assert np.isfinite(store["likeness"].values).all()
    run(tmp_path / "again", judge, runtime, 1, baselines=kinds)
    for name in ("mask.safetensors", "0.safetensors", "edit.zip", "originals.zip", "effects.csv", "map.csv"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_fidelity_is_tabulated_for_both_orders(runtime, tmp_path):
    concept_fidelity(
        untrained(tmp_path, 2),
        tmp_path / "fidelity.csv",
        concept=HAT,
        groups={"erase": ["feed_forward"], "amplify": ["feed_forward"]},
        attribution=ATTRIBUTION,
        check=FidelityConfig(masks=12, weights=10, samples=2, timesteps=2),
        draws=100,
        confidence=0.95,
        runtime=runtime,
    )
    table = FIDELITY.read(tmp_path / "fidelity.csv")
    assert table[["objective", "order"]].values.tolist() == [
        [objective, order] for objective in ("erase", "amplify") for order in ("first", "second")
    ]
    assert table["r"].between(-1, 1).all()


def test_nothing_is_found_in_untrained_denoisers(judge, runtime, tmp_path):
    # A judge whose verdicts vary between such images: whether they are brighter on one side.
    (tmp_path / "sides.py").write_text(
        "def brighter(images):\n"
        "    left, right = images[..., :8].mean(dim=(1, 2, 3)), images[..., 8:].mean(dim=(1, 2, 3))\n"
        "    return (left > right)[:, None].float()\n"
    )
    detector = {"function": str(tmp_path / "sides.py:brighter"), "attributes": ["hat"]}
    judges, found, rates, moved = JudgesConfig.model_validate({"detector": detector}), 0, [], 0
    for seed in range(10):
        objective = "amplify" if seed % 2 else "erase"
        effects = run(tmp_path / str(seed), judge, runtime, 100 + seed, objective=objective, judges=judges)
        own = effects[effects["against"] == "random"]
        found += bool((own["p_corrected"] <= 0.05).any())
        found += succeeds(effects, objective, 0.05)
        rates += [*own["target"], *own["target_against"]]
        images = open_store(tmp_path / str(seed) / "edit.zip").to_dataset()["images"].values
        moved += not np.array_equal(images[0], images[2])  # under the edit, and under as many random weights
    assert found <= 2  # more of 10 at a rate of 0.05 has a chance of 1 %
    assert moved == 10
    assert np.std(rates) > 0.05
    assert 0.1 < np.mean(rates) < 0.9
