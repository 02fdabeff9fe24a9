"""Whether a circuit is found: what is weighed on images that had no say in its choice, and the verdict over domains.

Three things are weighed, from losses alone:

- the target: faithfulness is `reached` where its interval lies above the target, `missed` where it lies below, else it
  cannot be told. A circuit is the fewest heads that reach the target on other images, so that it stands about at the
  target and hardly any could be shown to lie above it: found needs that the target is not missed, and says which.
- the complement: all heads but the circuit must do worse. p is that of random signs of the paired differences of the
  loss over images, 1 where the complement does better. The complement holds every set of other heads.
- random circuits: the rank of the circuit among sets of its size, drawn from all heads. They may share heads with it,
  as a permutation of heads would make them: against sets of other heads alone, where heads are exchangeable, the rank
  is not uniform but rejects too often, since those sets vary less than the circuit does.

Both p-values must be small, so the larger is that of the domain (intersection-union: Berger 1982); Holm over domains. A
share is a ratio: where its denominator, what heads contribute, does not surely differ from 0, no interval bounds it
(Fieller 1954), and it cannot be told. The verdict is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from diffmech.circuits.faithfulness import difference_interval, faithfulness_interval, mean_faithfulness
from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation
from diffmech.statistics.reach import (
    draws_needed,
    smallest_effect,
    smallest_effect_among,
    smallest_rank_p,
    smallest_sign_flip_p,
    units_needed,
)

Target = Literal["reached", "missed", "cannot be told"]
# Rows of losses before those of random circuits.
FIXED = 4


@dataclass(frozen=True)
class CircuitVerdict:
    """The verdict on the circuit of one domain, and why; `p` is corrected over domains.

    `reasons` are, for "not found": target, complement, random; for "cannot be told": contribution, images, circuits.
    `seen_complement` and `seen_random` are the smallest advantage in faithfulness, over all other heads and over the
    mean of random circuits, that is found four times in five; `images` (of the test half) and `circuits` what it takes
    for either p-value to reach the level.
    """

    verdict: Literal["found", "not found", "cannot be told"]
    reasons: tuple[str, ...]
    p: float
    seen_complement: float
    seen_random: float
    images: int
    circuits: int


def weigh_circuit(
    losses: Float[np.ndarray, "set sample timestep"], *, target: float, permutations: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Return what is known of a circuit from losses of its test images, as JSON can hold it.

    The sets are: nothing kept, everything, the circuit, all heads but the circuit, and any number of random circuits.
    Raises ValueError for fewer than the first four.
    """
    if losses.ndim != 3 or len(losses) < FIXED:
        raise ValueError(
            f"losses have shape {losses.shape}; expected (set, sample, timestep) of nothing, everything, the circuit, "
            "its complement and random circuits"
        )
    nothing, everything, circuit, complement = losses[:FIXED].mean(axis=2)
    pair = losses[2:FIXED].mean(axis=2)
    share = faithfulness_interval(pair, nothing, everything, confidence=confidence)
    beyond = difference_interval(pair[:1], pair[1:], nothing, everything, confidence=confidence)
    difference, contributed = complement - circuit, float((nothing - everything).mean())
    p, null = sign_flip_permutation(np.abs, difference, permutations=permutations, seed=seed)
    n = len(difference)
    error = difference.std(ddof=1) / np.sqrt(n) / contributed if n > 1 and contributed > 0 else np.nan
    return {
        "samples": n,
        "bounded": bool(np.isfinite(beyond.low)[0]),
        "target": target,
        "target_is": _target(share, target),
        "faithfulness": plain_interval(share, 0),
        "completeness": plain_interval(share, 1),
        "beyond_complement": plain_interval(beyond, 0),
        "p_complement": float(permutation_p(p, null)) if difference.mean() > 0 else 1.0,
        "smallest_p_complement": smallest_sign_flip_p(n, permutations),
        "error_complement": _plain(error),
        "random": _among_random(losses, confidence),
    }


