"""What the image and what telling do to the entropy of every head: three effects that add up to the raw difference.

The effects are those of `mechanisms.told`, in nats, from the same images under every telling. Of each head and timestep
stand the effect, its interval, p from permuted domain labels (image, interaction) or random signs (told: one for the
images of one number in both domains, which have the same noise; with groups one per group) with
Holm's correction over heads and timesteps, and p_untrained: the rank of its size among the largest of each untrained
twin over heads and timesteps, on the images that the twins saw, each kind of attention in units of its mean (max-T).
`significant`: both are at most alpha. The row `raw` is the sum, of images that are told what they are. Ours.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from diffmech.config.analysis import EntropyConfig
from diffmech.data.groups import GroupTables
from diffmech.mechanisms.captured import timesteps_of, units_of
from diffmech.mechanisms.entropy import against_untrained, divergence_table, effect_null, entropies, head_table
from diffmech.mechanisms.tables import DIVERGENCE, FACTORIAL
from diffmech.mechanisms.told import EFFECTS, IMAGE, RAW, TOLD, Cells, Files, contrasts, open_cells, paired
from diffmech.statistics.bootstrap import bootstrap_two_groups
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p
from diffmech.statistics.units import Groups, over_units

# So that the effects still add up to 1e-6 nats when they are read.
DIGITS = 9

# By effect, `a` and `b`, whose means differ by it.
Contrasts = Mapping[str, tuple[Float[np.ndarray, "_first timestep head"], Float[np.ndarray, "_second timestep head"]]]


def entropy_factorial(
    files: Files,
    copies: Files,
    divergence_csv: Path,
    factorial_csv: Path,
    *,
    domains: Sequence[str],
    entropy: EntropyConfig,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the effects on entropy per kind of attention, as mean sizes over heads, and per head.

    `files` and `copies` are the attention stores of the denoiser and of its untrained twins by what is told and domain.
    Effects "told" and "interaction" are there where the denoiser can be told the domain.
    """
    cells = open_cells(files, copies, domains, groups)
    units = {domain: units_of(tree) for domain, tree in cells.trees[cells.reference].items()}
    heads = head_table(cells.trees[cells.reference][domains[0]])
    timesteps = timesteps_of(cells.trees[cells.reference][domains[0]])
    of_model = contrasts(_values(cells), domains, cells.reference)
    seen = {effect: cells.seen_by_twins(effect) for effect in of_model}
    of_twins = {effect: _twins(cells, effect, seen[effect], timesteps) for effect in of_model}
    kinds, tables = heads["kind"].to_numpy(), []
    in_pairs = _in_pairs(cells, units, seen)
    for effect, contrast in of_model.items():
        a, b = paired(contrast) if effect == TOLD and in_pairs else contrast
        table = divergence_table(
            dict(zip(domains, (a, b), strict=True)),
            dict(zip(domains, of_twins[effect], strict=True)),
            seen[effect],
            kinds,
            timesteps,
            entropy=entropy,
            seed=seed,
            signs=effect == TOLD,
            bounds=heads["h_max"].to_numpy(),
            units=units,
        )
        table.insert(0, "effect", effect)
        tables.append(table.assign(condition=cells.reference))
    DIVERGENCE.write(divergence_csv, pd.concat(tables, ignore_index=True))
    table = factorial_table(
        of_model, of_twins, seen, heads, timesteps, entropy=entropy, seed=seed, units=units, in_pairs=in_pairs
    )
    FACTORIAL.write(factorial_csv, table, digits=DIGITS)


def factorial_table(
    of_model: Contrasts,
    of_twins: Contrasts,
    seen: Mapping[str, Mapping[str, Int[np.ndarray, "_seen"]]],
    heads: pd.DataFrame,
    timesteps: Sequence[int],
    *,
    entropy: EntropyConfig,
    seed: int,
    units: Mapping[str, Groups] | None = None,
    in_pairs: bool = False,
) -> pd.DataFrame:
    """Return the second table of `entropy_factorial`.

    By effect: `of_model` (sample, timestep, head), means `of_twins` (twin, timestep, head), and which of the samples of
    each domain the twins saw. `units` (sample,) say, by domain, which samples belong together, where any do; `in_pairs`
    that samples of one number have the same noise in both domains, and the twins saw the same numbers of both.
    """
    kinds = heads["kind"].to_numpy()
    tests = len(timesteps) * len(heads)
    # so that Holm's correction can be passed at all
    permutations = max(entropy.permutations, math.ceil(2 * tests / entropy.alpha))
    tables = []
    for effect, images in of_model.items():
        belong = [(units or {}).get(domain) for domain in seen[effect]]
        tested = paired(images) if effect == TOLD and in_pairs else images
        a, b = (over_units(part, own) for part, own in zip(tested, belong, strict=True))
        observed, null = effect_null(np.abs, a, b, signs=effect == TOLD, permutations=permutations, seed=seed)
        p = np.asarray(permutation_p(observed, null))
        seen_a, seen_b = (
            over_units(part[chosen], None if own is None else own[chosen])
            for part, chosen, own in zip(images, seen[effect].values(), belong, strict=True)
        )
        on_same_images = seen_a.mean(axis=0) - seen_b.mean(axis=0)
        twins = of_twins[effect][0] - of_twins[effect][1]
        p_untrained, largest = _among_twins(on_same_images, twins, kinds, entropy.alpha)
        table = _rows(effect, a, b, heads, timesteps, entropy, seed)
        table["p"], table["p_holm"] = p.ravel(), holm(p).ravel()
        table["p_untrained"], table["untrained_max"] = p_untrained.ravel(), largest.ravel()
        table["significant"] = (table["p_holm"] <= entropy.alpha) & (table["p_untrained"] <= entropy.alpha)
        tables.append(table)
    if len(of_model) == len(EFFECTS):
        raw = [
            over_units(np.sum([of_model[effect][side] for effect in EFFECTS], axis=0), own)
            for side, own in enumerate(belong)
        ]
        tables.append(_rows(RAW, raw[0], raw[1], heads, timesteps, entropy, seed).assign(significant=False))
    found = pd.concat(tables, ignore_index=True)
    order = {name: place for place, name in enumerate((*EFFECTS, RAW))}
    return found.sort_values(
        ["timestep", "head", "effect"], key=lambda c: c.map(order) if c.name == "effect" else c, kind="stable"
    ).reset_index(drop=True)


