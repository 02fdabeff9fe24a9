"""What was found, in plain sentences made from the tables: every claim with its number, and every honest 'no'.

A claim needs both of its nulls: a divergence must beat shuffled domain labels and the untrained copies, a label must
beat rolled reference maps and the untrained copies, a mechanism matters only beyond its matched controls, complexity
differs beyond shuffled labels and, where they have it, the untrained copies. Ours.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from diffmech.config.root import Config
from diffmech.errors import StoreError
from diffmech.interventions.decisions import CAUSAL, DIFFERS, HELPS, NOT_BEYOND, UNFAIR, UNTOLD
from diffmech.report import controls
from diffmech.report.artifacts import Tables, effect_title, largest, records
from diffmech.report.denoising import gap_sentence, is_untrained
from diffmech.report.wording import VARIANTS, count, interval, limits, listed, number, p_value

# "cannot be told": no outcome could have been called found; what it would take is said. "no fair control": nothing to
# compare with. "caution": no question of found or not.
Verdict = Literal["found", "not found", "cannot be told", "no fair control", "caution"]


@dataclass(frozen=True)
class Finding:
    """One answer: the question, the verdict, a headline and the sentences behind it; `section` is its anchor.

    `family` names the tests over which "found" is corrected; `sight` says what could have been seen: the smallest
    effect that is found four times in five, or why nothing could be.
    """

    question: str
    verdict: Verdict
    answer: str
    details: tuple[str, ...]
    section: str
    family: str = ""
    sight: str = ""


def findings(tables: Tables, config: Config) -> list[Finding]:
    """Return the answers of the study, in the order in which a reader asks."""
    return [
        divergence_finding(tables, config.entropy.alpha, config.untrained.seeds),
        mechanism_finding(tables, config.mechanisms.alpha, config.untrained.seeds),
        ablation_finding(tables, config.ablation.alpha, config.ablation.methods[0]),
        complexity_finding(tables, config.complexity.alpha, config.untrained.seeds),
        confounder_finding(tables, config),
    ]


def nothing_found(answers: list[Finding]) -> bool:
    """Return whether attention, mechanisms and ablations came out negative, and complexity gave no difference."""
    return all(answer.verdict == "not found" for answer in answers[:3]) and answers[3].verdict != "found"


def out_of_reach(copies: int, alpha: float) -> str | None:
    """Return why no rank among so many untrained copies can be at or below `alpha`, None where one can."""
    if 1 / (copies + 1) <= alpha:
        return None
    least, needed = number(1 / (copies + 1), 2), math.ceil(1 / alpha - 1e-9) - 1
    return (
        f"It cannot be told: {count(copies, 'untrained copy', 'untrained copies')} allow no p below {least}, and level"
        f" {alpha:g} takes {needed} (untrained.seeds)."
    )


def divergence_finding(tables: Tables, alpha: float, copies: int) -> Finding:
    """Do heads attend differently to the two domains?"""
    first, second = tables.domains
    table = tables.divergence[tables.divergence["kind"] == "all"].sort_values("timestep")
    hits = table[table["significant"]]
    peak = largest(table, "divergence")
    question = f"Do heads attend differently to {first} and {second} images?"
    span = f"{number(table['divergence'].min())} to {number(table['divergence'].max())} nats"
    shuffled = f"Shuffled domain labels alone give up to {number(table['floor_high'].max())} nats"
    largest_copy = f"the largest untrained copy gives {number(table['untrained_divergence_max'].max())}"
    details = [
        (
            f"Over timesteps the mean absolute entropy difference per head is {span}; it is largest at t = "
            f"{peak['timestep']:g}: {interval(peak['divergence'], peak['low'], peak['high'], 'nats')}."
        ),
        f"{shuffled}; {largest_copy} nats.",
    ]
    if len(hits):
        share = peak["divergence"] / tables.entropy["h_max"].mean()
        details.append(f"As a share of the most possible entropy the largest difference is {number(100 * share, 2)} %.")
        answer = f"Yes, at {len(hits)} of {len(table)} timesteps the difference beats both nulls."
        return Finding(question, "found", answer, tuple(details), "divergence")
    by_labels = int((table["p_holm"] < alpha).sum())
    untold = out_of_reach(copies, alpha)
    if by_labels and untold:
        details.append(f"At {count(by_labels, 'timestep')} the domains differ more than shuffled labels do.")
        return Finding(question, "caution", untold, tuple(details), "divergence")
    if by_labels:
        details.append(
            f"At {count(by_labels, 'timestep')} the domains differ more than shuffled labels do, but not shown to by"
            " more than in untrained copies, so that training need not have brought it about."
        )
    answer = f"No: at none of {len(table)} timesteps does the difference beat both nulls."
    return Finding(question, "not found", answer, tuple(details), "divergence")


def mechanism_finding(tables: Tables, alpha: float, copies: int) -> Finding:
    """Do heads form mechanisms that can be named?"""
    table = tables.mechanisms
    named = table[table["label"] != "unassigned"]
    total, shown = table["mechanism"].nunique(), named["mechanism"].nunique()
    ari = tables.clusters.loc[tables.clusters["chosen"], "ari_sample_bootstrap"]
    details = []
    if len(named):
        labels = named.groupby("label")["head"].nunique().sort_values(ascending=False)
        details.append(f"Heads per label: {listed([f'{label} {heads}' for label, heads in labels.items()])}.")
    details.append(
        f"{count(total - shown, 'cluster').capitalize()} of {total} stayed unassigned, because "
        "no preference beat both the rolled reference maps and the untrained copies."
    )
    if len(ari.dropna()):
        details.append(
            f"Clusters recur when images are resampled with an adjusted Rand index of {number(ari.min(), 2)} to "
            f"{number(ari.max(), 2)} (1 = always the same, 0 = chance)."
        )
    uniform = float((tables.entropy["normalised"] > 0.99).mean())
    details.append(
        f"{number(100 * uniform, 2)} % of all head, timestep and domain cells are within 1 % of uniform attention,"
        " where no specialisation can exist."
    )
    question = "Do heads specialise?"
    if shown:
        answer = f"Yes: {shown} of {total} clusters of heads carry a label that beats both nulls (level {alpha:g})."
        return Finding(question, "found", answer, tuple(details), "mechanisms")
    untold = out_of_reach(copies, alpha)
    if untold and (table["p_holm"] < alpha).any():
        return Finding(question, "caution", untold, tuple(details), "mechanisms")
    answer = f"No head specialises measurably: none of {total} clusters earns a label."
    return Finding(question, "not found", answer, tuple(details), "mechanisms")


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
        top = largest(single, "effect_percent")
        changed = single[single["verdict"] == DIFFERS]["target"].nunique()
        told = (
            controls.sight(single, alpha)
            if (single["verdict"] == UNTOLD).all()
            else f"{changed} of {single['target'].nunique()} heads change it at all after correction over all heads and"
            " kinds of images."
        )
        details.append(
            f"Removing single heads {'shifts the output' if shifted else 'raises the denoising loss'} by at most"
            f" {interval(top['effect_percent'], top['low'], top['high'], '%')}, for {top['target']} on {top['domain']}"
            f" images; {told}"
        )
    question = "Does it matter?"
    if groups.empty:
        details.append("Mechanisms were not ablated, so there is no test against matched controls.")
        return Finding(question, "caution", "Not tested: no mechanism was ablated.", tuple(details), "ablation")
    tested = f"{len(groups)} mechanism and domain pairs"
    strongest = (hits if len(hits) else groups).sort_values("effect_percent").iloc[-1]
    beside = (
        "equally many matched heads change it by"
        f" {interval(strongest['control_mean'], strongest['control_low'], strongest['control_high'], '%')},"
        f" {p_value(strongest['p_control_adjusted'])} after correction."
        if pd.notna(strongest["control_mean"])
        else "no set of other heads matches it."
    )
    details.insert(
        0,
        f"The strongest{' of these' if len(hits) else ''}, {names.get(strongest['target'], strongest['target'])}"
        f" ({count(int(strongest['heads']), 'head')}) on {strongest['domain']} images,"
        f" {'shifts the output' if shifted else 'changes the loss'} by"
        f" {interval(strongest['effect_percent'], strongest['low'], strongest['high'], '%')}; {beside}",
    )
    if unfair := controls.why_unfair(groups):
        details.append(unfair)
    verdict: Verdict = "not found"
    answer = f"Not shown: of {tested} none surely costs more than equally many matched heads."
    if len(hits):
        verdict = "found"
        answer = f"Yes: {len(hits)} of {tested} cost more than matched random heads."
    elif (groups["verdict"] == UNTOLD).all():
        verdict, answer = "cannot be told", f"It cannot be told of any of {tested}."
    elif other.empty and (groups["verdict"] == UNFAIR).any():
        verdict = "no fair control"
        answer = (
            f"It cannot be told: of {tested} {int((groups['verdict'] == UNFAIR).sum())} change the loss, but no other"
            " heads match them."
        )
    family, sight = controls.family(groups), controls.sight(groups, alpha)
    return Finding(question, verdict, answer, tuple(details), "ablation", family, sight)


def complexity_finding(tables: Tables, alpha: float, copies: int) -> Finding:
    """Does the first domain use a larger circuit?"""
    first, second = tables.domains
    table = tables.complexity
    quoted = published(tables.references, "complexity_ratio")
    differs = (table["p"] < alpha) & ((table["low"] > 1) | (table["high"] < 1))
    as_untrained = differs & (table["p_untrained"] > alpha)  # not where there is no such null
    apart = table[differs & ~as_untrained]
    larger, smaller = apart[apart["ratio"] > 1], apart[apart["ratio"] < 1]
    details = [
        f"{VARIANTS.get(row.variant, row.variant).capitalize()}: {interval(row.ratio, row.low, row.high)},"
        f" {p_value(row.p)}{untrained_ratios(row)}."
        for row in records(table)
    ]
    verdict: Verdict = "found" if len(larger) else "not found"
    untold = out_of_reach(copies, alpha)
    if len(apart):
        parts = [f"larger by {measures(larger)}"] if len(larger) else []
        parts += [f"smaller by {measures(smaller)}"] if len(smaller) else []
        parts += ["not shown to differ otherwise"] if len(apart) < len(table) else []
        answer = f"{'Yes' if len(larger) == len(table) else 'In part' if len(larger) else 'No'}: {', '.join(parts)}."
    elif as_untrained.any() and untold:
        answer, verdict = untold, "caution"
    elif as_untrained.any():
        answer = "Not shown: no measure of complexity differs surely by more than in untrained copies."
    else:
        answer = f"No: none of {count(len(table), 'measure')} of complexity differs from a ratio of 1."
    if as_untrained.any() and not untold:
        details.append(
            f"By {measures(table[as_untrained])} the domains differ more than shuffled labels do, but not shown to by"
            " more than in untrained copies, so that training need not have brought it about."
        )
    elif as_untrained.any() and answer != untold:
        by = measures(table[as_untrained])
        details.append(f"By {by} the domains differ more than shuffled labels do. {untold}")
    details.append(f"Published, by a definition that is not known: {quoted['value']} ± {quoted['error']}.")
    if len(apart) and is_untrained(tables):
        verdict = "caution"
    question = f"Do {first} images need a larger circuit than {second} ones?"
    return Finding(question, verdict, answer, tuple(details), "complexity")


def measures(rows: pd.DataFrame) -> str:
    """Return the names of the measures in rows of the complexity table, as a list in a sentence."""
    return listed([VARIANTS.get(variant, variant) for variant in rows["variant"]])


def untrained_ratios(row: Any) -> str:
    """Return, for the end of a sentence, what the untrained copies of a row of the complexity table give."""
    if pd.isna(row.p_untrained):
        why = "were not ablated" if row.variant == "effective_heads" else "saw too few images to compare"
        return f"; untrained copies {why}"
    given = limits(row.untrained_low, row.untrained_high, 4)
    return f"; untrained copies, on {int(row.untrained_n)} images per domain: {given}"


def confounder_finding(tables: Tables, config: Config) -> Finding:
    """What else could explain a difference between the domains?"""
    gap = tables.comparison["spectral_distance"][0]
    before, after = gap["before"], gap["after"]
    generated = config.model.source == "pipeline"
    matched = config.images.match is not None and not generated
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
    details.append(gap_sentence(tables))
    rest = "fine structure, content and how well each domain was learned"
    if matched:
        answer = f"Mean and contrast were matched; {rest} were not."
    else:
        answer = f"Much: neither mean and contrast nor {rest} were matched."
    return Finding("What else could explain a difference?", "caution", answer, tuple(details), "domains")


def mechanism_names(tables: Tables) -> dict[str, str]:
    """Return a readable name for every mechanism: its label and its id."""
    rows = tables.mechanisms.drop_duplicates("mechanism")
    return {row.mechanism: f"{row.label} ({row.mechanism})" for row in records(rows)}


def head_labels(tables: Tables) -> dict[str, str]:
    """Return the label of each head that has one: the first that any of its phases earns."""
    named = tables.mechanisms[tables.mechanisms["label"] != "unassigned"].drop_duplicates("head")
    return {row.head: row.label for row in records(named)}


def published(references: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the published figure `key`; StoreError if the references lack it."""
    for entry in references["published"]:
        if entry["key"] == key:
            return dict(entry)
    raise StoreError(f"references.yaml: has no published figure {key!r}; restore the file")