def circuit_verdicts(weighed: Sequence[Mapping[str, Any]], alpha: float) -> list[CircuitVerdict]:
    """Return the verdict on each of some circuits, one per domain, from what `weigh_circuit` returns of them.

    The family is all that are given.
    """
    tests = len(weighed)
    complement = np.array([each["p_complement"] for each in weighed])
    both = np.maximum(complement, [each["random"]["p"] for each in weighed])
    least_complement = np.array([each["smallest_p_complement"] for each in weighed])
    # No p-value can be corrected to less than where all were as small as they can be.
    images = holm(least_complement) > alpha
    circuits = holm(np.maximum(least_complement, [each["random"]["smallest_p"] for each in weighed])) > alpha
    corrected = holm(both)
    found = []
    for row, each in enumerate(weighed):
        verdict, reasons = _verdict(each, corrected[row], bool(images[row]), bool(circuits[row]), alpha)
        random = each["random"]
        spread = random["sd"] if random["sd"] is not None else np.nan
        error = each["error_complement"] if each["error_complement"] is not None else np.nan
        found.append(
            CircuitVerdict(
                verdict,
                reasons,
                float(corrected[row]),
                float(smallest_effect(error, each["samples"] - 1, alpha=alpha, tests=tests)),
                float(spread * smallest_effect_among(random["count"], alpha=alpha / tests)),
                units_needed(alpha, tests),
                draws_needed(alpha / tests),
            )
        )
    return found


def why_no_circuit(
    first: Float[np.ndarray, "2 sample_first timestep"],
    second: Float[np.ndarray, "2 sample_second timestep"],
    contributed: Interval,
    least: float,
    sure: bool,
) -> str:
    """Return why there is nothing to be explained, empty where there is.

    `first` and `second` are losses (of nothing, then of everything) of the two halves, `contributed` the rise of the
    loss in percent without any head, `sure` whether heads surely help on the second half.
    """
    if min(first.shape[1], second.shape[1]) < 2:
        return "too few images"
    if contributed.high <= least:
        return "heads help too little" if contributed.estimate > 0 else "heads do not help"
    helps = all(losses[0].mean() > losses[1].mean() for losses in (first, second))
    return "" if contributed.low > least and helps and sure else "contribution cannot be told"


def plain_interval(interval: Interval, row: int | tuple[int, ...] | None = None) -> dict[str, float | None]:
    """Return an interval as JSON holds it: null where a number cannot be had."""
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: _plain(end if row is None else np.asarray(end)[row]) for name, end in ends.items()}


def _verdict(
    weighed: Mapping[str, Any], p: float, few_images: bool, few_circuits: bool, alpha: float
) -> tuple[Literal["found", "not found", "cannot be told"], tuple[str, ...]]:
    if not weighed["bounded"]:
        return "cannot be told", ("contribution",)
    if few_images:
        return "cannot be told", ("images",)
    short = ["target"] if weighed["target_is"] == "missed" else []
    # A p-value above the level before correction is above it after.
    short += ["complement"] if weighed["p_complement"] > alpha else []
    if few_circuits:
        return ("not found", tuple(short)) if short else ("cannot be told", ("circuits",))
    short += ["random"] if weighed["random"]["p"] > alpha else []
    if p > alpha and not {"complement", "random"} & set(short):
        short.append("complement" if weighed["p_complement"] >= weighed["random"]["p"] else "random")
    return ("not found", tuple(short)) if short else ("found", ())


def _target(interval: Interval, target: float) -> Target:
    low, high = (float(np.asarray(end)[0]) for end in (interval.low, interval.high))
    return "reached" if low >= target else "missed" if high < target else "cannot be told"


def _among_random(losses: Float[np.ndarray, "set sample timestep"], confidence: float) -> dict[str, Any]:
    """Return the circuit's rank among random ones by their mean loss, and their faithfulness."""
    nothing, everything, circuit, _, *drawn = losses
    if not drawn:
        nan = dict.fromkeys(("mean", "low", "high", "sd", "percentile"))
        return {"count": 0, **nan, "p": 1.0, "smallest_p": smallest_rank_p(0)}
    own, null = -circuit.mean(), -np.stack(drawn).mean(axis=(1, 2))
    share = mean_faithfulness(np.stack(drawn), nothing, everything)
    tail = (1 - confidence) / 2
    low, high = np.quantile(share, [tail, 1 - tail])
    return {
        "count": len(drawn),
        "mean": _plain(share.mean()),
        "low": _plain(low),
        "high": _plain(high),
        "sd": _plain(share.std(ddof=1)) if len(drawn) > 1 else None,
        "percentile": float(100 * ((null < own).mean() + 0.5 * (null == own).mean())),
        "p": float(permutation_p(own, null)),
        "smallest_p": smallest_rank_p(len(drawn)),
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
