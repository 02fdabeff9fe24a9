"""Published figures of VAE interventions beside what was measured here, with what they leave undefined."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.report import markup
from diffmech.report.markup import Section
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.words import CODES, DCI, having, of_kind
from diffmech.report.wording import interval, number
from diffmech.vae.strengths import mean_strengths

ABOUT = (
    "Versions 1 and 3 of arXiv 2505.03530 are different studies and are kept apart. Their figures are of other data "
    "sets, networks and definitions: they stand here to be looked at, not to be compared by size."
)
COLUMNS = ["figure", "version", "published", "what it leaves undefined", "measured here"]


def section(references: Sequence[Mapping[str, Any]], tables: Mapping[str, Tables], vae: VaeStudy) -> Section:
    """Return published figures, version by version, beside those of all data sets."""
    rows = [
        [
            str(entry["name"]),
            f"{entry['version']} ({entry['paper']}; {entry['read']})",
            str(entry["value"]),
            " ".join(str(entry["undefined"]).split()),
            "; ".join(f"{data}: {_measured(entry, own, vae)}" for data, own in tables.items()),
        ]
        for entry in references
    ]
    parts = [markup.paragraph(ABOUT), markup.table(COLUMNS, rows, "Published and measured.", (), COLUMNS[3:])]
    return markup.section("published", "Measured beside published", *parts)


def _measured(entry: Mapping[str, Any], tables: Tables, vae: VaeStudy) -> str:
    what = str(entry["measured"])
    if what == "family":
        return _family(tables, of_kind(vae, str(entry["kind"])))
    if what == "relation":
        return _relation(tables.relation)
    if what == "swaps":
        return _swaps(tables.swaps, vae)
    return _strength(tables.latents, "calibrated")


def _family(tables: Tables, names: list[str]) -> str:
    if not names:
        return "not trained"
    dci = having(tables.families, DCI)
    own = tables.latents[tables.latents["family"].isin(names)]
    said = [
        f"DCI disentanglement {_mean(row)}"
        for row in dci[dci["family"].isin(names)].dropna(subset="mean").to_dict("records")
    ]
    return ", ".join([*said, f"raw strength {_strength(own, 'raw')}"])


def _mean(row: Mapping[Any, Any]) -> str:
    return number(row["mean"]) if pd.isna(row["low"]) else interval(row["mean"], row["low"], row["high"])


def _strength(latents: pd.DataFrame, kind: str) -> str:
    """Return the range over VAEs of the mean strength of active latents."""
    means = mean_strengths(latents)[kind].dropna()
    if means.empty:
        return "not defined"
    low, high = number(means.min()), number(means.max())
    return low if low == high else f"{low} to {high}"


def _relation(relation: pd.DataFrame) -> str:
    rows = having(relation, DCI).dropna(subset=["correlation", "low"]).to_dict("records")
    said = [
        f"{row['strength']} {interval(row['correlation'], row['low'], row['high'])}"
        for row in rows
        if row["strength"] in ("raw", "calibrated")
    ]
    return f"Spearman's correlation with DCI {', '.join(said)}" if said else "no correlation with an interval"


def _swaps(swaps: pd.DataFrame, vae: VaeStudy) -> str:
    if not of_kind(vae, CODES):
        return "not trained"
    known = swaps.dropna(subset="per_pixel").groupby("swap", sort=False)["per_pixel"].mean()
    said = [f"{swap} {number(value)}" for swap, value in known.items()]
    notes = [str(note) for note in swaps[swaps["swap"] == "shift"]["note"].dropna().head(1)]
    return "; ".join(["undefined", *([f"change per pixel by swaps: {', '.join(said)}"] if said else []), *notes])
