"""What the study of VAEs found in the VAEs of one data set."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.findings import Finding, Verdict
from diffmech.report.vae import findings_inside
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.words import (
    CODES,
    DCI,
    MIG,
    PLAIN,
    Mean,
    estimate,
    having,
    measure_words,
    of_kind,
    over_vaes,
    vae_words,
)
from diffmech.report.wording import count, interval, limits, listed, number, p_value
from diffmech.vae.learned import LEAST_ACTIVE, LEAST_GONE

LEARNED = (
    f"Ours: a VAE has learned where a reconstruction costs at most {number(100 * (1 - LEAST_GONE), 2)} % of the nats "
    f"of the mean image (fewer nats, where pixels are Gaussian), and where at least {LEAST_ACTIVE} latents are active."
)


def findings(data: str, tables: Tables, vae: VaeStudy, picture: str | None) -> Iterator[Finding]:
    """Yield the findings of a data set; `picture` shows traversals, as seen from the folder of the file of findings."""
    yield _learned(data, tables, vae, picture)
    yield _families(data, tables.families, vae)
    yield _relation(data, tables.relation, vae)
    yield from findings_inside.findings(data, tables.of_learned(), vae)
    if codes := of_kind(vae, CODES):
        yield _codes(data, tables.swaps, codes)
    if not vae.data[data].changeable:
        yield Finding(
            f"Can a factor of {data} be changed?",
            "caution",
            "No: there is no second image that differs in one factor alone, so that effects of factors, units, "
            "patching, mediation, motifs and causal graphs are not measured.",
            (),
            f"{data}-effects",
        )


def _learned(data: str, tables: Tables, vae: VaeStudy, picture: str | None) -> Finding:
    models = tables.models
    question = f"Have the VAEs of {data} learned their images?"
    if models.empty:
        return Finding(question, "cannot be told", "No VAE was trained.", (), f"{data}-learned")
    learned = models["learned"]
    nats = f"{number(models['reconstruction'].min())} to {number(models['reconstruction'].max())} nats per image"
    active = models["active_latents"].dropna()
    answer = f"{_of_all(int(learned.sum()), len(models))} have: a reconstruction costs {nats}, the mean image "
    answer += f"{number(models['mean_image'].mean())}"
    if len(active):
        answer += f"; {_range(active)} latents are active"
    failed = [vae_words(row["family"], row["vae_seed"]) for row in models[~learned].to_dict("records")]
    details = [f"Not learned, so that nothing below is said of its latents and units: {name}." for name in failed]
    gone = over_vaes(models["mean_image"] - models["reconstruction"], vae.measures)
    resting = estimate("nats of the mean image that a reconstruction saves", gone)
    verdict: Verdict = "found" if learned.all() else "not found"
    return Finding(question, verdict, f"{answer}.", tuple(details), f"{data}-learned", "", LEARNED, resting, picture)


def _families(data: str, families: pd.DataFrame, vae: VaeStudy) -> Finding:
    question = f"Does a family tell the factors of {data} apart better than the plain VAE?"
    anchor, plain = f"{data}-scores", of_kind(vae, PLAIN)
    rows = having(families, DCI, MIG)
    # a grid of codes has many more places than a VAE has latents, so that their scores do not compare
    rows = rows[~rows["family"].isin([*plain, *of_kind(vae, CODES)])].dropna(subset="difference")
    if rows.empty:
        return Finding(question, "cannot be told", "No other family stands beside a plain VAE.", (), anchor)
    details = tuple(_difference(row) for row in rows.to_dict("records"))
    tested = rows.dropna(subset=["difference_low", "p_corrected"])
    if tested.empty:
        answer = "Each family was trained once; a difference needs an interval over seeds, and so at least two."
        return Finding(question, "cannot be told", answer, details, anchor)
    better = tested[(tested["difference_low"] > 0) & (tested["p_corrected"] <= vae.measures.alpha)]
    worse = tested[(tested["difference_high"] < 0) & (tested["p_corrected"] <= vae.measures.alpha)]
    if len(better):
        parts = [f"{row['family']} in {measure_words(row['measure'])}" for row in better.to_dict("records")]
        answer = f"Yes: {listed(parts)}, with an interval over seeds above 0."
    else:
        answer = "None does, in DCI or MIG: no interval of a difference over seeds lies above 0 after correction."
    if len(worse):
        parts = [f"{row['family']} in {measure_words(row['measure'])}" for row in worse.to_dict("records")]
        answer += f" Worse is {listed(parts)}."
    shown = (better if len(better) else tested).sort_values("difference", ascending=False).iloc[0]
    resting = estimate(
        f"{measure_words(shown['measure'])} of {shown['family']} minus that of the plain VAE",
        Mean(*(float(shown[name]) for name in ("difference", "difference_low", "difference_high"))),
    )
    half = ((tested["difference_high"] - tested["difference_low"]) / 2).median()
    family = (
        "Welch's t over seeds, Holm-Sidak over the families of one score; DCI disentanglement and MIG are asked, of "
        "families with single latents."
    )
    sight = (
        f"{count(int(tested['n'].min()), 'seed')} per family; a typical interval reaches {number(half, 2)} either way."
    )
    return Finding(question, "found" if len(better) else "not found", answer, details, anchor, family, sight, resting)


def _difference(row: Mapping[Any, Any]) -> str:
    """Return one difference of a family to the plain VAE in words."""
    value, low, high = (float(row[name]) for name in ("difference", "difference_low", "difference_high"))
    said = f"{number(value)} (no interval)" if not np.isfinite(low) else interval(value, low, high)
    corrected = float(row["p_corrected"])
    p = f", {p_value(corrected)}" if np.isfinite(corrected) else ""
    return f"{row['family']}, {measure_words(row['measure'])}: {number(float(row['mean']))}, {said} more{p}."


def _relation(data: str, relation: pd.DataFrame, vae: VaeStudy) -> Finding:
    question = f"Does effect strength fall as disentanglement rises in {data}?"
    anchor = f"{data}-relation"
    rows = having(relation, DCI).dropna(subset=["correlation", "low", "high"])
    asked = rows[rows["strength"] == "raw"]
    if asked.empty:
        answer = "Too few VAEs have both an effect strength and DCI for a correlation with an interval."
        return Finding(question, "cannot be told", answer, (), anchor)
    row = asked.iloc[0]
    falls = row["high"] < 0 and row["p"] <= vae.measures.alpha
    rises = row["low"] > 0 and row["p"] <= vae.measures.alpha
    said = f"Spearman's correlation {interval(row['correlation'], row['low'], row['high'])} over {int(row['n'])} VAEs"
    verdict: Verdict = "found" if falls else "not found" if rises or row["low"] > -0.5 else "cannot be told"
    answer = {
        "found": f"Yes: {said}.",
        "not found": f"No, it rises: {said}." if rises else f"That was not seen: {said}.",
        "cannot be told": f"Not decided: {said}, {p_value(row['p'])}.",
    }[verdict]
    details = tuple(
        f"{measure_words(each['strength']).capitalize()}: "
        f"{interval(each['correlation'], each['low'], each['high'])}, {p_value(each['p'])}; within families "
        f"{number(each['within'])}."
        for each in rows.to_dict("records")
    )
    family = "One test: raw strength and DCI disentanglement, as version 3 of arXiv 2505.03530 has it; not corrected."
    resting = estimate(
        "correlation of raw effect strength and DCI",
        Mean(*(float(row[name]) for name in ("correlation", "low", "high"))),
    )
    return Finding(question, verdict, answer, details, anchor, family, "", resting)


def _codes(data: str, swaps: pd.DataFrame, names: list[str]) -> Finding:
    answer = (
        f"No: the latent of {listed(names)} is a grid of numbers of codes, which have no order, no unit and no spread, "
        "so that shifts, strengths of latents and active latents are undefined; codes are swapped instead."
    )
    rows = swaps.dropna(subset="per_pixel")
    if rows.empty:
        return Finding(f"Can latents of a VQ-VAE be shifted in {data}?", "caution", answer, (), f"{data}-swaps")
    parts = [
        f"{SWAPS.get(swap, swap).capitalize()}: the image changes by {limits(own.min(), own.max())} per pixel."
        if own.min() < own.max()
        else f"{SWAPS.get(swap, swap).capitalize()}: the image changes by {number(own.min())} per pixel."
        for swap, own in ((str(name), own) for name, own in rows.groupby("swap", sort=False)["per_pixel"])
    ]
    return Finding(f"Can latents of a VQ-VAE be shifted in {data}?", "caution", answer, tuple(parts), f"{data}-swaps")


SWAPS = {
    "neighbour": "the nearest code of the codebook in one place",
    "random": "any other code in one place",
    "shift": "what is encoded in one place shifted by one sd, before its code is chosen",
}


def _of_all(some: int, all_: int) -> str:
    if some == all_:
        return f"All {count(all_, 'VAE')}" if all_ > 1 else "The one VAE"
    return f"{some} of {count(all_, 'VAE')}"


def _range(values: "pd.Series[float]") -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
