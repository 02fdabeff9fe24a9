"""When a head matters, and what it carries from one input to another, in charts and plain sentences."""

from typing import Any

import pandas as pd

from diffmech.config.patching import PatchingConfig, attribute_of
from diffmech.interventions.decisions import CAUSAL
from diffmech.interventions.measures import FULL_DOSE
from diffmech.report import markup
from diffmech.report.heads.artifacts import effect_title, farthest_from_zero, records
from diffmech.report.heads.charts_patching import between, span, timesteps_within
from diffmech.report.heads.condition import is_conditional
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import mechanism_names
from diffmech.report.wording import count, interval, listed, number, p_value
from diffmech.statistics.reach import smallest_sign_flip_p, units_needed

WORTH_A_WORD = 0.01  # share of the difference: how many heads depart farther from a straight line is said besides


def windows(context: Context) -> markup.Section:
    """Return what removing heads costs in each window of timesteps."""
    table = context.tables.windows
    spans = table.drop_duplicates("window").sort_values("window_first")
    ran = context.ablated_timesteps
    names = [
        f"{span(row.window_first, row.window_last)} ({timesteps_within(row.window_first, row.window_last, ran)})"
        for row in records(spans)
    ]
    read = (
        "The same removals, split by window of timesteps; in brackets those at which heads were replaced:"
        f" {'; '.join(names)}. Each column has its own intervals, and a correction over all heads and windows. A"
        " dot marks an effect that differs from zero."
    )
    return markup.section(
        "windows",
        "When it matters",
        *[markup.paragraph(sentence) for sentence in window_sentences(context)],
        markup.paragraph(read),
        context.chart("windows_map"),
    )


def window_sentences(context: Context) -> list[str]:
    """Return what was found per window, of heads and of mechanisms, or that nothing was."""
    table = context.tables.windows[context.tables.windows["method"] == context.method]
    title = effect_title(context.tables.windows).removesuffix(", %")
    article = "an" if title[0] in "aeiou" else "a"
    ran = context.ablated_timesteps
    sentences = []
    for domain in context.tables.domains:
        heads = table[(table["group"] == "heads") & (table["domain"] == domain)]
        if heads.empty:
            continue
        hits = heads[heads["significant"]]
        top = farthest_from_zero(hits if len(hits) else heads, "effect_percent")
        strongest = (
            f"{top['target']} at {timesteps_within(top['window_first'], top['window_last'], ran)}, {article} {title} of"
            f" {interval(top['effect_percent'], top['low'], top['high'], '%')}"
        )
        if hits.empty:
            sentences.append(
                f"On {domain} images no head has an effect in any window that can be told from zero after correction;"
                f" the estimate farthest from zero is {strongest}."
            )
            continue
        by_window = [
            f"{part['target'].nunique()} at"
            f" {timesteps_within(part['window_first'].iloc[0], part['window_last'].iloc[0], ran)}"
            for _, part in hits.sort_values("window_first").groupby("window", sort=False)
        ]
        sentences.append(
            f"On {domain} images {count(hits['target'].nunique(), 'head')} of {heads['target'].nunique()}"
            f" {'has' if hits['target'].nunique() == 1 else 'have'} an effect in some window"
            f" ({'; '.join(by_window)}); farthest from zero is {strongest}."
        )
    return [*sentences, *mechanism_sentences(context, table)]


def mechanism_sentences(context: Context, table: pd.DataFrame) -> list[str]:
    """Return in which windows mechanisms cost more than matched random heads, or that none was shown to."""
    groups = table[(table["group"] == "mechanisms") & table["p_control_adjusted"].notna() & table["controls_fair"]]
    if groups.empty:
        return []
    names = mechanism_names(context.tables)
    hits = groups[groups["verdict"] == CAUSAL]
    told = [
        f"{names.get(row.target, row.target)} on {row.domain} images at"
        f" {timesteps_within(row.window_first, row.window_last, context.ablated_timesteps)}"
        f" ({interval(row.effect_percent, row.low, row.high, '%')}; controls {number(row.control_mean)} %)"
        for row in records(hits.sort_values("effect_percent", ascending=False))
    ]
    if told:
        return [f"Mechanisms that cost more than their matched controls in a window: {'; '.join(told)}."]
    close = groups.sort_values(["p_control_adjusted", "control_percentile"], ascending=[True, False]).iloc[0]
    return [
        f"No mechanism was shown to cost more than its matched controls in any window ({len(groups)} tested). Closest"
        f" is {names.get(close['target'], close['target'])} on {close['domain']} images at"
        f" {timesteps_within(close['window_first'], close['window_last'], context.ablated_timesteps)},"
        f" {p_value(close['p_control_adjusted'])} after correction."
    ]


