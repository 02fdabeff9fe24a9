"""The second half of the page: entropy, divergence, mechanisms, ablation, complexity, published figures."""

import pandas as pd
from markupsafe import Markup

from diffmech.findings import Finding
from diffmech.interventions.targets import EACH, ON_AVERAGE
from diffmech.mechanisms.labels import ENDINGS, NAMING_SHARE
from diffmech.report import markup
from diffmech.report.heads.artifacts import Tables, effect_title
from diffmech.report.heads.condition import condition_of_comparison
from diffmech.report.heads.context import Context
from diffmech.report.heads.controls import COLUMNS as BALANCE
from diffmech.report.heads.controls import balance_rows, limits_of
from diffmech.report.heads.examples import Example, mechanism_examples
from diffmech.report.heads.findings import mechanism_names
from diffmech.report.heads.naming import halves, name_of, own_p, own_probe
from diffmech.report.heads.published import measured_counterparts
from diffmech.report.heads.terms import attention
from diffmech.report.heads.weights import about_weights
from diffmech.report.wording import count, limits, listed, number

CONFIRMED = ("confirmed", *(f"confirmed{ending}" for ending in ENDINGS))
MOST, MOST_HEADS = 0.5, 12  # what share is most of a head's attention, and how many of such heads are named
TILE = 92  # CSS pixels of one example image


def entropy(context: Context) -> markup.Section:
    """Return the entropy of all heads, with its bound and its untrained null."""
    table = context.tables.entropy
    bounds = {
        f"{kind}-attention: ln({round(float(pow(2.718281828459045, value)))}) = {value:.3f} nats"
        for kind, value in table[["kind", "h_max"]].drop_duplicates().itertuples(index=False)
    }
    read = (
        "Entropy tells how widely a head looks, in nats (natural logarithms): 0 when each query looks at a single key,"
        " the logarithm of the number of keys when it looks everywhere alike. It is divided by that bound here, so that"
        " layers can be compared. Where a head is as high in the panel of the untrained copies, its entropy alone is no"
        " sign of anything learned."
    )
    inside = table["entropy"].between(table["untrained_low"], table["untrained_high"])
    shares = [
        f"{number(100 * share, 2)} % of {attention(kind)}"
        for kind, share in inside.groupby(table["kind"], sort=False).mean().items()
    ]
    sure = (
        f"Of all head, timestep and domain cells {listed(shares)} lie within the range of the untrained copies. Bounds:"
        f" {'; '.join(sorted(bounds))}."
    )
    return markup.section(
        "entropy",
        "How widely each head looks",
        markup.paragraph(read),
        markup.paragraph(sure),
        *[markup.paragraph(sentence) for sentence in extra_sentences(context.tables)],
        context.chart("entropy_map", more="Point at a cell for its interval."),
        markup.heading("By layer"),
        context.chart("entropy_layers"),
    )


def extra_sentences(tables: Tables) -> list[str]:
    """Return how much attention goes to extra tokens, and which heads give them most of theirs; none without any."""
    table = tables.entropy[tables.entropy["site"].isin(tables.extra_tokens)].dropna(subset=["beside_mass"])
    if table.empty:
        return []
    means = table.groupby("head")["beside_mass"].mean()
    mostly = [head for head in tables.heads if means.get(head, 0) > MOST]
    top = str(means.idxmax())
    first = listed(mostly[:MOST_HEADS]) if len(mostly) <= MOST_HEADS else f"{', '.join(mostly[:MOST_HEADS])} and others"
    who = (
        "No head gives most of its attention to them"
        if not mostly
        else (f"{count(len(mostly), 'head gives', 'heads give')} most of it to them ({first})")
    )
    return [
        "Of the attention of the image's places"
        f" {limits(100 * means.min(), 100 * means.max(), 2)} % goes to extra tokens, by head, mean over timesteps and"
        f" domains. {who}; {top} gives the largest share, {number(100 * means[top], 2)} %."
    ]


def divergence(context: Context, finding: Finding) -> markup.Section:
    """Return the divergence of the domains per timestep against both nulls."""
    read = (
        "For every head the mean entropy of one domain is taken from that of the other; the chart shows the mean size"
        " of these differences. A mean of sizes is never zero, even if the domains do not differ. So the grey area"
        " shows what shuffled domain labels reach in 95 % of cases, the dashed grey line their mean, and the dashed"
        " coloured line the largest value of any untrained copy. A diamond marks a timestep that beats both after"
        " correction over timesteps and kinds of attention."
    )
    return markup.section(
        "divergence",
        "Where attention tells the domains apart",
        markup.paragraph(finding.answer),
        markup.paragraph(f"{condition_of_comparison(context.tables, context.config)} {read}"),
        context.chart("entropy_divergence"),
        markup.heading("Whole distributions"),
        context.chart("jensen_shannon"),
    )


