"""The page says which timesteps decide an effect over all of them, and where counting them alike says another thing."""

import numpy as np
import pandas as pd

from diffmech.report.heads.weights import about_weights


def effects(mean_of_b: float) -> pd.DataFrame:
    """Return two effects over the timesteps 20, which has most of the loss, and 620."""
    rows = []
    for target, pooled, mean in (("a", 5.0, 5.5), ("b", 2.0, mean_of_b)):
        rows.append(("real", "heads", target, "mean", "all", pooled, pooled - 1, pooled + 1, mean, 1.0, 30.0, 100.0))
        for timestep, weight in (("20", 95.24), ("620", 4.76)):
            rows.append(("real", "heads", target, "mean", timestep, 1.0, 0.0, 2.0, np.nan, np.nan, np.nan, weight))
    columns = "domain group target method timestep effect_percent low high effect_mean effect_mean_low effect_mean_high"
    return pd.DataFrame(rows, columns=[*columns.split(), "weight"])


def test_the_weights_of_the_timesteps_are_said() -> None:
    said = about_weights(effects(2.5), "mean", {})
    assert "from 95 % at t = 20 to 4.8 % at t = 620" in said
    assert "each counting alike, lies within every interval" in said


def test_effects_that_look_otherwise_when_timesteps_count_alike_are_named() -> None:
    said = about_weights(effects(25.0), "mean", {"b": "the edge heads"})
    assert "outside the interval of the former for 1 of 2 effects" in said
    assert "for the edge heads on real images: 2.00 % (1.00 to 3.00) and 25.0 % (1.00 to 30.0)" in said


def test_of_one_timestep_there_is_nothing_to_say() -> None:
    assert about_weights(effects(2.5).query("timestep != '620'"), "mean", {}) == ""
