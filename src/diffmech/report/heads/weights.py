"""What "all timesteps" means for an effect: which timesteps count how much, and what counting them alike would say.

The pooled effect is a ratio of mean losses, so that timesteps of little noise, whose loss is large, decide; the mean of
the relative effects counts each timestep alike. Neither is the truer one, so both are shown. Ours.
"""

from collections.abc import Mapping

import pandas as pd

from diffmech.report.heads.artifacts import records
from diffmech.report.wording import count, interval, number


def about_weights(effects: pd.DataFrame, method: str, names: Mapping[str, str]) -> str:
    """Return the weights of the timesteps in the rows "all" and where the mean over timesteps differs from these.

    It differs where it lies outside of the interval of the pooled effect. Empty where there is one timestep only.
    """
    own = effects[effects["method"] == method]
    steps = own[own["timestep"] != "all"].groupby("timestep")["weight"].mean()
    if len(steps) < 2:
        return ""
    largest, smallest = steps.sort_values(ascending=False).index[[0, -1]]
    said = (
        "Over all timesteps, the effect is that on the summed loss: a timestep counts as much as its share of the"
        f" loss of the intact denoiser, from {number(steps.max(), 2)} % at t = {largest} to {number(steps.min(), 2)} %"
        f" at t = {smallest}."
    )
    pooled = own[own["timestep"] == "all"]
    differing = pooled[(pooled["effect_mean"] < pooled["low"]) | (pooled["effect_mean"] > pooled["high"])]
    if differing.empty:
        return f"{said} The mean of the effects per timestep, each counting alike, lies within every interval."
    apart = (differing["effect_mean"] - differing["effect_percent"]).abs()
    (farthest,) = records(differing.loc[[apart.idxmax()]])
    name = names.get(farthest.target, farthest.target)
    return (
        f"{said} The mean of the effects per timestep, each counting alike, lies outside the interval of the former for"
        f" {len(differing)} of {count(len(pooled), 'effect')}; the two are farthest apart for {name} on"
        f" {farthest.domain} images: {interval(farthest.effect_percent, farthest.low, farthest.high, '%')} and"
        f" {interval(farthest.effect_mean, farthest.effect_mean_low, farthest.effect_mean_high, '%')}."
    )
