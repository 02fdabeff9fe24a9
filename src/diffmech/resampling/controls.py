"""Whether images change more than without as many other heads: ranks among matched controls, corrected together. Ours.

The family of a likeness or a distance is all targets in all domains; that of attributes is also over all of them.
Controls may have heads of their target, as chance will have it, so that under the null that heads are put together at
random the target is one of sets drawn alike. Sets without a head of it would not do: a mechanism that holds the one
head that matters beats all of them, by chance in k / m of all studies for k of m heads.
"""

from collections.abc import Mapping

import numpy as np

from diffmech.statistics.controls import joint_rank_p

ATTRIBUTE, ASKED = "attribute:", "asked:"


def is_judged(measure: str) -> bool:
    """Return whether a measure is what the judge says of an attribute."""
    return measure.startswith((ATTRIBUTE, ASKED))


def change(measure: str, values: np.ndarray) -> np.ndarray:
    """Return how much changed: less alike, a larger distance, an attribute that moved either way."""
    return np.abs(values) if is_judged(measure) else -values if measure == "ssim" else values


def corrected_among_controls(
    changes: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
) -> dict[tuple[str, str, str], float]:
    """Return the corrected p-values by domain, target and measure.

    `changes[domain][target][measure]` (1 + draw,) are those of the target, then of its controls, which are the same
    sets of heads in every domain.
    """
    families: dict[str, dict[str, dict[tuple[str, str], np.ndarray]]] = {}
    for domain, targets in changes.items():
        for name, measures in targets.items():
            for measure, values in measures.items():
                family = ATTRIBUTE if is_judged(measure) else measure
                families.setdefault(family, {}).setdefault(name, {})[domain, measure] = values
    found: dict[tuple[str, str, str], float] = {}
    for pools in families.values():
        tests = sorted({test for pool in pools.values() for test in pool})
        tables = []
        for pool in pools.values():
            # NaN where a target has no such measure in a domain
            missing = np.full(len(next(iter(pool.values()))), np.nan)
            tables.append(np.stack([pool.get(test, missing) for test in tests], axis=1))
        p = joint_rank_p(np.stack([table[0] for table in tables]), [table[1:] for table in tables])
        for row, name in enumerate(pools):
            found |= {(domain, name, measure): float(p[row, k]) for k, (domain, measure) in enumerate(tests)}
    return found
