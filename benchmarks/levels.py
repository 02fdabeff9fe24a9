"""How often the front page says "Found" of nothing, and of something: every card's whole decision, without a model.

    python benchmarks/levels.py [--studies 2000] [--power 200] [--cards ablation circuit]

For each card, tables as a study leaves them are simulated and given to the very functions that decide. One line per
card, `CARD false_found=X.XXX`, is its worst rate over the nulls named below it, each over so many studies; then how
often planted effects of 3, 4 and 5 standard deviations are found: of matched controls (ablation), of random circuits
(circuit), of untrained copies (the others). A rate of 0.05 exceeds 0.06 in 2,000 studies with a chance of 2 %, twice
the level stays below it with none.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one study per core

import numpy as np
import xarray as xr

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.circuits.verdict import circuit_verdicts, weigh_circuit
from diffmech.config.analysis import AblationConfig, ComplexityConfig, EntropyConfig
from diffmech.interventions.decisions import CAUSAL
from diffmech.interventions.effects import effects_of_group
from diffmech.interventions.targets import HeadSpan, Target, matched_controls
from diffmech.mechanisms.complexity import complexity_table, participation
from diffmech.mechanisms.entropy import divergence_table
from diffmech.mechanisms.evidence import Evidence, rank_among_twins
from diffmech.mechanisms.labels import UNASSIGNED, name_mechanisms

ALPHA, MOST = 0.05, 0.06
DOMAINS = ("first", "second")
EFFECTS = (3.0, 4.0, 5.0)
IMAGES, COPIES, CONTROLS = 12, 19, 19  # those of config.yaml
TEXT = np.dtypes.StringDType()

Generator = np.random.Generator


# Divergence: entropies of two domains, of a model and of its untrained copies on the same images


def divergence(rng: Generator, null: str, effect: float) -> bool:
    """Return whether the card says found. Heads answer to what an image is like, each model's with its own weights."""
    kinds = np.repeat(["self", "cross"], [8, 4])
    timesteps, shape = [100, 300, 600, 900], (4, 12)
    loadings = rng.normal(0, 0.1, (1 + COPIES, 3, *shape))  # (model, what an image is like, timestep, head)
    alike = rng.normal(size=(2, IMAGES, 3))
    if null == "images differ":
        alike[1] += 1.0
    values = np.einsum("dik,mkth->mdith", alike, loadings)  # (model, domain, image, timestep, head)
    means = values.mean(axis=2)
    if effect:
        apart = np.abs(means[1:, 0] - means[1:, 1])
        # of each copy the largest over timesteps and kinds, which is what the study is ranked among
        largest = np.max([apart[..., kinds == kind].mean(axis=-1).max(axis=-1) for kind in set(kinds)], axis=0)
        own = np.abs(means[0, 0] - means[0, 1])
        more = largest.mean() + effect * largest.std(ddof=1) - own.mean(axis=-1, keepdims=True)
        values[0, 0] += more * np.sign(means[0, 0] - means[0, 1])
    values += rng.normal(0, 0.03, values.shape)
    table = divergence_table(
        dict(zip(DOMAINS, values[0], strict=True)),
        dict(zip(DOMAINS, np.swapaxes(values[1:].mean(axis=2), 0, 1), strict=True)),
        dict.fromkeys(DOMAINS, np.arange(IMAGES)),
        kinds,
        timesteps,
        entropy=EntropyConfig(draws=20, permutations=1000),
        seed=int(rng.integers(2**31)),
    )
    return bool(table["significant"].any())


# Mechanisms: how much more attention than by chance each probe gets, of a model and of its untrained copies


def mechanisms(rng: Generator, null: str, effect: float) -> bool:
    """Return whether any of 12 mechanisms is given a name in any domain; every map beats its rolled copies."""
    probes = ("neighbourhood", "sink", "position", "edges", "texture", "part:eye")
    heads, members = 24, 12
    scale = 10.0 ** -np.arange(len(probes))  # probes differ in how much they vary
    own = rng.normal(size=(1 + COPIES, 1, heads, len(probes))) + rng.normal(size=(1 + COPIES, 1, 1, len(probes)))
    shared = 0.0 if null == "domains differ" else own
    excess = scale * (1 + shared + rng.normal(size=(1 + COPIES, 2, heads, len(probes))))
    of_mechanisms = np.stack(
        [excess[0][:, rng.permutation(heads)[:size]].mean(axis=1) for size in sizes_of(rng, members)], 1
    )
    largest = excess.max(axis=(1, 2))
    if effect:
        of_mechanisms[:, 0, 3] = largest[1:, 3].mean() + effect * largest[1:, 3].std(ddof=1)
        largest[0, 3] = max(largest[0, 3], of_mechanisms[0, 0, 3])
    maps = np.full((2, members, len(probes)), np.nan)
    maps[..., 3:] = 1e-9
    evidence = Evidence(
        domains=DOMAINS,
        mechanisms=tuple(f"self-{index}" for index in range(members)),
        probes=probes,
        ratio=1 + of_mechanisms,
        excess=of_mechanisms,
        p_rolled_holm=maps,
        p_content_holm=maps,
        p_untrained=rank_among_twins(of_mechanisms, largest[0], largest[1:]),
        content_dependence=np.zeros((2, members)),
        images=np.full((2, len(probes)), IMAGES),
        smallest_content_p=np.full((2, len(probes)), 1e-9),
        copies=COPIES,
        smallest_excess=np.zeros(len(probes)),
    )
    labels = name_mechanisms(evidence, ALPHA)[["label_first", "label_second"]]
    return bool((labels.to_numpy() != UNASSIGNED).any())


