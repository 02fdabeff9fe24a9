"""Names for mechanisms: what a cluster of heads attends to, per domain, and where both domains agree. Ours.

In each domain, of the probes that attract a mechanism (`diffmech.mechanisms.probes`) the one with the largest excess,
the share of its attention beyond chance, names it, provided that it passes its tests (`diffmech.mechanisms.evidence`):
beyond untrained copies; and, for a reference map, beyond rolled maps, and beyond the maps of other images. The name of
the mechanism is the one that it has in both domains, for a part or token the same one; otherwise it is `unassigned`,
and `reason` says why.

A mechanism is `positional` where its attention keeps to fixed places, beyond untrained copies, and varies less between
images than between keys, and no other probe that passes holds at least half of that preference: attention to a row of
the image is no sink, although one of its keys receives more than chance. Bright places (`intensity`) are shown as a
probe but are no mechanism of the taxonomy: where they are strongest, the mechanism is `unassigned`, like all that pass
no test. `global` means attending farther than uniform attention does; uniform attention itself is no specialisation. A
cluster can hold a head that does not do what the cluster does: each row says whether its own head confirms the name.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffmech.artifacts import open_store
from diffmech.config.analysis import MechanismsConfig
from diffmech.errors import StoreError
from diffmech.mechanisms.clustering import read_phases
from diffmech.mechanisms.evidence import Evidence, head_evidence, weigh_evidence
from diffmech.mechanisms.probes import PLACES, TOKEN
from diffmech.mechanisms.reference_maps import PART
from diffmech.mechanisms.tables import MECHANISMS, MEMBERS

LABELS = {
    "neighbourhood": "local",
    "mirror": "mirror",
    "distance": "global",
    "sink": "sink",
    "edges": "edge",
    "texture": "texture",
}
UNASSIGNED, POSITIONAL, SEMANTIC = "unassigned", "positional", "semantic"
# Below this share of the variance of received attention between images, a head keeps to fixed places.
FIXED_PLACES = 0.5
# A probe names a head that keeps to fixed places only where its excess is at least this share of that of position.
NAMING_SHARE = 0.5
# Why a mechanism has no name.
INTENSITY = "intensity is strongest and names no mechanism"
NO_EXCESS = "nothing attracts more attention than it would of uniform attention"
NOT_BEYOND = "not shown to exceed"
ROLLED, UNTRAINED, OTHERS = "rolled maps", "untrained copies", "the maps of other images"
DIFFERS, NO_REASON_ALIKE = "the two domains share no name", "unassigned for different reasons"
UNTOLD = "cannot be told"
UNMEASURED = f"{UNTOLD} of both domains"
# The columns of each domain end in these, in the study's order of domains.
ENDINGS = ("_first", "_second")
_OF_DOMAIN = ("label", "reason", "probe", "enrichment", "excess", "p_rolled_holm", "p_content_holm", "p_untrained")


def label_mechanisms(
    features: Path, phases: Path, members: Path, output: Path, *, mechanisms: MechanismsConfig
) -> None:
    """Write `members` with the label of each row's mechanism and what speaks for it, sorted by head and phase.

    p_rolled_holm and p_content_holm are empty of places and tokens, which have no map. p_of_head is the larger of the
    head's rank among untrained heads of its site and, for a map, that against rolled maps; the head confirms a name
    where it is attracted, at most at alpha. Raises StoreError where the files do not belong together.
    """
    store = open_store(features).to_dataset().load()
    table = MEMBERS.read(members)
    spans = read_phases(phases)
    if not set(table["phase"]) <= set(spans) or not set(table["head"]) <= {str(head) for head in store["head"].values}:
        raise StoreError(
            f"{members}: names heads or phases that {features} and {phases} lack; let the workflow run anew"
        )
    evidence = weigh_evidence(store, table, spans, mechanisms.alpha)
    found = name_mechanisms(evidence, mechanisms.alpha).set_index("mechanism")
    labels = found.loc[table["mechanism"]].reset_index(drop=True)
    for index, ending in enumerate(ENDINGS[: len(evidence.domains)]):
        for halves in ("found_on", "tested_on"):
            labels[f"{halves}{ending}"] = int(store[halves].values[index])
        own = [
            tuple(values[index] for values in head_evidence(store, head, spans[int(phase)], probe))
            for head, phase, probe in zip(table["head"], table["phase"], labels[f"candidate{ending}"], strict=True)
        ]
        ratio, p = np.array(own).T
        labels[f"enrichment_of_head{ending}"], labels[f"p_of_head{ending}"] = ratio, p
        labels[f"confirmed{ending}"] = (labels[f"label{ending}"] != UNASSIGNED) & (ratio > 1) & (p <= mechanisms.alpha)
    each = {
        column: labels[[f"{column}{ending}" for ending in ENDINGS[: len(evidence.domains)]]]
        for column in ("enrichment_of_head", "p_of_head", "confirmed")
    }
    labels["enrichment_of_head"] = each["enrichment_of_head"].min(axis=1)
    labels["p_of_head"] = each["p_of_head"].max(axis=1)
    labels["confirmed"] = each["confirmed"].all(axis=1) & (labels["label"] != UNASSIGNED)
    labels = labels[[column for column in labels.columns if not column.startswith("candidate")]]
    about = ["head", "site", "kind", "phase", "phase_first", "phase_last", "mechanism"]
    rest = [column for column in table.columns if column not in about]
    joined = pd.concat([table[about], labels, table[rest]], axis=1)
    MECHANISMS.write(output, joined.sort_values(["head", "phase"], kind="stable"))


def name_mechanisms(evidence: Evidence, alpha: float) -> pd.DataFrame:
    """Return one row per mechanism: its columns of `label_mechanisms`, and candidate per domain, a probe's full name.

    No model is needed: `evidence` may be made of any arrays. An untrained study, exchangeable with its twins, is given
    any name in any domain with a chance of at most alpha.
    """
    rows = []
    for mechanism, name in enumerate(evidence.mechanisms):
        judged = [_judge(evidence, domain, mechanism, alpha) for domain in range(len(evidence.domains))]
        probes = [probe for probe, _, _ in judged]
        label, reason = _agreed(evidence, mechanism, judged)
        # where the domains differ, the probe that holds most in the one where it holds less
        weakest = np.nan_to_num(evidence.excess[:, mechanism], nan=-np.inf).min(axis=0)
        weakest[evidence.probes.index(PLACES[-1])] = -np.inf
        shared = probes[0] if len(set(probes)) == 1 else int(weakest.argmax())
        row: dict[str, Any] = {"mechanism": name, "label": label, "reason": reason}
        row |= _numbers(evidence, slice(None), mechanism, shared)
        row["smallest_excess"] = evidence.smallest_excess[shared]
        for domain, (ending, (probe, of_domain, why)) in enumerate(zip(ENDINGS, judged, strict=False)):
            there = _numbers(evidence, slice(domain, domain + 1), mechanism, probe)
            there = {"label": of_domain, "reason": why, **there}
            row[f"domain{ending}"] = evidence.domains[domain]
            row |= {f"{column}{ending}": there[column] for column in _OF_DOMAIN}
            row[f"candidate{ending}"] = evidence.probes[probe]
        rows.append(row)
    return pd.DataFrame(rows)


def labels_by_domain(heads: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return the label that each mechanism has in each domain, by (mechanism, domain), of the table `heads`.

    `unassigned` too where none of its heads confirms it there.
    """
    found = {}
    for mechanism, rows in heads.dropna(subset=["mechanism"]).groupby("mechanism"):
        for ending in ENDINGS:
            if f"label{ending}" in rows:
                row = rows.iloc[0]
                label = row[f"label{ending}"] if rows[f"confirmed{ending}"].any() else UNASSIGNED
                found[str(mechanism), str(row[f"domain{ending}"])] = str(label)
    return found