def mechanisms(context: Context, finding: Finding) -> markup.Section:
    """Return the mechanisms: table, grid, example attention, quality of the clusters."""
    table = context.tables.mechanisms
    domains = context.tables.domains
    rows = []
    for mechanism, members in table.groupby("mechanism", sort=True):
        first = members.iloc[0]
        own = set(members["head"])
        heads = [head for head in context.tables.heads if head in own]
        rows.append(
            [
                name_of(first, domains),
                str(mechanism),
                f"{len(heads)}: {short_heads(heads)}",
                *(str(members.loc[members[column], "head"].nunique()) for column in CONFIRMED),
                listed([f"{phase}" for phase in sorted(members["phase"].unique())]),
                *(told(first, ending) for ending in ENDINGS for told in (own_probe, own_p)),
                str(first["reason"]) if pd.notna(first["reason"]) else "",
                number(float(members["stability"].mean()), 2),
            ]
        )
    evidence = [(f"named by, or strongest, on {domain}", f"its p on {domain}") for domain in domains]
    columns = [
        "label",
        "cluster",
        "heads",
        "confirm it in both",
        *(f"confirm it on {domain}" for domain in domains),
        "phases",
        *(title for pair in evidence for title in pair),
        "why no name in both",
        "stability",
    ]
    read = (
        "Heads are grouped by what they do in each phase of denoising: how far and how sharply they look, how much that"
        " depends on the image, and what they look at. In each domain, a group is named after the strongest of the"
        " preferences that exceed what untrained copies prefer and, where they are for something in the image, what the"
        " same maps get when they are rolled to other places; such a name must also exceed what the maps of other"
        " images get. A preference for fixed places names a group only where no other that passes is"
        f" {NAMING_SHARE:g} times as strong. Where nothing passes, the strongest of the others stands in the table,"
        " without a name. p-values are those of the preference beside them, in that domain. The name of a group is the"
        " one that holds in both domains. Untrained copies are the only null of places and tokens."
    )
    return markup.section(
        "mechanisms",
        "What heads do together",
        markup.paragraph(finding.answer),
        markup.paragraph(read),
        markup.paragraph(halves(table, domains)),
        markup.table(
            columns,
            rows,
            "Mechanisms: clusters of heads, with the evidence for their labels",
            wide=["heads", "why no name in both", *(title for _, title in evidence)],
        ),
        markup.paragraph(phase_sentence(context)),
        context.chart("mechanism_grid"),
        markup.heading("What they look at"),
        examples(context),
        markup.heading("How good are the clusters?"),
        context.chart("cluster_quality"),
    )


def phase_sentence(context: Context) -> str:
    """Return the phases of denoising and how stable their borders are."""
    table = context.tables.phases
    spans = [
        f"{phase} (t {part['timestep'].min():g} to {part['timestep'].max():g})"
        for phase, part in table.groupby("phase")
    ]
    if len(spans) == 1:
        return "The timesteps form one phase: no border is worth its penalty."
    # the table has a row per timestep: a border counts once, however long the phase that it opens
    borders = table.drop_duplicates("phase")
    return (
        f"{count(len(spans), 'phase')}: {listed(spans)}. Their borders recur in"
        f" {number(100 * borders['stability'].mean(), 2)} % of resampled image sets, on average."
    )


def examples(context: Context) -> Markup:
    """Return the attention of the strongest head of each mechanism over example images."""
    names = mechanism_names(context.tables)
    found = mechanism_examples(context.inputs, context.tables.mechanisms, context.config.report.examples)
    if not found:
        return markup.paragraph("No attention was kept for these mechanisms.")
    lead = markup.paragraph(
        "The strongest head of each mechanism, of those that confirm its name where any does, laid over the clean"
        " images it saw noised. Dark places attract least attention, yellow ones most."
    )
    return Markup("").join([lead, *(_example(example, names) for example in found)])


def _example(example: Example, names: dict[str, str]) -> Markup:
    about = f"{example.head} at t = {example.timestep}"
    if example.kind == "cross":
        about += ": how strongly each place reads each token of the condition (mean beside the name, 1 = uniform)"
        domains = dict.fromkeys(shown.caption.split(",")[0] for shown in example.pictures)
        rows = [[p for p in example.pictures if p.caption.startswith(f"{domain},")] for domain in domains]
        body = [markup.block("tokens", *map(markup.figure, row)) for row in rows]
    else:
        body = [markup.block("two", *(markup.figure(shown, TILE) for shown in example.pictures))]
    title = markup.heading(names[example.mechanism], level=4)
    return markup.block("mechanism", title, markup.paragraph(about, "quiet"), *body)


def short_heads(heads: list[str]) -> str:
    """Return heads grouped by site: `down1.0.self h00 h03; up1.0.self h02`."""
    sites: dict[str, list[str]] = {}
    for head in heads:
        site, _, index = head.rpartition(".")
        sites.setdefault(site, []).append(index)
    return "; ".join(f"{site} {' '.join(indices)}" for site, indices in sites.items())