def _in_pairs(
    cells: Cells, units: Mapping[str, Groups], seen: Mapping[str, Mapping[str, Int[np.ndarray, "_seen"]]]
) -> bool:
    """Return whether the images of both domains have the same numbers, and so the same noise, and no groups."""
    first, second = (np.asarray(cells.trees[cells.reference][domain]["sample"].to_numpy()) for domain in cells.domains)
    alike = all(np.array_equal(by[cells.domains[0]], by[cells.domains[1]]) for by in seen.values())
    return np.array_equal(first, second) and alike and all(own is None for own in units.values())


def _values(cells: Cells) -> dict[str, dict[str, Float[np.ndarray, "_sample timestep head"]]]:
    """Return the entropies of the denoiser by what is told and domain."""
    return {
        told: {domain: entropies(tree) for domain, tree in by_domain.items()} for told, by_domain in cells.trees.items()
    }


def _twins(
    cells: Cells, effect: str, seen: Mapping[str, Int[np.ndarray, "_seen"]], timesteps: Sequence[int]
) -> tuple[Float[np.ndarray, "twin timestep head"], Float[np.ndarray, "twin timestep head"]]:
    """Return the means whose difference is an effect of the twins, on the images `seen`."""
    told = [cells.reference] if effect == IMAGE else list(cells.copies)
    values = {
        name: {
            domain: over_units(entropies(tree, timesteps)[:, chosen], None if own is None else own[chosen], axis=1)
            for domain, tree in cells.copies[name].items()
            for chosen, own in [(np.isin(cells.seen[name][domain], seen[domain]), units_of(tree))]
        }
        for name in told
    }
    a, b = contrasts(values, cells.domains, cells.reference)[effect]
    return a.mean(axis=1), b.mean(axis=1)


def _rows(
    effect: str,
    a: Float[np.ndarray, "sample_a timestep head"],
    b: Float[np.ndarray, "sample_b timestep head"],
    heads: pd.DataFrame,
    timesteps: Sequence[int],
    entropy: EntropyConfig,
    seed: int,
) -> pd.DataFrame:
    """Return one row per timestep and head with the effect and its interval."""
    interval = bootstrap_two_groups(
        lambda first, second: first - second,
        a,
        b,
        draws=entropy.draws,
        confidence=entropy.confidence,
        seed=seed,
        method="percentile",
    )
    table = heads.loc[np.tile(np.arange(len(heads)), len(timesteps)), ["head", "site", "kind"]].reset_index(drop=True)
    table.insert(0, "timestep", np.repeat(timesteps, len(heads)))
    table["effect"] = effect
    for name in ("estimate", "low", "high"):
        table[name] = np.ravel(getattr(interval, name))
    return table.assign(n_first=len(a), n_second=len(b))


def _among_twins(
    own: Float[np.ndarray, "timestep head"],
    twins: Float[np.ndarray, "twin timestep head"],
    kinds: Shaped[np.ndarray, "head"],
    alpha: float,
) -> tuple[Float[np.ndarray, "timestep head"], Float[np.ndarray, "timestep head"]]:
    """Return p of each cell `own` among the largest of each twin, and that."""
    names = list(dict.fromkeys(kinds))
    of_kind = np.array([kinds == name for name in names]).T  # (head, kind)

    def by_kind(values: np.ndarray) -> np.ndarray:
        sizes = np.where(of_kind, np.abs(values)[..., None], 0.0)
        return sizes.reshape(*values.shape[:-2], -1, len(names))

    p, _ = against_untrained(by_kind(own), by_kind(twins), alpha)
    place = np.array([names.index(kind) for kind in kinds])
    of_cells = p.reshape(*own.shape, len(names))[:, np.arange(len(kinds)), place]
    largest = by_kind(twins).max(axis=(0, 1))[place]
    return of_cells, np.broadcast_to(largest, own.shape)
