"""What was found inside VAEs: units, what few of them carry, motifs, causal graphs."""

from collections.abc import Iterator

import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.findings import Finding, Verdict
from diffmech.report.vae.inputs import Tables
from diffmech.report.vae.words import Mean, estimate, over_all, over_vaes, per_vae, vae_words
from diffmech.report.wording import count, interval, listed, number, p_value

MONOSEMANTIC = "monosemantic"


def findings(data: str, tables: Tables, vae: VaeStudy) -> Iterator[Finding]:
    """Yield the findings that there are tables for: none of them where no factor can be changed."""
    if len(tables.units):
        yield _units(data, tables.units, vae)
    if len(tables.patching):
        yield _patching(data, tables, vae)
    if len(tables.motifs):
        yield _motifs(data, tables.motifs, vae)
    if len(tables.graphs):
        yield _graphs(data, tables.graphs, vae)


def _units(data: str, units: pd.DataFrame, vae: VaeStudy) -> Finding:
    alpha = vae.measures.alpha
    single = units["kind"] == MONOSEMANTIC
    of_vaes = single.groupby([units["family"], units["vae_seed"]], sort=False)
    some, vaes = int(of_vaes.any().sum()), of_vaes.ngroups
    p = over_all(_smallest(units, single))
    share = over_vaes([100 * value for value in of_vaes.mean()], vae.measures)
    verdict: Verdict = "found" if some and p <= alpha else "cannot be told" if some else "not found"
    if verdict == "found":
        answer = f"Yes: {some} of {count(vaes, 'VAE')} have units that respond mainly to one factor, "
        answer += f"{number(share.value)} % of their units on average."
    elif verdict == "not found":
        answer = (
            f"No unit of {count(vaes, 'VAE')} responds mainly to one factor, more selectively than units of untrained "
        )
        answer += "twins and than factors permuted over pairs allow."
    else:
        answer = f"{some} of {count(vaes, 'VAE')} have such units, which chance alone may do ({p_value(p)})."
    kinds = units["kind"].value_counts()
    details = [f"Of {len(units):,} units: {listed([f'{number_:,} {kind}' for kind, number_ in kinds.items()])}."]
    where = units[single].groupby("layer", sort=False).size().sort_values(ascending=False)
    if len(where):
        details.append(f"Most of them in {listed([f'{layer} ({amount})' for layer, amount in where[:3].items()])}.")
    resting = estimate("share of units that respond mainly to one factor, mean over VAEs", share, "%")
    family = f"Benjamini-Hochberg over the units of a VAE at {number(alpha, 2)}."
    if some:
        family += f" Over VAEs {p_value(p)} (twice the median of their smallest p, which holds however they depend)."
    question = f"Do units respond mainly to one factor of {data}, beyond untrained networks?"
    return Finding(question, verdict, answer, tuple(details), f"{data}-units", family, "", resting)


def _patching(data: str, tables: Tables, vae: VaeStudy) -> Finding:
    # a layer that is patched as a whole carries all of the change by definition
    rows = tables.patching[tables.patching["units"] < tables.patching["of"]]
    question = f"Do few units carry what a factor of {data} does, more than others?"
    if rows.empty:
        answer = "Every layer is patched as a whole: measures.share leaves no unit out."
        return Finding(question, "cannot be told", answer, (), f"{data}-patching")
    excess = over_vaes(per_vae(rows, 100 * (rows["share"] - rows["random"])), vae.measures)
    chosen, random = (100 * rows[name].mean() for name in ("share", "random"))
    beyond = rows["low"] > rows["random_high"]
    verdict = _sign(excess.low, excess.high)
    what = (
        f"{number(100 * vae.measures.share, 2)} % of a layer's units, chosen on other pairs, carry {number(chosen)} % "
    )
    what += f"of a change, as many at random {number(random)} %"
    answer = {
        "found": f"Yes: {what}.",
        "not found": f"No: {what}.",
        "cannot be told": f"{what[0].upper()}{what[1:]}; the interval of the difference over VAEs holds 0, or there is "
        "none.",
    }[verdict]
    details = [
        f"In {int(beyond.sum())} of {len(rows)} layers, factors and VAEs the interval of the chosen units lies above "
        "that of the random draws.",
    ]
    if len(tables.mediation):
        details.append(_mediation(tables.mediation, vae))
    resting = estimate("percentage points of the change that chosen units carry beyond random ones", excess)
    sight = "Units are chosen and measured on different pairs of images; the mean over layers and factors of each VAE."
    return Finding(
        question, verdict, answer, tuple(details), f"{data}-patching", "One test of the mean over VAEs.", sight, resting
    )


def _mediation(mediation: pd.DataFrame, vae: VaeStudy) -> str:
    """Return what part of total effects goes through the chosen units of the encoder."""
    effects = {name: over_vaes(per_vae(mediation, mediation[name]), vae.measures) for name in PARTS}
    said = [f"{words} {_said(effects[name])}" for name, words in PARTS.items()]
    random = number(mediation["random"].mean())
    return f"In the encoder, in sd of the latent that a factor moves most: {'; '.join(said)}; {random} by random units."