def _judge(evidence: Evidence, domain: int, mechanism: int, alpha: float) -> tuple[int, str, str]:
    """Return the probe, the label and why there is none, of one mechanism in one domain."""
    at = (domain, mechanism)
    strength = np.nan_to_num(evidence.excess[at], nan=-np.inf)
    # places and tokens have no map, so nothing rolled speaks against them
    passes = ~(evidence.p_rolled_holm[at] >= alpha) & (evidence.p_untrained[at] <= alpha) & (strength > 0)
    position = evidence.probes.index(PLACES[-1])
    # position holds every other preference for fixed keys, so it speaks only where nothing else does
    others = np.where(np.arange(len(strength)) == position, -np.inf, strength)
    strongest = int(np.where(passes, others, -np.inf).argmax())
    named = bool(passes[strongest]) and strongest != position
    fixed = passes[position] and evidence.content_dependence[at] < FIXED_PLACES
    place = position, POSITIONAL, ""
    if fixed and not (named and strength[strongest] >= NAMING_SHARE * strength[position]):
        return place
    if not named:
        strongest = int(others.argmax())
        return strongest, UNASSIGNED, _why(evidence, at, strongest, alpha)
    label = LABELS.get(evidence.probes[strongest], UNASSIGNED)
    if evidence.probes[strongest].startswith((PART, TOKEN)):
        label = SEMANTIC
    if label == UNASSIGNED:
        return strongest, UNASSIGNED, INTENSITY
    if evidence.p_content_holm[at][strongest] >= alpha:
        # a place, where it is shown to be one
        return place if fixed else (strongest, UNASSIGNED, _why_no_content(evidence, domain, strongest, alpha))
    return strongest, label, ""


