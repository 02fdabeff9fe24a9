"""What was found, in plain sentences made from the tables: every claim with its number, and every honest 'no'.

A claim needs both of its nulls: a divergence must beat shuffled domain labels and the untrained copies, a label must
beat the untrained copies and, of a reference map, rolled and other images' maps, a mechanism matters only beyond its
matched controls, complexity differs beyond shuffled labels and, where they have it, the untrained copies. Ours.
"""

import math
from typing import Any

import pandas as pd

from diffmech.config.root import Config
from diffmech.findings import Finding, Verdict
from diffmech.interventions.decisions import CAUSAL, DIFFERS, HELPS, NOT_BEYOND, UNFAIR, UNTOLD
from diffmech.report.heads import controls
from diffmech.report.heads.artifacts import Tables, effect_title, largest, records
from diffmech.report.heads.condition import condition_of_comparison, is_conditional, told_otherwise
from diffmech.report.heads.denoising import gap_sentence
from diffmech.report.heads.images import foreign_match_sentence, is_matched, seen_divergence_sentences, seen_sentence
from diffmech.report.heads.naming import (
    confirmed_alone,
    confirmed_labels,
    heads_per_label,
    readable_names,
    reasons,
    smallest_found,
)
from diffmech.report.heads.published import published
from diffmech.report.heads.terms import VARIANTS, attention
from diffmech.report.wording import count, interval, limits, listed, number, p_value
from diffmech.statistics.reach import images_needed


def findings(tables: Tables, config: Config) -> list[Finding]:
    """Return the answers of the study, in the order in which a reader asks."""
    return [
        divergence_finding(tables, config),
        mechanism_finding(tables, config.mechanisms.alpha, config.untrained.seeds),
        ablation_finding(tables, config.ablation.alpha, config.ablation.methods[0]),
        complexity_finding(tables, config),
        confounder_finding(tables, config),
    ]


def nothing_found(answers: list[Finding]) -> bool:
    """Return whether attention, mechanisms and ablations came out negative, and nothing else was found."""
    verdicts = {answer.section: answer.verdict for answer in answers}
    negative = all(verdicts[section] == "not found" for section in ("divergence", "mechanisms", "ablation"))
    return negative and "found" not in verdicts.values()


def out_of_reach(copies: int, alpha: float) -> str | None:
    """Return why no rank among so many untrained copies can be at or below `alpha`, None where one can."""
    if 1 / (copies + 1) <= alpha:
        return None
    least, needed = number(1 / (copies + 1), 2), math.ceil(1 / alpha - 1e-9) - 1
    return (
        f"It cannot be told: {count(copies, 'untrained copy', 'untrained copies')} allow no p below {least}, and level"
        f" {alpha:g} takes {needed} (untrained.seeds)."
    )


def labels_out_of_reach(table: pd.DataFrame, alpha: float, tests: int, permutations: int) -> str | None:
    """Return why no permutation of domain labels can give a p at or below `alpha` after Holm, None where one can.

    `table` has the columns p_least, n_first and n_second.
    """
    least = float(table["p_least"].min())
    if least <= alpha:
        return None
    images, wanted = int(table[["n_first", "n_second"]].to_numpy().max()), images_needed(alpha, tests)
    needed = [f"{wanted} images per domain (capture.samples)"] if images < wanted else []
    if tests / (1 + permutations) > alpha:
        needed.append(f"{math.ceil(tests / alpha):,} permutations")
    return (
        f"It cannot be told: {count(images, 'image')} per domain and {permutations:,} permutations over"
        f" {count(tests, 'test')} allow no p below {number(least, 2)}, and level {alpha:g} takes {listed(needed)}."
    )