# Ablation: losses with heads and mechanisms removed, beside matched controls, in two domains and several blocks

SITES = [
    *(AttentionSite(f"block{k}.self", "self", f"block{k}.attn1", 8) for k in range(4)),
    *(AttentionSite(f"block{k}.cross", "cross", f"block{k}.attn2", 4) for k in range(4)),
]
HEADS = [HeadId(site.name, head) for site in SITES for head in range(site.heads)]
TIMESTEPS = (100, 400, 800)  # two phases: the first two timesteps, and the last


def sizes_of(rng: Generator, count: int) -> np.ndarray:
    """Return how many heads each of `count` mechanisms has."""
    return rng.integers(1, 6, count)


def targets_of(rng: Generator, count: int) -> list[Target]:
    """Return mechanisms of unequal sizes, each of one kind of attention; they share heads, in one phase or both."""
    found = []
    for index, size in enumerate(sizes_of(rng, count)):
        kind = "self" if index % 3 else "cross"
        pool = [head for head in HEADS if head.site.endswith(kind)]
        spans = []
        for place in rng.permutation(len(pool))[:size]:
            first, last = ((0, 999), (0, 500), (501, 999))[rng.integers(3)]
            spans.append(HeadSpan(pool[place], first, last))
        found.append(Target(f"{kind}-{index}", tuple(spans)))
    return found


def ablation(rng: Generator, null: str, effect: float) -> bool:
    """Return whether any mechanism is called causal. Heads matter, in proportion to how far they are moved or not at
    all, or hardly in common between domains; to which mechanism a head belongs says nothing of it."""
    settings = AblationConfig(methods=["mean"], draws=20, permutations=1000, controls=CONTROLS)
    targets = targets_of(rng, 8)
    # how far each head is moved: alike in both domains and at all timesteps, give or take
    own_size = rng.lognormal(0, 0.25, len(HEADS)) * rng.lognormal(0, 0.1, (2, len(TIMESTEPS), len(HEADS)))
    sizes = np.sqrt(np.square(own_size).mean(axis=1))  # (domain, head)
    worth = rng.lognormal(0, 0.8, (1 if null != "domains differ" else 2, len(HEADS)))
    worth = worth * (sizes**2 if null == "size matters" else np.ones((2, 1)))
    if null == "heads do nothing":
        worth = np.zeros((2, len(HEADS)))
    moved = [
        {step: dict(zip(HEADS, row.tolist(), strict=True)) for step, row in zip(TIMESTEPS, of_domain, strict=True)}
        for of_domain in own_size
    ]
    matched = [
        matched_controls(target, SITES, *moved, count=settings.controls, needed=19, seed=int(rng.integers(2**31)))
        for target in targets
    ]
    everything = [*targets, *(control for each in matched for control in each.controls)]
    members = np.array([[[h in t.heads_at(step) for h in HEADS] for step in TIMESTEPS] for t in everything])
    own, single = [], []
    boost = np.zeros(len(everything))
    if effect:
        values = (members @ worth.mean(axis=0)).mean(axis=1)
        fair = [k for k, each in enumerate(matched) if each.controls]
        if not fair:
            return False
        ours = [k for k, t in enumerate(everything) if t.control_of == targets[fair[0]].name]
        boost[fair[0]] = values[ours].mean() + effect * values[ours].std(ddof=1) - values[fair[0]]
    heads = [Target(str(head), (HeadSpan(head, 0, 999),)) for head in HEADS]
    alone = np.repeat(np.eye(len(HEADS), dtype=bool)[:, None], len(TIMESTEPS), axis=1)
    for domain in range(2):
        images = rng.lognormal(0, 0.3, (IMAGES, len(HEADS)))  # what a head is worth on each image
        clean = 20 * rng.lognormal(0, 0.3, (IMAGES, len(TIMESTEPS)))
        factor = images * worth[domain]
        if effect:  # the heads that make it up bear it, as they would
            of_target = members[fair[0]].any(axis=0)
            factor = factor + images * of_target * max(boost[fair[0]], 0) / members[fair[0]].sum(axis=1).mean()
        for store, sets, of in ((own, members, everything), (single, alone, heads)):
            noise = rng.normal(0, 0.1, (len(of), IMAGES, len(TIMESTEPS)))
            raised = np.einsum("rth,ih->rit", sets, factor) + noise
            store.append(stored(of, sets, raised, clean, own_size[domain], matched))
    table = effects_of_group(
        dict(zip(DOMAINS, own, strict=True)),
        "mechanisms",
        ablation=settings,
        seed=int(rng.integers(2**31)),
        heads=dict(zip(DOMAINS, single, strict=True)),
    )
    return bool((table.loc[table["timestep"] == "all", "verdict"] == CAUSAL).any())