def _why(evidence: Evidence, at: tuple[int, int], probe: int, alpha: float) -> str:
    """Return why the strongest probe of a mechanism names nothing."""
    if evidence.smallest_untrained_p > alpha:
        least = f"{evidence.smallest_untrained_p:.2g}"
        return f"{UNTOLD}: {evidence.copies} untrained copies allow no p below {least}"
    if not evidence.excess[at][probe] > 0:
        return NO_EXCESS
    failed = [ROLLED] if evidence.p_rolled_holm[at][probe] >= alpha else []
    failed += [UNTRAINED] if not evidence.p_untrained[at][probe] <= alpha else []
    return f"{NOT_BEYOND} {' or '.join(failed)}"


def _why_no_content(evidence: Evidence, domain: int, probe: int, alpha: float) -> str:
    least = evidence.smallest_content_p[domain, probe]
    if least >= alpha:
        return f"{UNTOLD}: {evidence.images[domain, probe]} images allow no p of content below {least:.2g}"
    return f"{NOT_BEYOND} {OTHERS}"


def _agreed(evidence: Evidence, mechanism: int, judged: list[tuple[int, str, str]]) -> tuple[str, str]:
    """Return the label that all domains share, else `unassigned`, and the reason."""
    probes, labels, reasons = zip(*judged, strict=True)
    same = len(set(labels)) == 1
    if same and labels[0] == UNASSIGNED:
        told = "; ".join(f"{reason} ({domain})" for domain, reason in zip(evidence.domains, reasons, strict=True))
        return UNASSIGNED, reasons[0] if len(set(reasons)) == 1 else f"{NO_REASON_ALIKE}: {told}"
    if same and (labels[0] != SEMANTIC or len(set(probes)) == 1):
        return labels[0], ""
    names = [
        f"{label} ({_short(evidence.probes[probe])})" if label == SEMANTIC else label for probe, label, _ in judged
    ]
    told = ", ".join(f"{label} on {domain}" for domain, label in zip(evidence.domains, names, strict=True))
    for probe, label, _ in judged:
        unmeasured = np.flatnonzero(np.isnan(evidence.excess[:, mechanism, probe]))
        if label != UNASSIGNED and len(unmeasured):
            where = " or ".join(evidence.domains[domain] for domain in unmeasured)
            return (
                UNASSIGNED,
                f"{UNMEASURED}: {told}, where {_short(evidence.probes[probe])} was not measured on {where}",
            )
    return UNASSIGNED, f"{DIFFERS}: {told}"


def _numbers(evidence: Evidence, domains: slice, mechanism: int, probe: int) -> dict[str, Any]:
    """Return what is said of a probe in the one of `domains` that says less for it; NaN where one has no such probe."""
    at = (domains, mechanism, probe)
    return {
        "probe": _short(evidence.probes[probe]),
        "enrichment": evidence.ratio[at].min(),
        "excess": evidence.excess[at].min(),
        "p_rolled_holm": evidence.p_rolled_holm[at].max(),
        "p_content_holm": evidence.p_content_holm[at].max(),
        "p_untrained": evidence.p_untrained[at].max(),
    }


def _short(probe: str) -> str:
    # a part of images and a token may have one name
    return f"{probe.removeprefix(TOKEN)} token" if probe.startswith(TOKEN) else probe.removeprefix(PART)