def divergence_finding(tables: Tables, config: Config) -> Finding:
    """Do heads attend differently to the two domains?"""
    alpha, permutations, copies = config.entropy.alpha, config.entropy.permutations, config.untrained.seeds
    first, second = tables.domains
    question = f"Do heads attend differently to {first} and {second} images?"
    details, found, unlike, sights = [condition_of_comparison(tables, config)], [], [], []
    for kind, table in tables.divergence.groupby("kind", sort=False):
        peak = largest(table, "divergence")
        name = attention(kind)
        details.append(
            f"{name.capitalize()}: over timesteps the mean absolute entropy difference per head is"
            f" {number(table['divergence'].min())} to {number(table['divergence'].max())} nats; it is largest at t ="
            f" {peak['timestep']:g}: {interval(peak['divergence'], peak['low'], peak['high'], 'nats')}, on average"
            f" {number(100 * peak['share'], 2)} % of the most possible entropy of a head. Shuffled domain labels alone"
            f" give up to {number(table['floor_high'].max())} nats, the largest untrained copy, on"
            f" {count(int(table['untrained_n'].max()), 'image')} per domain,"
            f" {number(table['untrained_divergence_max'].max())} nats."
        )
        hits = int(table["significant"].sum())
        if hits:
            found.append(f"at {hits} of {count(len(table), 'timestep')} of {name}")
        by_labels = int(((table["p_holm"] <= alpha) & ~table["significant"]).sum())
        if by_labels:
            unlike.append(f"at {count(by_labels, 'timestep')} of {name}")
        if table["smallest"].map(math.isfinite).all():
            sights.append(f"{number(table['smallest'].max())} nats in {name}")
    tests, kinds = len(tables.divergence), tables.divergence["kind"].nunique()
    untold = labels_out_of_reach(tables.divergence, alpha, tests, permutations) or out_of_reach(copies, alpha)
    if unlike:
        where = listed(unlike)
        details.append(
            f"{where[0].upper()}{where[1:]} the domains differ more than shuffled labels do, which cannot be told apart"
            " from what untrained copies show."
        )
    verdict: Verdict = "found" if found else "cannot be told" if untold else "not found"
    if found:
        answer = f"Yes, {listed(found)} the difference beats both nulls."
    elif untold:
        answer = untold
    else:
        answer = f"Not shown: at none of {count(tests // kinds, 'timestep')} does the difference beat both nulls."
    family = (
        f"Corrected over {count(tests, 'test')} (timesteps x kinds of attention): Holm against shuffled labels, the"
        " largest value of any of them against untrained copies."
    )
    # what cannot be told says so in its answer
    sight = f"Found at least four times in five: differences of {listed(sights)}." if sights and not untold else ""
    return Finding(question, verdict, answer, tuple(details), "divergence", family, sight)


def mechanism_finding(tables: Tables, alpha: float, copies: int) -> Finding:
    """Do heads form mechanisms that can be named? A name counts where a head of the mechanism confirms it."""
    first, second = tables.domains
    table = tables.mechanisms
    named, alone = table[table["confirmed"]], confirmed_alone(table, tables.domains)
    total, shown = table["mechanism"].nunique(), named["mechanism"].nunique()
    only = alone["mechanism"].nunique()
    ari = tables.clusters.loc[tables.clusters["chosen"], "ari_sample_bootstrap"]
    details = []
    if shown:
        details.append(f"Heads that confirm each label in both domains: {heads_per_label(named)}.")
    if only:
        details.append(f"In one domain alone: {heads_per_label(alone)}.")
    details.append(reasons(table))
    if len(ari.dropna()):
        details.append(
            "Clusters recur when images are resampled with an adjusted Rand index of"
            f" {controls.limits_of(ari.dropna())} (1 = always the same, 0 = chance)."
        )
    uniform = (tables.entropy["normalised"] > 0.99).groupby(tables.entropy["kind"], sort=False).mean()
    shares = [f"{number(100 * share, 2)} % of {attention(kind)}" for kind, share in uniform.items()]
    details.append(
        f"Of all head, timestep and domain cells {listed(shares)} are within 1 % of uniform attention, where little"
        " specialisation can exist."
    )
    family = (
        f"All names hold together at level {alpha:g}: by rank among the largest excess of {copies} untrained copies"
        f" over heads, timesteps, probes and both domains; those of reference maps also by Holm over {total} clusters,"
        " all maps and both domains, against rolled maps and against the maps of other images."
    )
    question = "Do heads specialise?"
    untold = out_of_reach(copies, alpha)
    if untold:
        return Finding(question, "cannot be told", untold, tuple(details), "mechanisms", family)
    sight = smallest_found(table, copies) if shown < total else ""
    if shown or only:
        some = f"{shown or only} of {count(total, 'cluster')} of heads {'carries' if (shown or only) == 1 else 'carry'}"
        apart = f", {only} more in one of them alone" if only else ""
        answer = f"Yes: {some} a name that holds on {first} and on {second} images{apart}."
        if not shown:
            answer = f"In part: {some} a name in one domain alone, and none a name that holds in both."
        return Finding(question, "found", answer, tuple(details), "mechanisms", family, sight)
    answer = f"No specialisation was found: none of {total} clusters has a name that one of its heads confirms."
    return Finding(question, "not found", answer, tuple(details), "mechanisms", family, sight)