def stored(of, members, raised, clean, sizes, matched) -> xr.Dataset:
    """Return what `open_ablation` returns of losses raised by (target, image, timestep) above `clean`."""
    raised = raised[:, None]
    dims = ("target", "method", "sample", "timestep")
    names = [[" ".join(str(HEADS[k]) for k in np.flatnonzero(step)) for step in each] for each in members]
    own = [target for target in of if not target.control_of]
    balance = [matched[k].balance if k < len(matched) and len(own) < len(of) else None for k in range(len(of))]
    kinds = {site.name: site.kind for site in SITES}
    found = {
        "mse_ablated": (dims, clean + raised),
        "shift": (dims, np.abs(raised)),
        "distance_off": (dims, np.ones_like(raised)),
        "mse_clean": (dims[2:], clean),
        "members": (("target", "timestep"), np.array(names, dtype=TEXT)),
        "control_of": ("target", np.array([target.control_of for target in of], dtype=TEXT)),
        "kind": ("target", np.array([kinds[min(t.heads()).site] for t in of], dtype=TEXT)),
        "heads": ("target", np.array([len(target.heads()) for target in of])),
        "size": (("target", "timestep"), np.sqrt(np.einsum("rth,th->rt", members, sizes**2))),
    }
    if len(own) < len(of):
        found |= {
            "control_pool": ("target", np.array([b.pool if b else "" for b in balance], dtype=TEXT)),
            "controls_fair": ("target", np.array([bool(b and b.fair) for b in balance])),
            "controls": ("target", np.array([b.sets if b else 0 for b in balance])),
            "control_overlap": ("target", np.array([b.overlap if b else np.nan for b in balance])),
            "control_ratio": ("target", np.array([b.ratio if b else np.nan for b in balance])),
            "control_ratio_low": ("target", np.array([b.low if b else np.nan for b in balance])),
            "control_ratio_high": ("target", np.array([b.high if b else np.nan for b in balance])),
        }
    return xr.Dataset(
        found,
        coords={
            "target": np.array([target.name for target in of], dtype=TEXT),
            "method": np.array(["mean"], dtype=TEXT),
            "sample": np.arange(IMAGES),
            "timestep": np.array(TIMESTEPS),
        },
    )


# Circuit: losses with sets of heads kept, in two domains


def circuit(rng: Generator, null: str, effect: float) -> bool:
    """Return whether a circuit is found in any domain. Its heads are drawn without looking, so many that target and
    complement mostly hold and chance decides; or so few that nothing does."""
    heads, kept, drawn = 24, 6 if null == "few heads" else 16, 79
    weighed = []
    for _ in DOMAINS:
        worth = rng.lognormal(0, 0.6, heads)
        inside = rng.permutation(heads) < kept
        others = rng.permuted(np.tile(inside, (drawn, 1)), axis=1)
        if effect:
            shares = others @ worth / worth.sum()
            wanted = min(shares.mean() + effect * shares.std(ddof=1), 0.999)
            outside = worth[~inside].sum()
            worth[inside] *= wanted / (1 - wanted) * outside / worth[inside].sum()
        sets = np.stack([np.zeros(heads, bool), np.ones(heads, bool), inside, ~inside, *others])
        own = worth * rng.lognormal(0, 0.2, (IMAGES, heads))
        losses = (1 + ~sets @ own.T)[..., None]
        seed = int(rng.integers(2**31))
        weighed.append(weigh_circuit(losses, target=0.5, permutations=400, confidence=0.95, seed=seed))
    return any(each.verdict == "found" for each in circuit_verdicts(weighed, ALPHA))


# Complexity: output shifts, effective keys and head outputs of two domains, and what the copies give


