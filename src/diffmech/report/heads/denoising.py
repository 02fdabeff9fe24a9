"""Whether the studied denoiser denoises at all, and whether it remembers its training images, in sentences.

Everything else on the page is about what it does with these images at these timesteps. A denoiser that is used with a
wrong schedule computes something, and its heads matter to that; so this is said before anything else. Ours.
"""

from typing import Any

import pandas as pd

from diffmech.report.heads.artifacts import Tables, records
from diffmech.report.wording import count, interval, limits, listed, number

# A factor of the prediction whose interval lies farther from 1 than this is called out. Trained denoisers were seen
# within 0.02 of 1 on their own images, and 0.2 to 0.3 away from it with a schedule that is not theirs.
SLOPE_TOLERANCE = 0.1
BASELINE = "the best constant multiple of the noised image, which needs no network"
NOT_MEASURED = (
    "Whether this denoiser denoises was not measured, as it is not of pipelines: on the way of a generated image nobody"
    " knows the noise."
)


def is_untrained(tables: Tables) -> bool:
    """Return whether the studied denoiser has random weights, so that everything found would be a false alarm."""
    model = tables.model
    own_without_weights = model.get("source") == "custom" and "weights" in model and model["weights"] is None
    return model.get("source") == "untrained" or own_without_weights


def troubles(tables: Tables) -> list[str]:
    """Return what is wrong with how the denoiser denoises, one sentence each; empty where it surely denoises."""
    table = tables.denoising
    worse, unshown, off = _worse(table), _unshown(table), _off(table)
    told = []
    if len(worse):
        ratio = _most(worse, worse["loss"] / worse["linear"])
        told.append(
            f"This denoiser does not denoise {_places(worse, table)}: its loss is larger than that of {BASELINE}, at"
            f" worst {number(ratio.loss / ratio.linear, 2)} times as large ({_place(ratio)})."
        )
    if len(unshown):
        least = _most(unshown, -unshown["skill"])
        told.append(
            f"It was not shown to denoise {_places(unshown, table)}: there the interval of its loss does not lie below"
            f" that of {BASELINE} (skill {_skill(least)} at {_place(least)})."
        )
    if len(off):
        most = _most(off, (off["slope"] - 1).abs())
        told.append(
            f"Its predictions have the wrong size {_places(off, table, every='all')}: multiplied by"
            f" {interval(most.slope, most.slope_low, most.slope_high)} ({_place(most)}) they would come"
            " closer to the noise. A denoiser that was fitted to such images at this level of noise has 1."
        )
    if told and tables.model.get("source") == "planted":
        told.append("It was built by hand so that the work of its heads is known, not to denoise well.")
    elif told and not is_untrained(tables):
        told.append(
            "A wrong schedule or kind of prediction, timesteps that are counted in another way, or images on another"
            " scale do this, and so do images unlike those of its training, too little training, or too small a"
            " network."
        )
        if (table["slope"] - 1).abs().max() <= SLOPE_TOLERANCE:
            told.append(
                f"The best factor of its predictions is near 1 ({_range(table['slope'])}),"
                " which a wrong schedule moved farther away where that was tried; so the first of these are less likely"
                " than the last."
            )
        what = "does not denoise there" if len(worse) or len(unshown) else "predicts in the wrong size there"
        what = f"{what}, or was not shown to" if len(unshown) and worse.empty else what
        told.append(f"All that stands below is about a denoiser that {what}.")
    return told


def summary(tables: Tables) -> str:
    """Return with its numbers that the denoiser denoises, or that this was not measured."""
    table = tables.denoising
    if table.empty:
        return NOT_MEASURED
    parts = []
    for domain, rows in table.groupby("domain", sort=False):
        least, most = _most(rows, -rows["skill"]), _most(rows, rows["skill"])
        parts.append(
            f"by {_skill(least)} (t = {least.timestep:g}) to {_skill(most)} (t = {most.timestep:g}) on {domain} images"
        )
    low, high = float(table["slope"].min()), float(table["slope"].max())
    return (
        f"The denoiser denoises: at each of {count(table['timestep'].nunique(), 'timestep')} its loss lies below"
        f" that of {BASELINE}, each with its 95 % interval: {listed(parts)} ({int(table['n'].max())} of each, at"
        f" most). Multiplied by {limits(low, high)}, one factor per domain and timestep, its predictions would fit best"
        " (1 = as they are)."
    )


def gap_sentence(tables: Tables) -> str:
    """Return how the loss on unseen images compares with that on seen ones, per domain, or why that is not known."""
    if is_untrained(tables):
        return "These weights are random and were trained on no image, so that nothing can have been memorised."
    if tables.heldout.empty:
        return (
            "On which images this denoiser was trained is not on record here, so nobody can tell here which of these it"
            " has seen; memorisation cannot be told from learning."
        )
    known = tables.heldout[tables.heldout["timestep"] == "all"].dropna(subset=["relative"])
    if known.empty:
        return "No images were held out of its training, so memorisation cannot be told from learning."
    parts = []
    studied = tables.seen.groupby("domain")["seen"].any().to_dict()
    for row in records(known):
        change, low, high = (100 * (end - 1) for end in (row.relative, row.relative_low, row.relative_high))
        seen = tables.heldout[(tables.heldout["domain"] == row.domain) & (tables.heldout["split"] == "train")]
        again = "" if studied.get(row.domain, True) else ", which were made again, since none of them is studied"
        amounts = f"{int(row.n)} unseen and {int(seen['n'].max())} seen images{again}"
        unsure = "" if low > 0 or high < 0 else ", which cannot be told from 0"
        parts.append(f"{row.domain} {_signed(change)} % ({_signed(low)} to {_signed(high)}; {amounts}){unsure}")
    others = [domain for domain in tables.domains if domain not in set(known["domain"])]
    rest = f" Of {listed(others)} images it is not on record which of them it has seen." if others else ""
    return (
        "Loss on images that were kept out of training relative to that on images it was trained on, the ratio taken"
        f" at each timestep and averaged over timesteps: {'; '.join(parts)}.{rest}"
    )


def _most(rows: pd.DataFrame, key: "pd.Series[float]") -> Any:
    """Return the row in which `key` is largest."""
    return rows.iloc[int(key.to_numpy().argmax())]


def _range(values: "pd.Series[float]") -> str:
    low, high = float(values.min()), float(values.max())
    return f"{number(low)} everywhere" if low == high else limits(low, high)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value, 2)}"


def _skill(row: Any) -> str:
    return interval(100 * row.skill, 100 * row.skill_low, 100 * row.skill_high, "%", 2)


def _place(row: Any) -> str:
    return f"t = {row.timestep:g}, {row.domain} images"


def _places(rows: pd.DataFrame, table: pd.DataFrame, every: str = "any") -> str:
    """Return where rows of the table lie, in words; `every` is "any" where the sentence denies something."""
    if len(rows) == len(table):
        return f"at {every} of the timesteps studied"
    parts = []
    for domain, part in rows.groupby("domain", sort=False):
        steps = [f"{t:g}" for t in sorted(part["timestep"])]
        parts.append(f"{domain} images at t = {listed(steps)}")
    return f"on {listed(parts)}"


def _worse(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["skill_high"] < 0]


def _unshown(table: pd.DataFrame) -> pd.DataFrame:
    return table[~(table["skill_low"] > 0) & ~(table["skill_high"] < 0)]  # also without an interval


def _off(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["slope_high"] < 1 - SLOPE_TOLERANCE) | (table["slope_low"] > 1 + SLOPE_TOLERANCE)]