def ablation(context: Context, finding: Finding) -> markup.Section:
    """Return what removing heads costs, beside matched controls."""
    alpha = f"{context.config.ablation.alpha:g}"
    read = (
        f"A head is removed by putting something else in place of its output (here: {context.method}), on the same"
        f" inputs. The effect is the {effect_title(context.tables.effects)}. The thick grey bar beside a mechanism is"
        " the range of its controls: as many other heads, none of its own, that the removal moves as far, on the same"
        " images. A diamond marks an effect that exceeds them, and that random choices of as many heads, its own"
        " among them, do not reach by what each head does alone. Beside single heads and layers no controls were run:"
        " their grey bar, the range of all others of their kind, is a yardstick and no test."
        f" All marks hold at level {alpha}, corrected over all mechanisms, heads or layers of both kinds of images."
        " None of these images had a part in which heads make up a mechanism."
    )
    groups = context.tables.effects
    chosen = (groups["group"] == "mechanisms") & (groups["timestep"] == "all") & (groups["method"] == context.method)
    groups, names = groups[chosen], mechanism_names(context.tables)
    match = (
        "How far the controls match: where they come from, how many, the share of the mechanism's heads that they"
        " have too, and how far their removal moves the outputs beside that of the mechanism (on each kind of images,"
        f" and in each layer where they come from the same layers, within {ON_AVERAGE:g} on average and each within"
        f" {EACH:g} times up or down, or they are not fair). Other choices: p of the"
        " mechanism's heads one by one, among random choices of heads. The verdict is over all timesteps."
    )
    balance = [markup.paragraph(match), markup.table(BALANCE, balance_rows(groups, names), "Matched controls")]
    shift = context.tables.effects
    shift = shift[(shift["timestep"] == "all") & (shift["method"] == context.method)]
    far = (
        f"Replaced outputs lie {limits_of(shift['off_distribution'])} of their own size away from the original ones;"
        " the farther, the more an effect may come from an unnatural input and not from missing work."
    )
    return markup.section(
        "ablation",
        "Whether it matters",
        markup.paragraph(finding.answer),
        markup.paragraph(read),
        markup.paragraph(about_weights(context.tables.effects, context.method, mechanism_names(context.tables))),
        markup.heading("Mechanisms"),
        context.chart("ablation_mechanisms"),
        *([] if groups.empty else balance),
        *([] if groups.empty else [markup.paragraph(f"{finding.family} {finding.sight}", "quiet")]),
        markup.heading("Layers"),
        context.chart("ablation_layers"),
        markup.heading("Single heads"),
        context.chart("ablation_heads"),
        context.chart("ablation_map"),
        markup.heading("Does the way of removing matter?"),
        markup.paragraph(far),
        context.chart("ablation_methods", more="Point at an effect for the number of its images."),
    )


def complexity(context: Context, finding: Finding) -> markup.Section:
    """Return the complexity ratios beside the published one."""
    return markup.section(
        "complexity",
        "How large a circuit each domain uses",
        markup.paragraph(finding.answer),
        markup.paragraph(
            "Measures of our own, none of which is the published one, whose formula is not known. Effective heads: over"
            " how many heads the output shifts of ablations spread. Effective keys: what share of its keys a query"
            " uses. Activation participation: how many directions head outputs use."
        ),
        context.chart("complexity_ratio"),
    )


def published(context: Context) -> markup.Section:
    """Return published figures beside measured ones, and where each definition comes from."""
    references = context.tables.references
    measured = measured_counterparts(context.tables, context.method)
    rows = []
    for entry in references["published"]:
        low, high = entry["interval"]
        unit = "" if entry["unit"] == "ratio" else f" {entry['unit']}"
        value = f"{entry['value']:g} ± {entry['error']:g}{unit}" if "value" in entry else f"{low:g} to {high:g}{unit}"
        paper = references["papers"][entry["paper"]]
        rows.append(
            [
                entry["name"],
                f"{value} ({paper['images']})",
                measured.get(entry["key"], "not measured"),
                paper["citation"],
            ]
        )
    definitions = [
        [entry["name"], " ".join([entry["text"], entry.get("note", "")]).strip(), f"source: {entry['source']}"]
        for entry in references["definitions"]
    ]
    papers = [
        f"{key}: {paper['citation']} ({paper['version']}). Setting: {paper['setting']}"
        for key, paper in references["papers"].items()
    ]
    return markup.section(
        "published",
        "Beside published figures",
        *[markup.paragraph(paper, "quiet") for paper in papers],
        markup.table(
            ["quantity", "published", f"measured here, {' and '.join(context.tables.domains)} images", "source"],
            rows,
            "Published figures and their counterparts; ratios are of the first domain to the second",
        ),
        *map(markup.banner, references["warnings"]),
        markup.heading("Definitions in use"),
        markup.table(
            ["quantity", "definition", "origin"], definitions, "What each quantity is, and whose definition it is"
        ),
    )