def patching(context: Context) -> markup.Section:
    """Return what each head carries of the difference between two inputs."""
    table = context.tables.patching
    if table.empty:
        return markup.section("patching", "What heads carry", markup.paragraph("No head was patched."))
    conditional = is_conditional(context.tables, context.config)
    sources = listed([source_words(source, conditional) for source in dict.fromkeys(table["source"])])
    steps = ", ".join(f"{timestep:g}" for timestep in context.patched_timesteps)
    when = f" Heads were patched at t = {steps}." if steps else ""
    read = (
        "Two passes that differ in one thing give two predictions, and a difference between them. Here the second pass"
        f" is {sources}. One head at a time writes in one pass what it wrote in the other, and the charts show how far"
        f" the prediction goes along that difference.{when} Brought: put into the first pass, 100 % means that this"
        " head alone is sufficient. Taken away: put back into the second, 100 % means that it is necessary. A"
        " negative share moves the prediction the other way. The two need not agree, since heads can stand in for each"
        " other."
    )
    alpha = context.config.patching.alpha
    caution = (
        "A dot marks a share that differs from zero, corrected over all heads and windows of one pair of passes and one"
        f" direction (level {alpha:g} for each of these). Random weights carry a difference as well, so a dot is a fact"
        " about the network and no sign of training. Where a head stands among the others of its kind is shown in its"
        " cell; one of them is always the largest, so that is no test."
    )
    return markup.section(
        "patching",
        "What heads carry from one input to another",
        markup.paragraph(read),
        *[markup.paragraph(sentence) for sentence in patching_sentences(context)],
        markup.paragraph(caution),
        markup.heading("Sufficient alone?"),
        context.chart("patching_sufficient"),
        markup.heading("Necessary?"),
        context.chart("patching_necessary"),
        markup.heading("Is half of it worth half?"),
        markup.paragraph(dose_sentence(context)),
        context.chart("patching_doses"),
    )


def source_words(source: str, conditional: bool) -> str:
    """Return what the second pass is."""
    attribute = attribute_of(source)
    if attribute is not None:
        return f"the same noised image with {attribute} flipped"
    if source == "domain":
        return "the same noised image, said to be of the other domain"
    return f"another image of the same domain, with its own noise{' and condition' if conditional else ''}"


def patching_sentences(context: Context) -> list[str]:
    """Return, for each domain and source, which heads bring and take away a share, or that none does."""
    table = context.tables.patching
    full = table[(table["group"] == "heads") & (table["dose"] == FULL_DOSE) & (table["window"] != "all")]
    sentences = []
    for (domain, source), part in full.groupby(["domain", "source"], sort=False):
        passes = between(str(domain), str(source), context.tables.domains)
        if not (part["n"] > 0).any():
            sentences.append(f"{passes.capitalize()}: the two predictions never differ, so there is nothing to carry.")
            continue
        parts: list[str] = []
        for direction, verb in (("denoising", "brings"), ("noising", "takes away")):
            rows = part[part["direction"] == direction]
            if len(rows):
                found = _strongest_sentence(rows, verb, context.config.patching, context.patched_timesteps)
                parts.append(f"{found[0].upper()}{found[1:]}" if parts else found)
        over_all = table[(table["domain"] == domain) & (table["source"] == source) & (table["window"] == "all")]
        apart = number(100 * float(over_all["difference"].mean()) ** 0.5, 2)
        about = f"{count(int(part['n'].max()), 'image')}; the predictions differ by {apart} % of their size"
        sentences.append(f"{passes[0].upper()}{passes[1:]} ({about}): {' '.join(parts)}")
    return sentences


