"""The sections of a data set on what is inside its VAEs: units, patches, mediation, motifs, causal graphs, swaps."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from diffmech.config.studies.vae import VaeStudy
from diffmech.report import markup
from diffmech.report.markup import Section
from diffmech.report.vae import charts_graphs, charts_units, grids
from diffmech.report.vae.findings import SWAPS
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.sections import UNCHANGED, drawn
from diffmech.report.vae.words import CODES, of_kind, vae_words
from diffmech.report.wording import interval, limits, listed, number, p_value

MOTIFS = {
    "positive chain": "A path from a factor over a unit and a latent to the image that raises what it ends at.",
    "negative chain": "A path that lowers it.",
    "coherent units": "A factor moves a latent over two units, both ways with the same sign.",
    "incoherent units": "The same with opposite signs.",
    "coherent latents": "A unit moves the image over two latents, both ways with the same sign.",
    "incoherent latents": "The same with opposite signs.",
    "factor bi-fan": "Two factors move the same two units.",
    "unit bi-fan": "Two units move the same two latents.",
}

READ_FROM = {"generator": "mechanism", "inputs": "latents", "untrained": "latents, untrained"}


def sections(data: str, tables: Tables, stores: dict[str, Any], vae: VaeStudy) -> list[Section]:
    """Return all of them, in the order of the page."""
    found = [_units(data, tables, vae), _patching(data, tables, vae), _mediation(data, tables, vae)]
    found += [_motifs(data, tables, vae), _graphs(data, tables, vae)]
    if of_kind(vae, CODES) or len(tables.swaps):
        found.append(_swaps(data, tables.swaps, stores, vae))
    return found


def _nothing(anchor: str, title: str, why: str = UNCHANGED) -> Section:
    return markup.section(anchor, title, markup.paragraph(why, "quiet"))


def _units(data: str, tables: Tables, vae: VaeStudy) -> Section:
    anchor, title = f"{data}-units", "Whether units respond mainly to one factor"
    if tables.units.empty:
        return _nothing(anchor, title)
    about = (
        "A unit is a channel of a convolution or a unit of a dense layer. How much of its variance needs a factor is "
        "measured on images that differ in that factor alone. It is monosemantic where it needs fewer than two factors "
        "in effect, and one more exclusively than by chance and than units of untrained networks do; polysemantic "
        "where it does not; silent where it changes for fewer than a tenth of the images."
    )
    points = (
        "One point per unit, first seed of each family: 1 = one factor alone, to the right: several alike "
        "(participation ratio of the shares of factors). Silent units are left out."
    )
    parts = [
        markup.paragraph(about),
        drawn(data, "kinds", charts_units.kinds_bars(tables.units), "Units of each layer by kind, all seeds together."),
        drawn(data, "participation", charts_units.participation(tables.units, vae), points),
        markup.folded("Layers as a table, beside untrained twins", _layers(tables.units, vae)),
    ]
    if len(tables.modularity):
        caption = (
            "How independently the units of a layer change, one point per VAE: 1 less the mean absolute correlation "
            "of the changes of two units (a third party's account of arXiv 2505.03530). Untrained twins have the "
            "same form; the ceiling has the changes of each unit permuted over pairs, so that no unit goes with "
            "another."
        )
        heading = markup.heading("Whether units change together")
        parts += [heading, drawn(data, "modularity", charts_units.modularity(tables.modularity), caption)]
    return markup.section(anchor, title, *parts)


def _layers(units: pd.DataFrame, vae: VaeStudy) -> Markup:
    alpha = vae.measures.alpha
    rows = []
    for (family, layer), own in units.groupby(["family", "layer"], sort=False):
        kinds = own["kind"].value_counts()
        below = 100 * (own["p_untrained"].dropna() <= alpha).mean()
        counts = [f"{int(kinds.get(kind, 0)):,}" for kind in (*charts_units.KINDS, "silent")]
        rows.append([str(family), str(layer), *counts, number(own["participation"].median()), f"{number(below, 2)} %"])
    columns = ["family", "layer", *charts_units.KINDS, "silent", "median number of factors", "beyond untrained"]
    caption = (
        f"All seeds. Beyond untrained: units more selective than all but {number(100 * alpha, 2)} % of the units of "
        f"this layer in untrained twins, before correction; {number(100 * alpha, 2)} % would be if training changed "
        "nothing."
    )
    return markup.table(columns, rows, caption, columns[2:])


def _patching(data: str, tables: Tables, vae: VaeStudy) -> Section:
    anchor, title = f"{data}-patching", "How few units carry a factor"
    if tables.patching.empty:
        return _nothing(anchor, title)
    share = number(100 * vae.measures.share, 2)
    about = (
        f"In an image before the change, {share} % of the units of one layer are given the activity that they have in "
        "the changed image. The share of the change of the output that this brings is shown: of the latents for "
        "layers of the encoder, of the image for those of the decoder. Units are chosen on one half of the pairs and "
        "measured on the other; random ones are as many, mean over draws."
    )
    caption = (
        "First seed of each family: chosen units on the left, as many at random on the right; 1 = all of the change."
    )
    return markup.section(
        anchor,
        title,
        markup.paragraph(about),
        drawn(data, "patching", charts_units.patching_map(tables.patching, vae), caption),
        markup.folded("Layers as a table, all seeds", _carried(tables.patching)),
    )


def _carried(patching: pd.DataFrame) -> Markup:
    rows = []
    for (family, layer), own in patching.groupby(["family", "layer"], sort=False):
        beyond = int((own["low"] > own["random_high"]).sum())
        half = own["half"].dropna()
        rows.append(
            [
                str(family),
                str(layer),
                f"{int(own['units'].iloc[0])} of {int(own['of'].iloc[0])}",
                number(own["share"].mean()),
                number(own["random"].mean()),
                f"{beyond} of {len(own)}",
                f"{int(half.median())}" if len(half) else "none do",
            ]
        )
    columns = ["family", "layer", "units", "share", "at random", "above random", "units for half"]
    caption = (
        "Means over factors and seeds. Above random: factors and seeds in which the interval lies above that of random "
        "units. Units for half: how many of the strongest, taken alone and added up, carry half of the change (median)."
    )
    return markup.table(columns, rows, caption, columns[2:])


def _mediation(data: str, tables: Tables, vae: VaeStudy) -> Section:
    anchor, title = f"{data}-mediation", "What goes through those units"
    if tables.mediation.empty:
        why = "No effect on a latent was mediated: no factor can be changed alone, or no VAE has single latents."
        return _nothing(anchor, title, why)
    about = (
        "The output is the latent that a factor moves most. Direct: the input changes and the chosen units stay as "
        "they were. Indirect: the chosen units alone change as if the input had. Interaction: what needs both. The "
        "three add up to the total effect (Pearl 2001; VanderWeele 2014)."
    )
    residual = number(tables.mediation["residual"].max(), 2)
    caption = (
        "Last layer of the encoder, first seed of each family; lines: bootstrap over pairs. The parts leave at most "
        f"{residual} sd of a total effect over, which is rounding. Beside them: the indirect effect of as many units "
        "at random."
    )
    return markup.section(
        anchor,
        title,
        markup.paragraph(about),
        drawn(data, "mediation", charts_units.mediation_bars(tables.mediation, vae), caption),
        markup.folded("Layers as a table, all seeds", _effects(tables.mediation)),
    )


def _effects(mediation: pd.DataFrame) -> Markup:
    effects = ["total", "direct", "indirect", "interaction", "random"]
    rows = [
        [str(family), str(layer), f"{int(own['units'].iloc[0])}", *(number(own[name].mean()) for name in effects)]
        for (family, layer), own in mediation.groupby(["family", "layer"], sort=False)
    ]
    columns = ["family", "layer", "units", *effects[:4], "indirect, random units"]
    caption = "Effects in standard deviations of the latent that each factor moves most; means over factors and seeds."
    return markup.table(columns, rows, caption, columns[2:])


def _motifs(data: str, tables: Tables, vae: VaeStudy) -> Section:
    anchor, title = f"{data}-motifs", "Paths from factors to the image"
    if tables.motifs.empty and tables.links.empty:
        return _nothing(anchor, title)
    parts = []
    if len(shown := charts_graphs.shown_links(tables.links, vae)):
        own = tables.links[
            (tables.links["family"] == shown["family"].iloc[0])
            & (tables.links["vae_seed"] == shown["vae_seed"].iloc[0])
        ]
        total = len(own[own["layer"] == shown["layer"].iloc[0]])
        caption = (
            f"{vae_words(str(shown['family'].iloc[0]), int(shown['vae_seed'].iloc[0]))}, as an example: what is "
            "changed, from left to right, raises or lowers what it is linked to. Thicker = stronger within its "
            f"level. {len(shown)} of its {total} significant links are shown: of the {charts_graphs.MOST_UNITS} units "
            f"with the strongest paths, those of at least {number(100 * charts_graphs.THIN, 2)} % of the strongest of "
            "their level. Motifs are counted in all of them."
        )
        parts.append(drawn(data, "links", charts_graphs.links_graph(tables.links, vae), caption))
    else:
        parts.append(
            markup.paragraph(
                "No VAE has significant links that lead from a factor over a unit to a latent, so that there is no "
                "graph to show.",
                "quiet",
            )
        )
    if len(tables.motifs):
        names = [str(name) for name in dict.fromkeys(tables.motifs["motif"])]
        told = {name: MOTIFS[name] for name in names if name in MOTIFS}
        parts += [markup.heading("Kinds of paths, and how often they recur"), *([markup.facts(told)] if told else [])]
        caption = (
            "How often each kind occurs, in multiples of its mean number in random graphs whose nodes have the same "
            "numbers of links of either sign; grey: range of most of these. Kinds that none are expected of, and "
            "those that follow from the numbers of links alone and so cannot be tested, are left to the table."
        )
        parts.append(drawn(data, "motifs", charts_graphs.motif_counts(tables.motifs, vae.measures.alpha), caption))
        parts.append(markup.folded("Counts as a table", _counts(tables.motifs)))
    return markup.section(anchor, title, *parts)


def _counts(motifs: pd.DataFrame) -> Markup:
    rows = [
        [
            f"{row['family']}, {row['vae_seed']}",
            row["layer"],
            row["motif"],
            f"{int(row['found']):,}",
            f"{number(row['expected'])} ({limits(row['low'], row['high'])})",
            "not tested" if pd.isna(row["p_corrected"]) else p_value(row["p_corrected"]),
        ]
        for row in motifs.to_dict("records")
    ]
    columns = ["family, seed", "layer", "motif", "found", "expected", "corrected"]
    return markup.table(columns, rows, "Motifs (Milo et al. 2002), Holm over those of a VAE.", columns[3:])


def _graphs(data: str, tables: Tables, vae: VaeStudy) -> Section:
    anchor, title = f"{data}-graphs", "Which factor causes which"
    if tables.graphs.empty and tables.edges.empty:
        return _nothing(anchor, title)
    about = (
        "One factor is set to another value while all others but the effect are held. An edge is called where the "
        "effect changes more than it does when it alone is held and all else changes (what leaks from latents that "
        "mix factors), and by at least a tenth of its sd. Set on the mechanism that makes the images, this checks "
        "the method; read from the latents of the images, it says what a VAE encodes."
    )
    caption = (
        "Rows cause columns; numbers: mean change of the effect, in its sd. First seed of each family. Pale: no "
        "edge, and rightly none."
    )
    parts = [markup.paragraph(about)]
    if len(tables.edges):
        parts.append(drawn(data, "causes", charts_graphs.causal_map(tables.edges, vae), caption))
    if len(tables.graphs):
        parts.append(_distances(tables.graphs))
    return markup.section(anchor, title, *parts)


def _distances(graphs: pd.DataFrame) -> Markup:
    # what is set on the mechanism itself is the same for every VAE
    mechanism = graphs["level"] == "generator"
    columns = ["edges", "true_edges", "distance"]
    once = graphs[mechanism].drop_duplicates(columns)
    rows = [
        [
            "all" if row["level"] == "generator" and len(once) == 1 else f"{row['family']}, {row['vae_seed']}",
            READ_FROM[row["level"]],
            *(f"{int(row[column])}" for column in columns),
            number(row["random"]),
            p_value(row["p"]),
            "" if pd.isna(row["readout"]) else number(row["readout"]),
        ]
        for row in pd.concat([once, graphs[~mechanism]]).to_dict("records")
    ]
    columns = ["family, seed", "read from", "edges", "true edges", "distance", "random graphs", "p", "readout"]
    caption = (
        "Structural Hamming distance (Tsamardinos et al. 2006): pairs of factors that are not joined as in the true "
        "graph, a reversed edge among them; beside it its mean for random acyclic graphs of as many edges, and as p "
        "the share of these that are as near. Untrained: a network of the same form with fresh weights, which tells "
        "what of the graph is seen without training. Readout: how well factors are read from latents, R2 or share of "
        "right classes."
    )
    return markup.table(columns, rows, caption, columns[2:])


def _swaps(data: str, swaps: pd.DataFrame, stores: dict[str, Any], vae: VaeStudy) -> Section:
    names = listed(of_kind(vae, CODES))
    about = (
        f"The latent of {names} is a grid of numbers of codes. A number of a code has no order and no unit, so that a "
        "shift by one or by one sd, the spread of a posterior, active latents and the strength and specificity of a "
        "latent are undefined, and are not shown as zero. What can be done is to put another code in one place; a "
        "shift of what is encoded before its code is chosen is shown beside it, with how often it chooses the "
        "same code again."
    )
    rows = [
        [
            vae_words(row["family"], row["vae_seed"]),
            SWAPS.get(row["swap"], row["swap"]),
            "undefined" if pd.isna(row["per_pixel"]) else _strength(row),
            "" if pd.isna(row["local"]) else f"{number(100 * row['local'])} %",
            row["note"] if isinstance(row["note"], str) else "",
        ]
        for row in swaps.to_dict("records")
    ]
    columns = ["VAE", "what is done", "change per pixel", "within its place", "note"]
    caption = (
        "Root mean squared change of the image, mean over images and places (bootstrap over images), and the share "
        "of the squared change within the block of pixels that the place stands over."
    )
    told = markup.table(columns, rows, caption, columns[2:4], columns[4:])
    if not rows:
        told = markup.paragraph("No codes were swapped in this data set.", "quiet")
    pictures = list(grids.swapped_parts(stores, vae))
    return markup.section(
        f"{data}-swaps", "What takes the place of shifts in a VQ-VAE", markup.paragraph(about), told, *pictures
    )


def _strength(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return number(row["per_pixel"])
    return interval(row["per_pixel"], row["low"], row["high"])