PARTS = {
    "total": "total effect",
    "direct": "directly",
    "indirect": "through the chosen units",
    "interaction": "by both together",
}


def _motifs(data: str, motifs: pd.DataFrame, vae: VaeStudy) -> Finding:
    alpha = vae.measures.alpha
    more = (motifs["p_corrected"] <= alpha) & (motifs["found"] > motifs["expected"])
    hits = more.groupby([motifs["family"], motifs["vae_seed"]], sort=False).any()
    some, vaes = int(hits.sum()), len(hits)
    p = over_all(_smallest(motifs, motifs["found"] > motifs["expected"]))
    verdict: Verdict = "found" if some and p <= alpha else "cannot be told" if some else "not found"
    vaes_of = motifs[more].drop_duplicates(["motif", "family", "vae_seed"])["motif"].value_counts()
    told = listed([f"{name} (in {amount} of {vaes} VAEs)" for name, amount in vaes_of.items()])
    answer = {
        "found": f"Yes: {told}.",
        "not found": "No kind of path does, after correction.",
        "cannot be told": f"{told} does, which chance alone may bring about ({p_value(p)}).",
    }[verdict]
    fewer = motifs[(motifs["p_corrected"] <= alpha) & (motifs["found"] < motifs["expected"])]
    rarer = fewer.drop_duplicates(["motif", "family", "vae_seed"])["motif"].value_counts()
    told_rarer = listed([f"{name} (in {amount} of {vaes} VAEs)" for name, amount in rarer.items()])
    details = [f"Rarer than expected, each VAE taken alone: {told_rarer}."] if len(fewer) else []
    family = f"Holm over the motifs of a VAE, among random graphs of the same degrees; over VAEs {p_value(p)}."
    question = f"Do kinds of paths from factors of {data} to outputs recur more often than by chance?"
    return Finding(question, verdict, answer, tuple(details), f"{data}-motifs", family)


def _graphs(data: str, graphs: pd.DataFrame, vae: VaeStudy) -> Finding:
    seen = graphs[graphs["level"] == "inputs"]
    mechanism = graphs[graphs["level"] == "generator"]
    edges = int(graphs["true_edges"].iloc[0])
    question = f"Is the causal graph of {data} recovered from what VAEs encode?"
    details = []
    if len(mechanism):
        worst = int(mechanism["distance"].max())
        true = f"The true graph has {count(edges, 'edge')}; set on the mechanism itself, the estimate is"
        away = f"up to {count(worst, 'edge')} away from it" if worst else "the same"
        details.append(f"{true} {away}.")
    if seen.empty:
        return Finding(question, "cannot be told", "No graph was read from latents.", tuple(details), f"{data}-graphs")
    exact = int((seen["distance"] == 0).sum())
    distances = over_vaes(seen["distance"], vae.measures)
    fresh = graphs[graphs["level"] == "untrained"]
    if len(fresh):
        as_well = int((fresh["distance"] == 0).sum())
        details.append(f"Of untrained encoders of the same form {as_well} of {len(fresh)} give it as well.")
    answer = f"{exact} of {count(len(seen), 'VAE')} {'gives' if exact == 1 else 'give'} the true graph"
    if exact < len(seen):
        answer += f"; on average {number(distances.value)} edges are wrong or missing"
        far = seen.sort_values("distance", ascending=False).iloc[0]
        details.append(f"Farthest: {vae_words(far['family'], far['vae_seed'])}, {count(int(far['distance']), 'edge')}.")
    if edges:
        near = int((seen["p"] <= vae.measures.alpha).sum())
        details.append(
            f"Random graphs of as many edges are {number(seen['random'].mean())} edges away on average; {near} of "
            f"{len(seen)} VAEs are nearer than these, p at most {number(vae.measures.alpha, 2)} for each, not "
            "corrected."
        )
    details.append(
        f"Factors are read from latents with a mean R2 or share of right classes of {number(seen['readout'].mean())}."
    )
    resting = estimate("edges between the estimated and the true graph, mean over VAEs", distances)
    verdict: Verdict = "found" if exact == len(seen) else "not found"
    if not edges:  # nothing that could be recovered: whether something is made up
        question = f"Do codes of {data} suggest that one factor causes another, where none does?"
        made_up = len(seen) - exact
        answer = f"{made_up} of {count(len(seen), 'VAE')} {'suggests' if made_up == 1 else 'suggest'} it"
        verdict = "caution" if made_up else "not found"
    return Finding(question, verdict, f"{answer}.", tuple(details), f"{data}-graphs", "", "", resting)


def _smallest(frame: pd.DataFrame, asked: "pd.Series[bool]") -> list[float]:
    """Return the smallest corrected p of each VAE among the rows that are `asked` for, 1 where it has none."""
    p = frame["p_corrected"].where(asked).fillna(1.0)
    return list(p.groupby([frame["family"], frame["vae_seed"]], sort=False).min())


def _sign(low: float, high: float) -> Verdict:
    if low > 0:
        return "found"
    return "not found" if high <= 0 else "cannot be told"


def _said(mean: Mean) -> str:
    return number(mean.value) if pd.isna(mean.low) else interval(*mean)