def measured_counterparts(tables: Tables, method: str) -> dict[str, str]:
    """Return, for each published figure, what was measured here, or why nothing was."""
    divergence = tables.divergence[tables.divergence["kind"] == "all"]["divergence"]
    effects = tables.effects[
        (tables.effects["group"] == "mechanisms")
        & (tables.effects["method"] == method)
        & (tables.effects["timestep"] == "all")
    ]["effect_percent"]
    ratios = [
        f"{VARIANTS.get(row.variant, row.variant)} {interval(row.ratio, row.low, row.high)}"
        for row in records(tables.complexity)
    ]
    counterparts = {
        "complexity_ratio": "; ".join(ratios),
        "entropy_divergence": f"{number(divergence.min())} to {number(divergence.max())} nats",
        "ablation_degradation": (
            f"{number(effects.min())} to {number(effects.max())} % ({method} ablation of mechanisms)"
            if len(effects)
            else "mechanisms were not ablated"
        ),
    }
    for label in ("edge", "texture", "semantic"):
        counterparts[f"entropy_{label}"] = _labelled_entropy(tables, label)
    return counterparts


def _labelled_entropy(tables: Tables, label: str) -> str:
    cells = tables.mechanisms[tables.mechanisms["label"] == label]
    if cells.empty:
        return f"no head earned the label {label}"
    joined = tables.entropy.merge(cells[["head", "phase_first", "phase_last"]], on="head")
    joined = joined[joined["timestep"].between(joined["phase_first"], joined["phase_last"])]
    heads = joined["head"].nunique()
    keys = sorted({round(float(value), 3) for value in joined["h_max"]})
    most = " or ".join(f"{value:.3f}" for value in keys)
    return (
        f"{number(joined['entropy'].mean())} nats, mean over {count(heads, 'head')} "
        f"({number(joined['entropy'].min())} to {number(joined['entropy'].max())}; most possible {most})"
    )