def ablation_finding(tables: Tables, alpha: float, method: str) -> Finding:
    """Does any mechanism matter more than equally many other heads?"""
    names = mechanism_names(tables)
    over_all = tables.effects[(tables.effects["method"] == method) & (tables.effects["timestep"] == "all")]
    single = over_all[over_all["group"] == "heads"]
    groups = over_all[over_all["group"] == "mechanisms"]
    hits, other = groups[groups["verdict"] == CAUSAL], groups[groups["verdict"].isin([NOT_BEYOND, HELPS])]
    details = []
    shifted = effect_title(tables.effects).startswith("output")
    if len(single):
        details.append(
            single_heads(single, "shift of the output" if shifted else "change of the denoising loss", alpha)
        )
    question = "Does it matter?"
    if groups.empty:
        details.append("Mechanisms were not ablated, so there is no test against matched controls.")
        return Finding(question, "caution", "Not tested: no mechanism was ablated.", tuple(details), "ablation")
    pairs, fair = "mechanism and domain pairs", int(groups["controls_fair"].sum())
    without = len(groups) - fair
    apart = f"; {without} {'has' if without == 1 else 'have'} no fair control" if without else ""
    tested = f"{fair} {pairs}{' with fair controls' if without else ''}"
    strongest = (hits if len(hits) else groups).sort_values("effect_percent").iloc[-1]
    beside = (
        "equally many matched heads change it by"
        f" {interval(strongest['control_mean'], strongest['control_low'], strongest['control_high'], '%')},"
        f" {p_value(strongest['p_control_adjusted'])} after correction, the larger of that among these and of that"
        " among random choices of heads by what each does alone."
        if pd.notna(strongest["control_mean"])
        else "no set of other heads matches it."
    )
    details.insert(
        0,
        f"The {'strongest of these' if len(hits) else 'largest estimate'},"
        f" {names.get(strongest['target'], strongest['target'])} ({count(int(strongest['heads']), 'head')}) on"
        f" {strongest['domain']} images, {'shifts the output' if shifted else 'changes the loss'} by"
        f" {interval(strongest['effect_percent'], strongest['low'], strongest['high'], '%')}; {beside}",
    )
    if unfair := controls.why_unfair(groups):
        details.append(unfair)
    verdict: Verdict = "not found"
    answer = f"Not shown: of {tested} none was shown to cost more than equally many matched heads{apart}."
    if len(hits):
        verdict = "found"
        costs = "costs" if len(hits) == 1 else "cost"
        answer = f"Yes: {len(hits)} of {tested} {costs} more than matched random heads{apart}."
    elif (groups["verdict"] == UNTOLD).all():
        verdict, answer = "cannot be told", f"It cannot be told of any of {len(groups)} {pairs}."
    elif other.empty and (groups["verdict"] == UNFAIR).any():
        verdict = "no fair control"
        changing = int((groups["verdict"] == UNFAIR).sum())
        which = f"all {len(groups)} {pairs}" if changing == len(groups) else f"{changing} of {len(groups)} {pairs}"
        answer = (
            f"It cannot be told: {which} {'changes' if changing == 1 else 'change'} the loss, but no other heads match"
            " them."
        )
    family, sight = controls.family(groups), controls.sight(groups, alpha)
    return Finding(question, verdict, answer, tuple(details), "ablation", family, sight)


