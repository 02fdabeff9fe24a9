"""The chapter on whole images: the same seeds drawn again with each mechanism removed. Ours."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from diffmech.artifacts import open_store
from diffmech.report import markup
from diffmech.report.heads.artifacts import records
from diffmech.report.heads.charts_resampling import CLAIMS, QUESTIONS, claim, question, whole_mechanisms
from diffmech.report.heads.condition import guidance_words
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import mechanism_names
from diffmech.report.pictures import Picture, colour_pixels, mosaic, picture
from diffmech.report.wording import count, interval, listed, number, p_value
from diffmech.statistics.median import smallest_share
from diffmech.statistics.reach import draws_needed, units_needed

TILE = 70  # CSS pixels of one image


def resampling(context: Context) -> markup.Section:
    """Return pictures with and without each mechanism, the attributes that went with it, and how far images moved."""
    frame = context.tables.resampling
    absent = [str(reason) for reason in json.loads(open_store(context.inputs.resampled).attrs["absent"])]
    reasons = [markup.paragraph(f"Not measured: {reason}.") for reason in absent]
    if frame.empty:
        return markup.section("resampling", "What becomes of whole images", *reasons)
    names, settings = mechanism_names(context.tables), context.config.resampling
    run, sampled = int(frame["controls"].fillna(0).max()), sampled_domains(frame, context.tables.domains)
    alpha, shown = context.config.ablation.alpha, question(whole_mechanisms(frame, names))
    steps, guidance = settings.steps or context.config.sampling.steps, settings.guidance
    guided = context.config.sampling.guidance if guidance is None else guidance
    what = "the mean of what they write while nothing is removed" if settings.method == "mean" else "nothing"
    judged = whole_mechanisms(frame, names)["kind"].isin(QUESTIONS).any()
    attributes = [
        markup.heading("Which attributes go"),
        context.chart(
            "resampling_attributes",
            more=(
                f"Here an attribute counts as {QUESTIONS[shown]}, and the median is over {sampled}images."
                f" {judge_sentence(context)}"
            ),
        ),
        *[markup.paragraph(sentence, "quiet") for sentence in sight_sentences(frame, alpha)],
        markup.paragraph(power_sentence(run, alpha), "quiet"),
    ]
    read = (
        f"The same {int(frame['n'].max())} seeds of {sampled}images were sampled again in {steps} steps"
        f"{guidance_words(context.tables, context.config, guided)}, each time with"
        f" the heads of one mechanism replaced by {what}, at the same step. {steps_sentence(frame, names)}"
    )
    read += (
        f" Beside each stand {count(run, 'matched random set')} of as many heads, its own among them as chance has it,"
        " where such sets exist."
        if run
        else " No other heads were removed beside them."
    )
    apart = (
        "The Fréchet distance has no interval, since none holds with few images, which make both distances too large."
        if (frame["measure"] == "fd").any()
        else ""
    )
    return markup.section(
        "resampling",
        "What becomes of whole images",
        markup.paragraph(finding_sentence(frame, names, alpha)),
        markup.paragraph(read),
        *reasons,
        markup.heading("The same seeds without each mechanism"),
        pictures(context, names),
        *(attributes if judged else []),
        markup.heading("How far images move"),
        context.chart("resampling_measures", more=apart),
    )


def steps_sentence(frame: pd.DataFrame, names: dict[str, str]) -> str:
    """Return at how many of the sampler's steps each mechanism was removed: where it is one, and its attention runs."""
    table = whole_mechanisms(frame, names).drop_duplicates(["domain", "name"])
    fewer = table[table["steps_removed"] < table["steps"]]
    if fewer.empty:
        return "Each was removed at every step."
    by_share: dict[str, list[str]] = {}
    for row in records(fewer.sort_values("steps_removed", kind="stable")):
        share = f"at {int(row.steps_removed) or 'none'} of {count(int(row.steps), 'step')}"
        by_share.setdefault(share, []).append(row.name)
    told = "; ".join(f"{listed(list(dict.fromkeys(found)))} {share}" for share, found in by_share.items())
    rest = "; the others at every step" if len(fewer) < len(table) else ""
    return f"Each was removed at those steps at which its heads belong to it and their attention runs: {told}{rest}."


