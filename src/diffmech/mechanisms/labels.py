"""Names for mechanisms: what a cluster of heads attends to, where two nulls agree that it is not chance. Ours.

Of the probes that attract a mechanism (`diffmech.mechanisms.probes`) the one with the largest excess, the share of its
attention beyond chance, names it, provided that
1. its p-value against rolled maps (random signs for probes without a map) is below alpha after Holm over mechanisms x
   probes, and
2. its excess on the images that the untrained twins saw beats the twins, by two ranks: among the twins' maxima over
   heads and timesteps of this probe; and, standardised, among their maxima over all probes. Each model is standardised
   by the others, so an untrained study is exchangeable with its twins, and the chance of any name at all is at most
   alpha. Ours, after Westfall & Young 1993.

A map that attracts no more than other images' maps do makes the mechanism `positional`: it looks at a place. So is one
that nothing else names, when its attention keeps to fixed places and varies less between images than between keys.
Bright places (`intensity`) are shown as a probe but are no mechanism of the taxonomy: where they are strongest, the
mechanism is `unassigned`, like all that pass no test. Where attention keeps to fixed places and the probe that would
name it holds less than half of that preference, the name is `positional` too: attention to a row of the image is no
sink, although one of its keys receives more than chance. `global` means attending farther than uniform attention does;
uniform attention itself is no specialisation. A cluster can hold a head that does not do what the cluster does: each
row says whether its own head confirms the name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import open_store, write_csv
from diffmech.config.analysis import MechanismsConfig
from diffmech.errors import StoreError
from diffmech.mechanisms.clustering import read_phases
from diffmech.mechanisms.probes import PLACES, TOKEN, null_p
from diffmech.mechanisms.reference_maps import PART
from diffmech.statistics.multiplicity import holm

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


@dataclass(frozen=True)
class Evidence:
    """What speaks for each probe of each mechanism; arrays (mechanism, probe), NaN where a probe does not apply.

    ratio: attention over that of uniform attention. excess: share of attention beyond chance. p_holm, content_p_holm:
    corrected p-values. p_untrained: rank among the twins. content_dependence: (mechanism,).
    """

    mechanisms: tuple[str, ...]
    probes: tuple[str, ...]
    ratio: np.ndarray
    excess: np.ndarray
    p_holm: np.ndarray
    content_p_holm: np.ndarray
    p_untrained: np.ndarray
    content_dependence: np.ndarray


def label_mechanisms(
    features: Path, phases: Path, members: Path, output: Path, *, mechanisms: MechanismsConfig
) -> None:
    """Write `members` with the label of each row's mechanism and what speaks for it, sorted by head and phase.

    New columns: label, probe (the strongest; a part or token by its name), enrichment (of the mechanism, times
    uniform), excess, p_holm, content_p_holm, p_untrained, beats_untrained; and of the row's own head in its phase
    enrichment_of_head, p_of_head (uncorrected) and confirmed (below alpha). Raises StoreError where the files do not
    belong together.
    """
    store = open_store(features).to_dataset().load()
    table = pd.read_csv(members)
    spans = read_phases(phases)
    if not set(table["phase"]) <= set(spans) or not set(table["head"]) <= {str(head) for head in store["head"].values}:
        raise StoreError(
            f"{members}: names heads or phases that {features} and {phases} lack; let the workflow run anew"
        )
    evidence = weigh_evidence(store, table, spans)
    found = name_mechanisms(evidence, mechanisms.alpha).set_index("mechanism")
    labels = found.loc[table["mechanism"]].reset_index(drop=True)
    of_heads = []
    own = store[["ratio", "null"]].transpose("null_draw", "probe", "head", "timestep")
    positions = {name: [str(value) for value in store[name].values] for name in ("probe", "head")}
    timesteps = store["timestep"].values
    for head, phase, probe in zip(table["head"], table["phase"], labels["candidate"], strict=True):
        where = {"probe": positions["probe"].index(probe), "head": positions["head"].index(head)}
        mean = own.isel(where).isel(timestep=np.isin(timesteps, spans[int(phase)])).mean("timestep")
        p = null_p(mean["ratio"].values, mean["null"].values, two_sided=True)
        of_heads.append((float(mean["ratio"]), float(p)))
    labels["enrichment_of_head"], labels["p_of_head"] = zip(*of_heads, strict=True)
    attracted = (labels["enrichment_of_head"] > 1) & (labels["p_of_head"] < mechanisms.alpha)
    labels["confirmed"] = attracted & (labels["label"] != UNASSIGNED)
    labels = labels.drop(columns="candidate")
    about = ["head", "site", "kind", "phase", "phase_first", "phase_last", "mechanism"]
    rest = [column for column in table.columns if column not in about]
    joined = pd.concat([table[about], labels, table[rest]], axis=1)
    write_csv(output, joined.sort_values(["head", "phase"], kind="stable"))


def weigh_evidence(store: xr.Dataset, members: pd.DataFrame, spans: dict[int, list[int]]) -> Evidence:
    """Return the evidence for every probe of every mechanism; a mechanism is the mean over its heads and phases."""
    names = sorted(set(members["mechanism"]))
    heads = [str(head) for head in store["head"].values]
    timesteps = [int(timestep) for timestep in store["timestep"].values]
    weights = np.zeros((len(names), len(heads), len(timesteps)))
    for mechanism, rows in members.groupby("mechanism"):
        for head, phase in zip(rows["head"], rows["phase"], strict=True):
            inside = np.isin(timesteps, spans[int(phase)])
            weights[names.index(str(mechanism)), heads.index(head)] += inside / inside.sum() / len(rows)

    def mean(name: str) -> np.ndarray:
        """Return ([draw,] mechanism, probe); NaN unless all members have the probe."""
        values = store[name].transpose(..., "head", "timestep").values.astype(np.float64)
        columns = []
        for weight in weights:
            used = weight > 0
            columns.append(values[..., used] @ weight[used])
        return np.moveaxis(np.stack(columns, axis=-1), -1, -2)

    probes = tuple(str(probe) for probe in store["probe"].values)
    p = null_p(mean("ratio"), mean("null"), two_sided=True)
    content = np.full(p.shape, np.nan)
    where = [probes.index(str(name)) for name in store["map"].values]
    content[:, where] = null_p(mean("content"), mean("content_null"), two_sided=False)
    seen = store["excess_seen"].max(["head", "timestep"]).values.astype(np.float64)
    twins = store["untrained_excess"].transpose("twin", "probe").values.astype(np.float64)
    dependence = mean("features")[:, [str(f) for f in store["feature"].values].index("content_dependence")]
    return Evidence(
        mechanisms=tuple(names),
        probes=probes,
        ratio=mean("ratio"),
        excess=mean("excess"),
        p_holm=holm(p),
        content_p_holm=holm(content),
        p_untrained=rank_among_twins(mean("excess_seen"), seen, twins),
        content_dependence=dependence,
    )


def rank_among_twins(effects: np.ndarray, study: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Return the larger of two rank p-values of `effects` (mechanism, probe) of a study among its untrained twins.

    `study` (probe) and `twins` (twin, probe) are maxima over heads and timesteps; effects are averages of what `study`
    is the maximum of. The first rank is within the probe. The second is over all probes: a twin counts against an
    effect where its largest standardised maximum is at least as large; each model is standardised by the mean and
    standard deviation of all others, which treats study and twins alike. NaN effects stay NaN.
    """
    models = np.concatenate([study[None], twins])
    usable = np.isfinite(models).all(axis=0)
    scores = []
    for index in range(len(models)):
        others = np.delete(models[:, usable], index, axis=0)
        values = effects[:, usable] if index == 0 else models[index, usable]
        scores.append((values - others.mean(axis=0)) / np.maximum(others.std(axis=0), 1e-9))
    beyond = np.array([score.max(initial=-np.inf) for score in scores[1:]])
    over_probes = (beyond[:, None, None] >= scores[0]).sum(axis=0)
    within_probe = (twins[:, None, usable] >= effects[:, usable]).sum(axis=0)
    p = np.full(effects.shape, np.nan)
    p[:, usable] = (1 + np.maximum(over_probes, within_probe)) / (1 + len(twins))
    return np.where(np.isnan(effects), np.nan, p)


