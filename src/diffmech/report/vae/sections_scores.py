"""The sections of a data set on disentanglement: scores, families, effect strength beside scores."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from diffmech.report import markup
from diffmech.report.markup import Section
from diffmech.report.vae import charts_scores
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.sections import drawn
from diffmech.report.vae.words import measure_words, vae_words
from diffmech.report.wording import interval, limits, number, p_value
from diffmech.vae.strengths import FEWEST


def sections(data: str, tables: Tables) -> list[Section]:
    """Return all of them, in the order of the page."""
    return [_scores(data, tables), _relation(data, tables)]


def _scores(data: str, tables: Tables) -> Section:
    caption = (
        "One point per VAE, also those that have not learned. Grey: the largest that codes reach which know nothing, "
        "those of the same VAE dealt out anew among the images, in ten draws (one for DCI and InfoMEC): a score left "
        "of it says nothing for the VAE. InfoM and InfoC are of shares of whatever the codes know, of which codes that "
        "know next to nothing can have large ones. Scores of different names do not compare."
    )
    parts = [drawn(data, "scores", charts_scores.scores_dots(tables.scores), caption)]
    if len(tables.scores):
        parts.append(markup.folded("What each score is of, with its floor and its fit", _inputs(tables.scores)))
    parts.append(markup.heading("Families beside each other"))
    if len(tables.families):
        caption = (
            "Mean over seeds with its t interval, one panel per measure with an axis of its own. A family of one "
            "seed has no interval. Reconstruction: nats per image, less is better."
        )
        parts.append(drawn(data, "families", charts_scores.families_intervals(tables.families), caption))
        parts.append(_families(tables.families))
    else:
        parts.append(markup.paragraph("There is nothing to compare over seeds.", "quiet"))
    return markup.section(f"{data}-scores", "How well factors are told apart", *parts)


def _inputs(scores: pd.DataFrame) -> Markup:
    rows = [
        [
            vae_words(row["family"], row["vae_seed"]),
            measure_words(row["measure"]),
            "undefined" if pd.isna(row["score"]) else number(row["score"]),
            "" if pd.isna(row["floor"]) else f"{number(row['floor'])}, at most {number(row['floor_high'])}",
            "" if pd.isna(row["fit"]) else number(row["fit"]),
            row["inputs"] if isinstance(row["inputs"], str) else "",
        ]
        for row in scores.to_dict("records")
    ]
    columns = ["VAE", "score", "value", "floor", "fit", "of what"]
    caption = (
        "The same score in two codes can differ by what it is of: means or samples, which factors, which predictor."
    )
    return markup.table(columns, rows, caption, columns[2:5], columns[5:])


def _families(families: pd.DataFrame) -> Markup:
    rows = []
    for row in families.dropna(subset="mean").to_dict("records"):
        single = pd.isna(row["low"])
        mean = number(row["mean"]) if single else interval(row["mean"], row["low"], row["high"])
        rows.append([measure_words(row["measure"]), row["family"], mean, _difference(row), _p(row), f"{int(row['n'])}"])
    columns = ["measure", "family", "mean", "more than the plain VAE", "p, corrected", "seeds"]
    caption = (
        "Intervals: t over seeds; differences and p: Welch's t (Welch 1947), Holm-Sidak over the families of one "
        "measure."
    )
    return markup.table(columns, rows, caption, columns[2:])


def _difference(row: Mapping[Any, Any]) -> str:
    value, low, high = (float(row[name]) for name in ("difference", "difference_low", "difference_high"))
    if pd.isna(value):
        return ""
    return f"{number(value)}, no interval" if pd.isna(low) else interval(value, low, high)


def _p(row: Mapping[Any, Any]) -> str:
    corrected = float(row["p_corrected"])
    return "" if pd.isna(corrected) else p_value(corrected)


def _relation(data: str, tables: Tables) -> Section:
    anchor, title = f"{data}-relation", "Effect strength beside disentanglement"
    if tables.relation["correlation"].isna().all():
        why = (
            f"Nothing to relate: a correlation takes at least {FEWEST} VAEs that have learned, with single latents "
            "and scores that differ."
        )
        return markup.section(anchor, title, markup.paragraph(why, "quiet"))
    learned = tables.of_learned()
    caption = (
        "One point per VAE that has learned. Raw strength depends on the scale of latents, calibrated strength does "
        "not. A correlation over families can come from one family alone: within families, ranks are taken in each."
    )
    rows = [
        [
            measure_words(row["strength"]),
            measure_words(row["measure"]),
            number(row["correlation"])
            if pd.isna(row["low"])
            else f"{number(row['correlation'])} ({limits(row['low'], row['high'])})",
            number(row["within"]),
            p_value(row["p"]),
            f"{int(row['n'])}",
        ]
        for row in tables.relation.to_dict("records")
    ]
    columns = ["effect strength", "score", "Spearman's correlation", "within families", "p", "VAEs"]
    words = "Mean strength of active latents against scores; bootstrap over VAEs, p by permuting them."
    chart = drawn(data, "relation", charts_scores.relation_scatter(learned.latents, learned.scores), caption)
    return markup.section(anchor, title, chart, markup.table(columns, rows, words, columns[2:]))
