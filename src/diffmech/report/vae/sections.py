"""The sections of a data set on its VAEs and their latents."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from diffmech.config.studies.vae import VaeStudy
from diffmech.findings import Finding
from diffmech.report import markup
from diffmech.report.drawing import specification
from diffmech.report.markup import Section
from diffmech.report.vae import charts_latents, grids
from diffmech.report.vae.findings import LEARNED
from diffmech.report.vae.inputs import Tables
from diffmech.report.wording import interval, number

UNCHANGED = (
    "Nothing is measured here: no factor of these images can be changed alone, so that there are no pairs of images "
    "that differ in one factor."
)
CONTINUOUS = "No VAE of this data set has single latents: the latent of a VQ-VAE is a grid of numbers of codes."


def drawn(data: str, name: str, chart: Any, caption: str) -> Markup:
    """Return a chart of a data set with its caption."""
    return markup.chart(f"{data}-{name}", specification(chart), caption)


def answers(data: str, found: list[Finding]) -> Section:
    """Return what was found, as cards."""
    cards = markup.block("findings", *(markup.finding(each) for each in found))
    return markup.section(f"{data}-answers", "What was found", cards)


def learned(data: str, tables: Tables, stores: dict[str, Any], vae: VaeStudy) -> Section:
    """Return whether VAEs have learned their images, with examples."""
    parts = [markup.paragraph(LEARNED)]
    if rows := grids.reconstructions(stores, vae):
        about = (
            "Images sampled anew (of a small data set some were trained on), one a column, and what the first seed of "
            "each family makes of them."
        )
        parts += [markup.paragraph(about), markup.gallery(rows, grids.TILE)]
    if len(tables.models):
        parts.append(_models(tables.models, vae))
    return markup.section(f"{data}-learned", "Whether they have learned", *parts)


def _models(models: pd.DataFrame, vae: VaeStudy) -> Markup:
    told = models["learned"]
    rows = [
        [
            f"{row['family']}, {row['vae_seed']}",
            "yes" if good else "no",
            number(row["reconstruction"]),
            number(row["mean_image"]),
            number(row["bound"]),
            "a grid" if pd.isna(row["active_latents"]) else f"{int(row['active_latents'])} of {int(row['latents'])}",
            "" if pd.isna(row["codes_in_use"]) else number(row["codes_in_use"]),
            f"{int(row['parameters']):,}",
            f"{int(row['steps']):,}",
            f"{number(row['seconds'], 2)} s",
        ]
        for row, good in zip(models.to_dict("records"), told, strict=True)
    ]
    columns = ["family, seed", "learned", "reconstruction", "mean image", "bound", "active latents", "codes in use"]
    columns += ["weights", "steps", "training"]
    caption = (
        "Nats per image, of images sampled anew: −log p(x|z) of the reconstruction, the same of the mean "
        "image for every image, and the negative evidence lower bound. Latents are active where their mean has a "
        "variance above 0.01 (Burda et al. 2016); codes in use are the perplexity of a codebook."
    )
    return markup.table(columns, rows, caption, columns[2:])


def latents(data: str, tables: Tables, stores: dict[str, Any], vae: VaeStudy) -> list[Section]:
    """Return traversals, and what setting one latent does."""
    span, steps = number(vae.measures.span, 2), vae.measures.steps
    about = (
        f"Each row moves one latent alone, in {steps} steps from {span} standard deviations below its mean to {span} "
        "above, over all images (the aggregate posterior), and decodes; the others stay those of one image. "
        "Strongest latents first. Behind the number stands the factor whose change moves the latent most, and others "
        "that do so at least half as much."
    )
    pictures = list(grids.traversal_parts(stores, tables, vae))
    if tables.latents.empty:
        return [
            markup.section(f"{data}-traversals", "What latents show", markup.paragraph(CONTINUOUS, "quiet")),
            markup.section(f"{data}-latents", "How strong latents are", markup.paragraph(CONTINUOUS, "quiet")),
        ]
    strengths = (
        "Change of the image, root mean square over its pixels, when one active latent alone is intervened on, first "
        "seed of each family. A shift by one is what others call raw: it depends on the scale of the latent. "
        "Calibrated shifts are as large as the latent varies, over images and with its posterior's own noise: where "
        "that noise is most of it, they go farther than images do (beside them: taken from another image). Lines: "
        "bootstrap over images."
    )
    specific = (
        "One point per active latent, all seeds. To the right: the change of the image is confined to few pixels. Up: "
        "the latent is moved by few factors. 0 = all alike, 1 = one alone. Where no factor can be changed, calibrated "
        "strength takes the place of the latter."
    )
    return [
        markup.section(f"{data}-traversals", "What latents show", markup.paragraph(about), *pictures),
        markup.section(
            f"{data}-latents",
            "How strong and how specific latents are",
            drawn(data, "strengths", charts_latents.strengths(tables.latents, vae), strengths),
            drawn(data, "specificity", charts_latents.specificity(tables.latents), specific),
            markup.folded("All active latents as a table", _latents(tables.latents)),
        ),
    ]


def _latents(latents: pd.DataFrame) -> Markup:
    rows = [
        [
            f"{row['family']}, {row['vae_seed']}",
            f"{row['latent']}",
            row["factor"] if isinstance(row["factor"], str) else "not known",
            number(row["deviation"]),
            interval(row["raw"], row["raw_low"], row["raw_high"]),
            interval(row["calibrated"], row["calibrated_low"], row["calibrated_high"]),
            number(row["specificity"]),
            number(row["bounded"]),
            number(row["over_factors"]),
        ]
        for row in latents[latents["active"].astype(bool)].to_dict("records")
    ]
    columns = ["family, seed", "latent", "moved most by", "sd", "raw", "calibrated"]
    columns += ["1 / (H + eps)", "1 − H / ln n, pixels", "1 − H / ln n, factors"]
    caption = (
        "Raw: E |D(z) − D(do(z_i + 1))|, the norm over all pixels, and 1 / (H + eps), as a third party reports them of "
        "arXiv 2505.03530. Calibrated: per pixel, shifted by one sd of the aggregate posterior (arXiv 2603.21236). The "
        "bounded specificity is ours."
    )
    return markup.table(columns, rows, caption, columns[3:])


def effects(data: str, tables: Tables, vae: VaeStudy) -> Section:
    """Return which factor moves which latent."""
    anchor, title = f"{data}-effects", "Which factor moves which latent"
    if tables.effects.empty:
        return markup.section(anchor, title, markup.paragraph(UNCHANGED, "quiet"))
    pairs = int(tables.effects["pairs"].max())
    caption = (
        f"Mean absolute change of each latent when one factor of the image is changed and nothing else, over {pairs} "
        "pairs of images, first seed of each family; in standard deviations of the latent over all images. Numbers "
        "stand where the interval lies above the mean of untrained twins (networks of the same form, each in its own "
        "spread). A latent that stands for one factor has one bright cell in its column."
    )
    return markup.section(
        anchor, title, drawn(data, "effects", charts_latents.effects_map(tables.effects, vae), caption)
    )
