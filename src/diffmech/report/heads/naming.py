"""What the names of mechanisms say: per domain, which heads confirm them, and why others have none."""

from collections.abc import Sequence

import pandas as pd

from diffmech.mechanisms.labels import DIFFERS, ENDINGS, NO_REASON_ALIKE, SEMANTIC, UNASSIGNED, UNMEASURED
from diffmech.report.heads.artifacts import records
from diffmech.report.wording import count, listed, number, p_value

UNCONFIRMED = "named, but none of its heads confirms the name"


def name_of(row: pd.Series, domains: Sequence[str]) -> str:
    """Return the name of a mechanism: that of both domains, or that of each one that has one, or `unassigned`."""
    if row["label"] != UNASSIGNED:
        return str(row["label"])
    alone = [
        f"{row[f'label{ending}']}{_what(row, ending)} on {domain}"
        for domain, ending in zip(domains, ENDINGS, strict=True)
        if row[f"label{ending}"] != UNASSIGNED
    ]
    return ", ".join(alone) or UNASSIGNED


def confirmed_alone(table: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Return one row per head, mechanism and name that the head confirms in one domain, where both share none."""
    apart = table[table["label"] == UNASSIGNED]
    parts = []
    for domain, ending in zip(domains, ENDINGS, strict=True):
        rows = apart[apart[f"confirmed{ending}"]]
        parts.append(
            rows[["head", "mechanism"]].assign(label=[f"{label} on {domain}" for label in rows[f"label{ending}"]])
        )
    return pd.concat(parts, ignore_index=True)


def heads_per_label(confirmed: pd.DataFrame) -> str:
    """Return how many heads confirm each label, most first, as a list in a sentence."""
    labels = confirmed.groupby("label")["head"].nunique().sort_values(ascending=False, kind="stable")
    return listed([f"{label} {heads}" for label, heads in labels.items()])


def reasons(table: pd.DataFrame) -> str:
    """Return how many mechanisms have no name that holds in both domains and is confirmed, and why."""
    of_mechanisms = table.groupby("mechanism").agg(
        label=("label", "first"), reason=("reason", "first"), confirmed=("confirmed", "any")
    )
    without = of_mechanisms[~of_mechanisms["confirmed"]]
    if without.empty:
        every = {1: "The only cluster carries", 2: "Both clusters carry"}
        said = every.get(len(of_mechanisms), f"All {len(of_mechanisms)} clusters carry")
        return f"{said} a name that holds in both domains."
    why = (
        without["reason"].where(without["label"] == UNASSIGNED, UNCONFIRMED).fillna("no reason told").map(_short_reason)
    )
    told = [f"{reason} ({many})" for reason, many in why.value_counts(sort=True).items()]
    clusters = count(len(without), "cluster").capitalize()
    verb = "carries" if len(without) == 1 else "carry"
    return f"{clusters} of {len(of_mechanisms)} {verb} no name that holds in both domains: {'; '.join(told)}."


def smallest_found(table: pd.DataFrame, copies: int) -> str:
    """Return which preferences would have been found beyond the untrained copies, by the probes of the table."""
    probes = table.dropna(subset=["smallest_excess"]).groupby("probe")["smallest_excess"].first().sort_values()
    if probes.empty:
        return ""
    least, most = probes.index[0], probes.index[-1]
    said = f"an excess of {number(100 * probes.iloc[0], 2)} % of attention ({least})"
    if len(probes) > 1:
        said += f" to {number(100 * probes.iloc[-1], 2)} % ({most}), by probe,"
        said += " of those that hold most in both domains of some cluster,"
    return f"Beside {copies} untrained copies, {said} is found four times in five."


def own_probe(row: pd.Series, ending: str) -> str:
    """Return what a mechanism attends to most in one domain, and how much, with the name where that earns one."""
    if pd.isna(row[f"probe{ending}"]):
        return "–"
    strongest = f"{row[f'probe{ending}']}\u00a0{number(row[f'enrichment{ending}'])}×"
    return strongest if row[f"label{ending}"] == UNASSIGNED else f"{row[f'label{ending}']}: {strongest}"


def own_p(row: pd.Series, ending: str) -> str:
    """Return the p-values of what a mechanism attends to most in one domain, of every null that it was held against."""
    nulls = ("rolled maps", "p_rolled_holm"), ("other images", "p_content_holm"), ("untrained copies", "p_untrained")
    told = [(null, row[f"{column}{ending}"]) for null, column in nulls]
    return "; ".join(f"{null} {p_value(float(p))}" for null, p in told if pd.notna(p)) or "–"


def readable_names(table: pd.DataFrame, domains: Sequence[str]) -> dict[str, str]:
    """Return a readable name for every mechanism: its label, or those of single domains, and its id."""
    names = {}
    for mechanism, rows in table.groupby("mechanism", sort=False):
        name = name_of(rows.iloc[0], domains)
        sure = name == UNASSIGNED or rows[[f"confirmed{ending}" for ending in ENDINGS]].to_numpy().any()
        names[str(mechanism)] = f"{name}{'' if sure else ', unconfirmed'} ({mechanism})"
    return names


def halves(table: pd.DataFrame, domains: Sequence[str]) -> str:
    """Return on how many images clusters were found, and on how many others they were tested."""
    row = table.iloc[0]
    found, tested = (
        [(domain, int(row[f"{half}{ending}"])) for domain, ending in zip(domains, ENDINGS, strict=True)]
        for half in ("found_on", "tested_on")
    )
    return (
        f"Clusters, and the phases, were found on {listed([f'{n} {domain}' for domain, n in found])} images, and named"
        f" and tested on {listed([f'{n} {domain}' for domain, n in tested])} others: what makes"
        " heads a cluster by chance speaks neither for its name nor for its effect. Of all these images, heads are"
        " removed on the others only."
    )


def confirmed_labels(table: pd.DataFrame) -> dict[str, str]:
    """Return the label of each head that confirms one: the first that any of its phases earns."""
    return {row.head: row.label for row in records(table[table["confirmed"]].drop_duplicates("head"))}


def _what(row: pd.Series, ending: str) -> str:
    return f" ({row[f'probe{ending}']})" if row[f"label{ending}"] == SEMANTIC else ""


def _short_reason(reason: str) -> str:
    """Return a reason without the names of domains and probes, by which reasons are counted."""
    for general in (DIFFERS, NO_REASON_ALIKE, UNMEASURED):
        if reason.startswith(general):
            return general
    return reason