def _strongest_sentence(rows: pd.DataFrame, verb: str, patching: PatchingConfig, ran: list[float]) -> str:
    heads, hits, images = rows["target"].nunique(), rows[rows["significant"]], int(rows["n"].max())
    farthest = f"the estimate farthest from zero is {_named(farthest_from_zero(rows, 'effect'), ran)}"
    untold = untold_by(images, patching)
    if untold:
        return f"whether any head {verb} a share cannot be told: {untold}; {farthest}."
    none = f"no head {verb} a share of the difference that can be told from zero"
    if hits.empty:
        seen = rows["smallest"].median()
        sight = f"; of the median head a share of {number(100 * seen, 2)} % would be found four times in five"
        return f"{none}; {farthest}{sight if pd.notna(seen) else ''}."
    # Told from zero is a share in either direction: what moves the prediction away brings nothing.
    ahead, back = (hits[sign * hits["effect"] > 0] for sign in (1, -1))
    said, single = none, ahead["target"].nunique()
    if single:
        verbs = verb if single == 1 else {"brings": "bring", "takes away": "take away"}[verb]
        said = (
            f"{single} of {heads} heads {verbs} a share of the difference that can be told from zero; the largest"
            f" estimate of these is {_named(farthest_from_zero(ahead, 'effect'), ran)}"
        )
    if len(back):
        other = back["target"].nunique()
        said += (
            f"; {other}{'' if single else f' of {heads}'} {'moves' if other == 1 else 'move'} the prediction the other"
            f" way, farthest {_named(farthest_from_zero(back, 'effect'), ran)}"
        )
    return f"{said}."


def _named(row: Any, ran: list[float]) -> str:
    share = interval(100 * row["effect"], 100 * row["low"], 100 * row["high"], "%")
    return f"{row['target']}, {share} at {timesteps_within(row['window_first'], row['window_last'], ran)}"


def untold_by(images: int, patching: PatchingConfig) -> str:
    """Return why random signs of so few images can tell nothing, empty where they can."""
    least = smallest_sign_flip_p(images, patching.permutations)
    if least <= patching.alpha:
        return ""
    return (
        f"{count(images, 'image')} allow no p below {number(least, 2)}, and level {patching.alpha:g} takes"
        f" {units_needed(patching.alpha)} (patching.samples)"
    )


def dose_sentence(context: Context) -> str:
    """Return whether dose-responses were shown to bend, and whether they are monotone."""
    table = context.tables.doses
    if table.empty:
        return "Only the whole output was replaced, so there is no dose-response."
    heads, patching = table["target"].nunique(), context.config.patching
    bent = table[table["p_linear_max"] <= patching.alpha]
    backward = table.loc[~table["monotone"], "target"].nunique()
    order = (
        "All mean curves rise or fall steadily with the dose"
        if not backward
        else f"{count(backward, 'mean curve turns', 'mean curves turn')} back"
    )
    families = len(table.groupby(["domain", "source", "group", "direction"]))
    family = (
        f" Corrected over the heads of one pair of passes and one direction (level {patching.alpha:g} for each of"
        f" {families})."
    )
    untold = untold_by(int(table["n"].max()), patching)
    if bent.empty or untold:
        top = farthest_from_zero(table, "departure")
        middle, low, high = (100 * float(top[name]) for name in ("departure", "departure_low", "departure_high"))
        told = f"cannot be told: {untold}" if untold else "was not shown"
        return (
            f"That part of the output moves another than its part of the share {told}, for any of the {heads} heads"
            f" that move most; the departure farthest from zero is {interval(middle, low, high, '%', 2)} of the"
            f" difference. {order}.{family}"
        )
    far = bent.loc[bent["departure"].abs() > WORTH_A_WORD, "target"].nunique()
    most = farthest_from_zero(bent, "departure")
    which = bent["target"].nunique()
    departs = "departs" if which == 1 else "depart"
    moved = "brought" if most["direction"] == "denoising" else "taken away"
    return (
        f"{which} of {heads} heads {departs} from a straight line, {far or 'none'} by more than"
        f" {number(100 * WORTH_A_WORD, 1)} % of the difference; farthest is {most['target']} ({moved},"
        f" {most['domain']} images): part of its output moves {_departure(most)}. {order}.{family}"
    )


def _departure(row: Any) -> str:
    """Return how far part of an output moves beyond its part of what the whole moves, or falls short of it."""
    sign = 1 if row["departure"] > 0 else -1
    low, high = sorted(100 * sign * float(row[name]) for name in ("departure_low", "departure_high"))
    size = interval(100 * abs(float(row["departure"])), low, high, "%", 2)
    # Where the whole moves the prediction the other way, a departure to below moves it farther.
    way = "more" if row["departure"] * row["slope"] > 0 else "less"
    return f"{way} than its part, by {size} of the difference"