def finding_sentence(frame: pd.DataFrame, names: dict[str, str], alpha: float) -> str:
    """Return in one sentence which mechanism carries which attribute, or that none was shown to."""
    table = whole_mechanisms(frame, names)
    judged = table[table["kind"] == question(table)]
    if judged.empty:
        lowest = table[table["kind"] == "ssim"].sort_values("effect").iloc[0]
        ranked = frame["p_control_adjusted"].notna().any()
        compared = "whether by more than their controls stands in the chart" if ranked else "no comparison was tested"
        return (
            f"The lowest estimate of likeness to the images with nothing removed is {_likeness(lowest)}; {compared},"
            " and nothing judged what the images show."
        )
    judged = judged.assign(claim=[claim(row, alpha) for row in records(judged)])
    hits = judged[judged["claim"] != CLAIMS[2]]
    if hits.empty:
        return (
            f"No mechanism was shown to carry an attribute: none of {count(len(judged), 'change')} can be told from"
            " none."
        )
    top = hits.iloc[int(hits["effect"].abs().to_numpy().argmax())]
    beaten = hits[hits["claim"] == CLAIMS[0]]
    sign = 1 if top["effect"] > 0 else -1
    low, high = sorted((100 * sign * top["low"], 100 * sign * top["high"]))
    change = interval(100 * sign * top["effect"], low, high, digits=2)
    shown = " as asked for" if top["kind"] == "asked" else ""
    controls = (
        f"as many matched random heads change that by {number(100 * top['control_mean'], 2)} points on average,"
        f" {p_value(top['p_control_adjusted'])} after correction"
        if pd.notna(top["control_mean"])
        else "no other heads were run that match it"
        if judged["controls"].fillna(0).max() > 0
        else "no other heads were removed beside it"
    )
    enough = int(judged["controls"].fillna(0).max()) >= draws_needed(alpha)
    idle = int((hits["flipped"] == 0).sum())
    flips = f" In {idle} of these no verdict flips." if idle else ""
    told = (
        f", {len(beaten)} of them {'beats' if len(beaten) == 1 else 'beat'} the controls"
        if enough
        else "; whether by more than without as many matched heads cannot be told"
    )
    return (
        f"Without {top['name']}, the judge is {change} percentage points {'more' if sign > 0 else 'less'} sure of"
        f" {top['attribute']}{shown}, in the median of {int(top['n'])} {top['domain']} images; {controls}."
        f" {len(hits)} of {count(len(judged), 'change')} {'differs' if len(hits) == 1 else 'differ'} from"
        f" zero{told}.{flips}"
    )


def _likeness(row: Any) -> str:
    return f"{interval(row['effect'], row['low'], row['high'])}, without {row['name']} ({row['domain']} images)"


def sampled_domains(frame: pd.DataFrame, domains: Sequence[str]) -> str:
    """Return the domains of a study that were sampled, with a space behind; nothing where images are of none."""
    names = listed([domain for domain in domains if (frame["domain"] == domain).any()])
    return f"{names} " if names else ""


def sight_sentences(frame: pd.DataFrame, alpha: float) -> list[str]:
    """Return over what changes of attributes are corrected, and what so many images can show of one."""
    judged = frame[frame["measure"].str.startswith(("asked:", "attribute:"))]
    if judged.empty:
        return []
    images, tests = int(judged["n"].min()), int(judged["domain"].value_counts().max())
    least = min(1.0, tests * 2.0 ** (1 - images))
    family = (
        f"Changes are tested by how many images go either way, corrected over {tests} of a domain (mechanisms,"
        " windows and attributes, of what was asked for and of the attribute itself)"
    )
    if least > alpha:
        needed = units_needed(alpha, tests)
        return [
            f"{family}. It cannot be told whether any attribute changes: {count(images, 'image')} allow no corrected p"
            f" below {number(least, 2)}; level {alpha:g} takes {needed} (resampling.images)."
        ]
    share = number(100 * smallest_share(images, alpha=alpha, tests=tests), 3)
    return [f"{family}. A change in one direction is found four times in five if it holds for {share} % of images."]


def power_sentence(controls: int, alpha: float) -> str:
    """Return what so many controls can show."""
    if not controls:
        return (
            "No controls were run (resampling.controls), so it cannot be told whether an attribute changes by"
            f" more than without as many heads picked at random: level {alpha:g} takes {draws_needed(alpha)} sets of"
            " them."
        )
    least = 1 / (1 + controls)
    if controls >= draws_needed(alpha):
        return (
            f"With {controls} controls the least p-value against them is {number(least, 2)}. What beats them changes"
            " an attribute by more than nearly all random sets of as many heads do, its own heads among them as chance"
            " has it."
        )
    return (
        f"With {count(controls, 'control')} no p-value against them falls below {number(least, 2)}, so none can be"
        f" beaten at level {alpha:g}, which takes {draws_needed(alpha)} (resampling.controls): they show what as many"
        " heads picked at random do."
    )


def judge_sentence(context: Context) -> str:
    """Return who judges, and how good the judge is where that is known."""
    about = {key: json.loads(value) for key, value in open_store(context.inputs.resampled).attrs.items()}
    accuracy = about.get("accuracy", {})
    unknown = "how often it is right is not known"
    if not accuracy:
        return f"The judge is {about['judge']}; {unknown}." if about.get("judge") else ""
    right = [f"{name} {number(100 * share, 3)} %" for name, share in accuracy.items()]
    detector = f" Other attributes are judged by {about['detector']}; {unknown}." if about.get("detector") else ""
    return f"The judge is a classifier trained on drawn faces; right on faces it never saw: {listed(right)}.{detector}"


def pictures(context: Context, names: dict[str, str]) -> Markup:
    """Return one row of images per mechanism, under the clean ones."""
    data = open_store(context.inputs.resampled).dataset
    rows = []
    domains = [str(domain) for domain in data["domain"].values]
    for index, (domain, target) in enumerate(zip(domains, data["target"].values, strict=True)):
        label = "nothing removed" if target == "clean" else f"without {names.get(str(target), str(target))}"
        prefix = f"{domain}: " if len(set(domains)) > 1 else ""
        rows.append(strip(data["image"].isel(row=index).values, prefix + label))
    return markup.gallery(rows, TILE)


def strip(images: np.ndarray, label: str) -> Picture:
    """Return images `(image, channel, y, x)` in [-1, 1] side by side."""
    tiles = list(colour_pixels(images))
    return picture(mosaic(tiles, len(tiles)), f"{len(tiles)} generated images, {label}", label, tiles=len(tiles))