def complexity(rng: Generator, null: str, effect: float) -> bool:
    """Return whether any measure differs. Copies see the same images; where these differ, copies' ratios do too."""
    settings = ComplexityConfig(draws=200, permutations=1000)
    differ = null == "images differ"
    alike = rng.normal(size=(2, IMAGES, 6)) * np.where(differ, [[[1.0] * 6], [[1.6, 1.3, 1, 1, 0.7, 0.5]]], 1.0)
    responses = rng.normal(0, 0.1, (1 + COPIES, 6, 12))
    keys = np.exp(3 + np.einsum("dik,mkh->mdih", alike, responses)).mean(axis=-1)
    if differ:
        keys[:, 0] *= np.exp(rng.normal(0, 0.05, (1 + COPIES, 1)))
    outputs = np.einsum("dik,mkh->mdih", alike, rng.normal(size=(1 + COPIES, 6, 24)))
    outputs += 0.1 * rng.normal(size=outputs.shape)
    if effect:
        logs = np.log(keys[1:, 0].mean(axis=1) / keys[1:, 1].mean(axis=1))
        error = np.sqrt((np.log(keys[0]).var(axis=1, ddof=1) / IMAGES).sum())
        keys[0, 0] *= np.exp(np.median(logs) + effect * max(logs.std(ddof=1), error)) / np.exp(
            np.log(keys[0, 0].mean() / keys[0, 1].mean())
        )
    flat = outputs.reshape(1 + COPIES, 2 * IMAGES, -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    grams = flat @ flat.swapaxes(1, 2)
    everyone = np.ones((1, IMAGES))
    spread = np.array(
        [[participation(part, everyone)[0] for part in (g[:IMAGES, :IMAGES], g[IMAGES:, IMAGES:])] for g in grams]
    )
    ratios = np.stack([keys[:, 0].mean(axis=1) / keys[:, 1].mean(axis=1), spread[:, 0] / spread[:, 1]])
    shifts = rng.lognormal(0, 0.5, 24) * rng.lognormal(0, 0.4, (2, IMAGES, 24))
    table = complexity_table(
        {"effective_heads_self": dict(zip(DOMAINS, shifts, strict=True))},
        {"effective_keys_self": dict(zip(DOMAINS, keys[0], strict=True))},
        [grams[0]],
        {
            "effective_keys_self": (float(ratios[0, 0]), ratios[0, 1:]),
            "activation_participation": (float(ratios[1, 0]), ratios[1, 1:]),
        },
        copies_n=IMAGES,
        complexity=settings,
        seed=int(rng.integers(2**31)),
    )
    return bool(table["significant"].any())


CARDS: dict[str, tuple[Callable[[Generator, str, float], bool], tuple[str, ...]]] = {
    "divergence": (divergence, ("images alike", "images differ")),
    "mechanisms": (mechanisms, ("domains alike", "domains differ")),
    "ablation": (ablation, ("heads matter", "size matters", "domains differ", "heads do nothing")),
    "circuit": (circuit, ("most heads", "few heads")),
    "complexity": (complexity, ("images alike", "images differ")),
}


def found_in(card: str, null: str, effect: float, studies: range) -> int:
    """Return in how many of `studies`, each with a seed of its own, the card says found."""
    decide = CARDS[card][0]
    place = sorted(CARDS).index(card), CARDS[card][1].index(null), round(10 * effect)
    return sum(decide(np.random.default_rng([*place, study]), null, effect) for study in studies)


def rate(pool: ProcessPoolExecutor, card: str, null: str, effect: float, studies: int) -> float:
    """Return the share of `studies` in which the card says found."""
    parts = [range(start, min(start + 25, studies)) for start in range(0, studies, 25)]
    return sum(pool.map(partial(found_in, card, null, effect), parts)) / studies


def main() -> int:
    """Print all rates; the exit code tells whether one of nothing is above 0.06."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per null")
    parser.add_argument("--power", type=int, default=200, help="simulated studies per planted effect")
    parser.add_argument("--cards", nargs="+", default=list(CARDS), choices=list(CARDS))
    given = parser.parse_args()
    worst = 0.0
    with ProcessPoolExecutor() as pool:
        for card in given.cards:
            nulls = CARDS[card][1]
            false = {null: rate(pool, card, null, 0.0, given.studies) for null in nulls}
            worst = max(worst, *false.values())
            print(f"{card} false_found={max(false.values()):.3f}")
            print(
                "  " + "; ".join(f"{null} {value:.3f}" for null, value in false.items()) + f" ({given.studies:,} each)"
            )
            power = [f"{effect:g} sd {rate(pool, card, nulls[0], effect, given.power):.2f}" for effect in EFFECTS]
            print(f"  power: {', '.join(power)} ({given.power:,} each)", flush=True)
    return int(worst > MOST)


if __name__ == "__main__":
    raise SystemExit(main())