def name_mechanisms(evidence: Evidence, alpha: float) -> pd.DataFrame:
    """Return mechanism, label, probe, candidate (the probe's full name) and the evidence for it, per mechanism."""
    position = evidence.probes.index(PLACES[-1])
    rows = []
    for index, mechanism in enumerate(evidence.mechanisms):
        strength = np.nan_to_num(evidence.excess[index], nan=-np.inf)
        beats_untrained = evidence.p_untrained[index] <= alpha
        passes = (evidence.p_holm[index] < alpha) & beats_untrained & (strength > 0)
        # position holds every other preference for fixed keys, so it speaks only where nothing else does
        others = np.where(np.arange(len(strength)) == position, -np.inf, strength)
        strongest = int(np.where(passes, others, -np.inf).argmax())
        fixed = passes[position] and evidence.content_dependence[index] < FIXED_PLACES
        if fixed and strength[strongest] < NAMING_SHARE * strength[position]:
            strongest, label = position, POSITIONAL
        elif passes[strongest] and strongest != position:
            label = _label(evidence.probes[strongest])
            if evidence.content_p_holm[index, strongest] >= alpha:
                label = POSITIONAL
        elif fixed:
            strongest, label = position, POSITIONAL
        else:
            strongest, label = int(others.argmax()), UNASSIGNED
        candidate = evidence.probes[strongest]
        rows.append(
            {
                "mechanism": mechanism,
                "label": label,
                "probe": candidate.removeprefix(PART).removeprefix(TOKEN),
                "candidate": candidate,
                "enrichment": evidence.ratio[index, strongest],
                "excess": evidence.excess[index, strongest],
                "p_holm": evidence.p_holm[index, strongest],
                "content_p_holm": evidence.content_p_holm[index, strongest],
                "p_untrained": evidence.p_untrained[index, strongest],
                "beats_untrained": bool(beats_untrained[strongest]),
            }
        )
    return pd.DataFrame(rows)


def _label(probe: str) -> str:
    if probe.startswith((PART, TOKEN)):
        return SEMANTIC
    return LABELS.get(probe, UNASSIGNED)