def single_heads(rows: pd.DataFrame, what: str, alpha: float) -> str:
    """Return for how many single heads a change is shown, the strongest of those, and whether a larger one is not."""
    told, top = rows[rows["verdict"] == DIFFERS], _strongest(rows)
    estimate = f"{_effect(top)}, for {top['target']} on {top['domain']} images"
    heads, over = rows["target"].nunique(), "after correction over all heads and kinds of images"
    if told.empty:
        return (
            f"Of {count(heads, 'single head')} for none a {what} is shown, {over}; the largest estimate is {estimate}."
            f" {controls.sight(rows, alpha)}"
        )
    first = _strongest(told)
    shown = told["target"].nunique()
    said = (
        f"For {shown} of {count(heads, 'single head')} a {what} is shown{', the strongest' if shown > 1 else ''}:"
        f" {_effect(first)}, for {first['target']} on {first['domain']} images, {p_value(first['p_zero_max'])} {over}."
    )
    return said if top["verdict"] == DIFFERS else f"{said} The largest estimate, {estimate}, is not told from zero."


def _strongest(rows: pd.DataFrame) -> Any:
    return rows.iloc[int(rows["effect_percent"].abs().to_numpy().argmax())]


def _effect(row: Any) -> str:
    return interval(row["effect_percent"], row["low"], row["high"], "%")


def complexity_finding(tables: Tables, config: Config) -> Finding:
    """Do the domains use circuits of different size?"""
    alpha, permutations, copies = config.complexity.alpha, config.complexity.permutations, config.untrained.seeds
    first, second = tables.domains
    table = tables.complexity
    quoted = published(tables.references, "complexity_ratio")
    details = [condition_of_comparison(tables, config)]
    details += [
        f"{VARIANTS.get(row.variant, row.variant).capitalize()}: {interval(row.ratio, row.low, row.high)},"
        f" {p_value(row.p_holm)} after correction{untrained_ratios(row)}."
        for row in records(table)
    ]
    apart, has_null = table[table["significant"]], table["p_untrained_max"].notna()
    by_labels = (table["p_holm"] <= alpha) & ~table["significant"]
    larger, smaller = apart[apart["ratio"] > 1], apart[apart["ratio"] < 1]
    verdict: Verdict = "found" if len(apart) else "not found"
    untold = labels_out_of_reach(table[has_null], alpha, len(table), permutations) if has_null.any() else None
    untold = untold or out_of_reach(copies, alpha)
    if len(apart):
        ways = [f"{way} by {measures(rows)}" for way, rows in (("larger", larger), ("smaller", smaller)) if len(rows)]
        parts = [f"those of {first} images are {listed(ways)}"]
        rest = table[~table["significant"] & ~(by_labels & ~has_null)]
        parts += [f"not shown to differ by {measures(rest)}"] if len(rest) else []
        if (by_labels & ~has_null).any():
            of = measures(table[by_labels & ~has_null])
            parts += [f"of {of} it cannot be told whether training made the difference"]
        answer = f"{'Yes' if len(apart) == has_null.sum() and len(ways) == 1 else 'In part'}: {'; '.join(parts)}."
    elif untold:
        answer, verdict = untold, "cannot be told"
    elif (by_labels & ~has_null).any():
        by = measures(table[by_labels & ~has_null])
        answer = f"It cannot be told: the domains differ by {by}, of which there are no untrained copies."
        verdict = "cannot be told"
    else:
        answer = (
            f"Not shown: none of {count(len(table), 'measure')} of complexity differs by more than shuffled labels and"
            " untrained copies do."
        )
    if (by_labels & has_null).any():
        details.append(
            f"By {measures(table[by_labels & has_null])} the domains differ more than shuffled labels do, which cannot"
            " be told apart from what untrained copies show."
        )
    if (by_labels & ~has_null).any():
        details.append(
            f"By {measures(table[by_labels & ~has_null])} the domains differ more than shuffled labels do; whether"
            " training made that difference cannot be told."
        )
    if is_conditional(tables, config) and config.latents.condition == "full":
        details.append(
            "Effective heads are of images that are told what they are, so that what the images are and what they were"
            " told are not kept apart."
        )
    of = tables.references["papers"][quoted["paper"]]["images"]
    details.append(f"Published, of {of}, by a definition that is not known: {quoted['value']} ± {quoted['error']}.")
    question = f"Do {first} and {second} images use circuits of different size?"
    family = (
        f"Corrected over {count(len(table), 'measure')}: Holm against shuffled labels, the largest distance of any of"
        f" them ({measures(table[has_null])}) against untrained copies."
    )
    seen = [
        f"{number(row.smallest_ratio)} in {VARIANTS.get(row.variant, row.variant)}"
        for row in records(table[has_null & table["smallest_ratio"].map(math.isfinite)])
    ]
    sight = f"Ratios of {listed(seen)} would be found four times in five." if seen and not untold else ""
    return Finding(question, verdict, answer, tuple(details), "complexity", family, sight)


