"""The table of attribution patching: means of the estimates, exact effects from the ablation, and their agreement."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_denoisers import REFERENCES, RUNTIME, TIMESTEPS

from diffmech.attention.sites import AttentionSite
from diffmech.config.analysis import AblationConfig
from diffmech.config.circuit import CircuitConfig
from diffmech.config.load import read_config
from diffmech.errors import ConfigError
from diffmech.interventions.ablation import ablate_heads
from diffmech.interventions.agreement import attribution_patching, changes_of_loss
from diffmech.interventions.attribution_table import attribution_table
from diffmech.interventions.reference import open_reference, reference_outputs
from diffmech.interventions.replay import open_latent_files
from diffmech.interventions.stores import open_ablation
from diffmech.interventions.tables import ATTRIBUTION
from diffmech.models.denoiser import Denoiser


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, model_json: Path, latents: dict[str, list[Path]]
) -> dict[str, Path]:
    """Reference outputs, and the ablation of the first four images of each domain."""
    folder = tmp_path_factory.mktemp("attributed")
    found = {name: folder / f"{name}.zarr.zip" for name in ("reference", *latents)}
    ablation = AblationConfig(methods=["mean"], samples=4)
    reference_outputs(latents, model_json, found["reference"], reference_ids=REFERENCES, runtime=RUNTIME)
    for name, stores in latents.items():
        ablate_heads(
            stores,
            model_json,
            [found["reference"]],
            found[name],
            group="heads",
            ablation=ablation,
            seed=0,
            runtime=RUNTIME,
        )
    return found


def make_table(
    folder: Path, inputs: dict[str, Path], model_json: Path, latents: dict[str, list[Path]], method: str = "mean"
) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    attribution_table(
        latents,
        model_json,
        [inputs["reference"]],
        {name: [inputs[name]] for name in latents},
        folder / "attribution.csv",
        folder / "attribution.json",
        circuit=CircuitConfig(steps=2, draws=200),
        method=method,
        samples=5,
        timesteps=TIMESTEPS,
        seed=0,
        runtime=RUNTIME,
    )
    content = json.loads((folder / "attribution.json").read_text())
    assert content["method"] == method
    return pd.read_csv(folder / "attribution.csv"), content["correlation_with_exact_ablation"]


def test_the_table_holds_mean_estimates_with_intervals_beside_the_exact_effects(
    tmp_path: Path,
    inputs: dict[str, Path],
    model_json: Path,
    latents: dict[str, list[Path]],
    denoiser: Denoiser,
    sites: list[AttentionSite],
) -> None:
    table, coefficients = make_table(tmp_path, inputs, model_json, latents)
    assert list(table.columns) == list(ATTRIBUTION.columns)
    assert len(table) == 2 * 2 * 48 * len(TIMESTEPS)
    assert table["n"].unique().tolist() == [5]
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()
    exact = changes_of_loss(open_ablation([inputs["real"]]), "mean")
    effects = attribution_patching(
        denoiser,
        sites,
        open_latent_files(latents["real"]),
        open_reference([inputs["reference"]]),
        samples=range(5),
        timesteps=TIMESTEPS,
        method="mean",
        exact=exact,
        seed=0,
        runtime=RUNTIME,
    )
    rows = table.query("domain == 'real' and variant == 'gradient'")
    for head, timestep in (("down1.0.self.h03", 100), ("up0.1.cross.h07", 700)):
        row = rows.query("head == @head and timestep == @timestep").iloc[0]
        estimate = effects["estimate"].sel(head=head, timestep=timestep).mean()
        assert row["estimate"] == pytest.approx(float(estimate), rel=1e-4, abs=1e-9)
        assert row["exact"] == pytest.approx(float(exact.sel(head=head, timestep=timestep).mean()), rel=1e-4, abs=1e-9)
    found = coefficients["real"]["gradient"]
    assert found["cells"] == 96
    assert found["passes"] == 96 * 4
    assert found["pearson"] == pytest.approx(float(effects["pearson"]), abs=1e-5)
    assert set(coefficients) == {"real", "synthetic"}
    assert np.isfinite(coefficients["synthetic"]["integrated"]["spearman_per_pass"])


def test_a_method_that_was_not_ablated_is_refused(
    tmp_path: Path, inputs: dict[str, Path], model_json: Path, latents: dict[str, list[Path]]
) -> None:
    with pytest.raises(ConfigError, match="heads were ablated by mean, not by zero"):
        make_table(tmp_path, inputs, model_json, latents, method="zero")


@pytest.mark.parametrize(
    ("circuit", "message"),
    [
        ("{method: zero}", r"circuit\.method: 'zero' is not in ablation\.methods"),
        ("{samples: 1000}", r"circuit\.samples: 1000 is above capture\.samples 100"),
    ],
)
def test_settings_without_exact_effects_are_refused(tmp_path: Path, circuit: str, message: str) -> None:
    overlay = tmp_path / "study.yaml"
    overlay.write_text(f"circuit: {circuit}\n")
    with pytest.raises(ConfigError, match=message):
        read_config(Path(__file__).parents[3] / "config.yaml", overlay)
