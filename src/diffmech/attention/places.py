"""Whether heads are heads, and whether tokens of self-attention stand where the grid of the image says. Ours.

All heads of a call read the same tokens, so that each hears as much of either half of an image, whatever the halves;
windows in the place of heads hear of their own place alone. A token that stands row by row on the image hears more of
the half in which its place is. Neither needs to know an architecture, and both hold behind other attention, which
lets every token hear of everything, as long as a token hears of itself too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from diffmech.attention.hearing import DRAWS, Heard, Stripes

# Heads are windows where they differ in the halves that they hear of by so much (the variance between heads of what
# draws have in common: 0.28 to 0.9 were seen of windows, 0.14 at most of heads), by so many standard errors, and by so
# many times more than their tokens do (3.6 and more were seen of windows, of halos the least). Of queries that only the
# weights tell of, 0.37 was seen of heads too.
LEAST_APART, LEAST_APART_BY_WEIGHTS, LEAST_ERRORS, LEAST_TIMES = 0.2, 0.5, 4, 2
# Only halves in stripes as coarse as these are judged: finer ones are blurred by convolutions. What is heard of them
# must correlate with where tokens stand by so many standard errors over all.
COARSE, LEAST_EVIDENCE = 2, 2.5
# From which correlation on values stand so surely where they should that queries or their outputs must tell it too.
PLACED = 0.5
# What the outputs of queries that do not tell change in the prediction where they stand, at least (in shares: 0.18 to
# 0.9 were seen of queries of places, once 0.03 before three layers of sharp attention, at most 0.06 of learned ones).
LEAST_ANSWER = 0.1
# Where the first halves are told so clearly (a mean square), the correlation must be at least so much (0.56 to 1 were
# seen, -0.3 to 0.3 of tokens that are chosen by their content).
CLEAR, LEAST_CORRELATION = 0.2, 0.4
# Of what is told again by other noise, beyond so many standard errors and so much, where tokens stand must be at least
# this share (0.46 to 1 were seen, below 0.08 of snakes, windows, curves and columns).
SURE, LEAST_AGAIN, LEAST_TOLD = 3, 0.1, 0.25


def heads_apart(parts: Mapping[str, Heard]) -> str | None:
    """Return which part of a call, query, key or value, is of different places in different heads; None if none is."""
    return next((part for part, heard in parts.items() if not heard.silent and _apart(heard)), None)


def _apart(heard: Heard) -> bool:
    """Return whether heads hear of different halves while the tokens of each do not."""
    balance = heard.balance()
    heads, tokens = balance.shape[2:]
    if heads < 2 or not balance.shape[1]:
        return False
    mean = _means(balance, -1)  # (draw, stripes, head)
    mean -= mean.mean(axis=-1, keepdims=True)
    between_heads = _again(mean).mean(axis=-1)
    noise = float(mean.var(axis=0, ddof=1).mean())
    error = noise * math.sqrt(2 / (DRAWS * (DRAWS - 1) * (heads - 1)))
    token = _means(balance, -2)
    token -= token.mean(axis=-1, keepdims=True)
    between_tokens = _again(token).sum(axis=-1) / max(tokens - 1, 1)
    least = LEAST_APART_BY_WEIGHTS if heard.by_weights else LEAST_APART
    return bool(np.any(between_heads > np.maximum(max(least, LEAST_ERRORS * error), LEAST_TIMES * between_tokens)))


def _again(values: Float[np.ndarray, "draw *shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the square of what draws have in common: the mean product of two of them."""
    return np.asarray((np.square(values.sum(axis=0)) - np.square(values).sum(axis=0)) / (DRAWS * (DRAWS - 1)))


def _means(balance: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over an axis of what is heard, 0 where nothing is."""
    loud = np.isfinite(balance)
    return np.asarray(np.where(loud, balance, 0).sum(axis=axis) / np.maximum(loud.sum(axis=axis), 1))


def told_of_places(heard: Heard, stripes: Sequence[Stripes], rows: int, columns: int) -> "list[tuple[Stripes, Told]]":
    """Return what the tokens of a grid of so many rows and columns tell by each of the stripes that it resolves."""
    balance = heard.balance_of_tokens()
    return [
        (each, Told.of(balance[:, index], each.on(rows, columns).ravel()))
        for index, each in enumerate(stripes)
        if each.resolved(rows, columns)
    ]


def correlation(told: "Sequence[tuple[Stripes, Told]]") -> float:
    """Return the mean correlation over the coarse stripes."""
    coarse = [found.correlation for stripes, found in told if stripes.level <= COARSE]
    return float(np.mean(coarse)) if coarse else 0.0


def answer(told: "Sequence[tuple[Stripes, Told]]") -> float:
    """Return how much more of their own half than of the other tokens hear, the mean over the coarse stripes."""
    return float(
        np.mean([found.correlation * math.sqrt(found.loud) for stripes, found in told if stripes.level <= COARSE])
    )


def evident(told: "Sequence[tuple[Stripes, Told]]", tokens: int, least: float = LEAST_EVIDENCE) -> bool:
    """Return whether what so many tokens hear tells, by `least` standard errors, that they stand row by row."""
    coarse = sum(stripes.level <= COARSE for stripes, _ in told)
    return not coarse or correlation(told) * math.sqrt(DRAWS * tokens * coarse) >= least


def out_of_place(told: "Sequence[tuple[Stripes, Told]]", tokens: int) -> str | None:
    """Return what says that so many tokens do not stand row by row on the image; None if nothing does."""
    for stripes, found in told:
        if stripes.level > COARSE:
            continue
        sure = max(LEAST_AGAIN, SURE * found.loud / math.sqrt(tokens))
        chosen = stripes.level == 1 and found.loud >= CLEAR and found.correlation < LEAST_CORRELATION
        if chosen or (found.again > sure and found.share < LEAST_TOLD):
            return (
                f"each hears of one half of the image, in {2 ** (stripes.level - 1) + 1} stripes along {stripes.axis}, "
                f"which is not the one where it should stand (correlation {found.correlation:.2g})"
            )
    return None


@dataclass(frozen=True)
class Told:
    """What tokens tell of the half of an image in which they stand, by some stripes.

    `loud` is the mean square of how much more they hear of one half, `again` what of it other noise gives again,
    `correlation` that with the half in which they should stand, and `share` what part of `again` this explains, below 0
    where it is the other half.
    """

    loud: float
    again: float
    correlation: float
    share: float

    @classmethod
    def of(cls, balance: Float[np.ndarray, "draw token"], second: Float[np.ndarray, "token"]) -> "Told":
        """Return it for tokens of which `second` is the share that stands in the second half."""
        heard = balance - balance.mean(axis=-1, keepdims=True)
        place = second - second.mean()
        loud, again = float(np.square(heard).mean()), float(_again(heard).mean())
        size = float(np.square(place).mean())
        together = float((heard * place).mean())
        correlation = together / math.sqrt(loud * size) if loud else 0.0
        share = math.copysign(together**2 / size / again, together) if again > 0 else 0.0
        return cls(loud, again, correlation, share)