def measures(rows: pd.DataFrame) -> str:
    """Return the names of the measures in rows of the complexity table, as a list in a sentence."""
    return listed([VARIANTS.get(variant, variant) for variant in rows["variant"]])


def untrained_ratios(row: Any) -> str:
    """Return, for the end of a sentence, what the untrained copies of a row of the complexity table give."""
    if pd.isna(row.p_untrained_max):
        why = "were not ablated" if row.variant.startswith("effective_heads") else "saw too few images to compare"
        return f"; untrained copies {why}"
    given = limits(row.untrained_low, row.untrained_high, 4)
    return f"; untrained copies, on {int(row.untrained_n)} images per domain: {given}"


def confounder_finding(tables: Tables, config: Config) -> Finding:
    """What else could explain a difference between the domains?"""
    gap = tables.comparison["spectral_distance"][0]
    before, after = gap["before"], gap["after"]
    matched = is_matched(config)
    earlier = f" ({number(before, 2)} before mean and contrast were matched)" if matched else ""
    details = [
        (
            f"Power spectra differ by {number(after, 2)} in root mean square log10 power{earlier}: a typical factor of"
            f" {number(10**after, 2)} in power at equal frequency."
        ),
    ]
    attributes = {tuple(sorted(entry["attributes"])) for entry in tables.comparison["domains"].values()}
    if len(attributes) > 1:
        details.append("The domains are not labelled alike: attributes of one are unknown in the other.")
    details += filter(None, [foreign_match_sentence(tables, config), seen_sentence(tables, config)])
    details += seen_divergence_sentences(tables, config.entropy.alpha)
    if told := told_otherwise(tables, config):
        details.insert(0, told)
    details.append(gap_sentence(tables))
    rest = "fine structure, content and how well each domain was learned"
    if matched:
        answer = f"Mean and contrast were matched; {rest} were not."
    else:
        answer = f"Much: neither mean and contrast nor {rest} were matched."
    return Finding("What else could explain a difference?", "caution", answer, tuple(details), "domains")


def mechanism_names(tables: Tables) -> dict[str, str]:
    """Return a readable name for every mechanism: its label, or those of single domains, and its id."""
    return readable_names(tables.mechanisms, tables.domains)


def head_labels(tables: Tables) -> dict[str, str]:
    """Return the label of each head that confirms one: the first that any of its phases earns."""
    return confirmed_labels(tables.mechanisms)
