"""Motifs of signed graphs factor -> unit -> latent -> output, and their number in random graphs of the same degrees.

An edge is positive where its target rises with its source, and negative where it falls. Counted are, after Milo et al.
2002 and, for signs, Mangan & Alon 2003 and Alon 2007:

- `positive chain`, `negative chain`: paths factor -> unit -> latent -> output of an even, an odd number of negative
  edges;
- `coherent units`, `incoherent units`: a factor, two units and a latent with an edge from the factor to either unit and
  from either unit to the latent (a bi-parallel motif), whose two paths have the same sign, or not;
- `coherent latents`, `incoherent latents`: the same from a unit through two latents to an output;
- `factor bi-fan`: two factors, each with an edge to either of two units, whatever the signs;
- `unit bi-fan`: two units, each with an edge to either of two latents;
- `fan-out`, `convergence`, `shared unit`: two units of one factor, two units on one latent, two factors of one unit.
  The degrees alone say how many of these there are, so that nothing is tested.

Random graphs keep, of every node, how many positive and how many negative edges come in from each level, and how many
go out to the next: by trades between two nodes of the same level, which deal out anew which of the two has which of
the edges that only one has, or has with the other sign (the curveball of Strona et al. 2014, which is uniform by
Carstens 2015; the signs are ours). No trade is likelier than its reverse, so that all graphs that trades reach are
equally likely. Levels are dealt out independently of each other.
"""

from dataclasses import dataclass

import numpy as np

TESTED = (
    *("positive chain", "negative chain", "coherent units", "incoherent units"),
    *("coherent latents", "incoherent latents", "factor bi-fan", "unit bi-fan"),
)
FIXED = ("fan-out", "convergence", "shared unit")  # by the degrees
MOTIFS = TESTED + FIXED
TRADES = 10  # per node of the smaller side of a level


@dataclass(frozen=True)
class Graph:
    """Edges -1, 0 or 1 from factors to units, `(..., factor, unit)`, on to latents, `(..., unit, latent)`, and on to
    outputs, `(..., latent, output)`."""

    units: np.ndarray
    latents: np.ndarray
    outputs: np.ndarray


def count_motifs(graph: Graph) -> np.ndarray:
    """Return how often each of `MOTIFS` occurs, `(..., motif)`."""
    first, second, third = (each.astype(np.float64) for each in (graph.units, graph.latents, graph.outputs))
    bare = tuple(np.abs(each) for each in (first, second, third))
    signed, paths = first @ second @ third, bare[0] @ bare[1] @ bare[2]
    of_units, of_latents = (_parallel(*each) for each in ((first, second), (second, third)))
    counts = (
        ((paths + signed) / 2).sum((-2, -1)),
        ((paths - signed) / 2).sum((-2, -1)),
        *of_units,
        *of_latents,
        _bi_fans(bare[0]),
        _bi_fans(np.swapaxes(bare[1], -1, -2)),
        _two_of(bare[0].sum(-1)).sum(-1),
        _two_of(bare[1].sum(-2)).sum(-1),
        _two_of(bare[0].sum(-2)).sum(-1),
    )
    return np.rint(np.stack(counts, axis=-1)).astype(np.int64)


def random_graphs(graph: Graph, draws: int, source: np.random.Generator) -> Graph:
    """Return `draws` random graphs, each array with them as its first axis, of the degrees and signs of `graph`."""
    return Graph(*(deal_out(edges, draws, source) for edges in (graph.units, graph.latents, graph.outputs)))


def deal_out(edges: np.ndarray, draws: int, source: np.random.Generator) -> np.ndarray:
    """Return the edges of a level, -1, 0 or 1 `(draw, source, target)`, dealt out anew: as many of each sign in each
    row and column as in `edges` `(source, target)`."""
    sources, targets = (np.flatnonzero(edges.any(axis)) for axis in (1, 0))  # a node without edges keeps none
    some = edges[np.ix_(sources, targets)].astype(np.int8)
    wide = some.shape[0] <= some.shape[1]
    graphs = np.repeat((some if wide else some.T)[None], draws, axis=0)
    if (nodes := graphs.shape[1]) > 1:
        for _ in range(TRADES * nodes):
            _trade(graphs, source)
    dealt = np.zeros((draws, *edges.shape), dtype=np.int8)
    dealt[np.ix_(np.arange(draws), sources, targets)] = graphs if wide else graphs.swapaxes(1, 2)
    return dealt


def _trade(graphs: np.ndarray, source: np.random.Generator) -> None:
    """Deal out anew between two nodes of each graph `(draw, node, other)` what they have not in common.

    That is of three kinds: of two nodes one has - and the other 0, or - and +, or 0 and +. The node with the higher of
    each is drawn, as often the first as before, up to once more or less in a way that keeps its edges of each sign:
    one more of the first and the third kind is one less of the second. The latter is a step of Metropolis et al. 1953
    to the number of ways in which the kinds can be dealt out.
    """
    draws, nodes, others = graphs.shape
    each = np.arange(draws)
    one = source.integers(nodes, size=draws)
    two = (one + source.integers(1, nodes, size=draws)) % nodes
    first, second = graphs[each, one], graphs[each, two]
    low, high = np.minimum(first, second), np.maximum(first, second)
    kind = np.where(low == high, 3, np.where(low == 0, 2, high)).astype(np.int8)
    of_kind = kind[:, None] == np.arange(3)[:, None]
    size, higher = of_kind.sum(2), (of_kind & (first > second)[:, None]).sum(2)
    step = source.choice([-1, 1], size=(draws, 1)) * np.array([1, -1, 1])
    ways = np.where(step > 0, (size - higher) / (higher + 1), higher / (size - higher + 1)).prod(1)
    higher += step * (source.random(draws) < ways)[:, None]
    dealt = np.argsort(2 * kind + source.random((draws, others), dtype=np.float32), axis=1)
    sizes = np.column_stack([size, np.zeros(draws, dtype=size.dtype)])
    at = np.take_along_axis(kind, dealt, axis=1)
    rank = np.arange(others) - np.take_along_axis(sizes.cumsum(1) - sizes, at, axis=1)
    wanted = np.take_along_axis(np.column_stack([higher, np.zeros(draws, dtype=higher.dtype)]), at, axis=1)
    takes = np.empty((draws, others), dtype=bool)
    np.put_along_axis(takes, dealt, rank < wanted, axis=1)
    graphs[each, one] = np.where(takes, high, low)
    graphs[each, two] = np.where(takes, low, high)


def _parallel(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pairs of paths through the middle level have the same sign, and how many opposite ones."""
    signed, paths = first @ second, np.abs(first) @ np.abs(second)
    positive, negative = (paths + signed) / 2, (paths - signed) / 2
    same = _two_of(positive) + _two_of(negative)
    return same.sum((-2, -1)), (positive * negative).sum((-2, -1))


def _bi_fans(edges: np.ndarray) -> np.ndarray:
    """Return how many pairs of rows share how many pairs of columns, of edges 0 or 1 `(..., row, column)`."""
    shared = edges @ np.swapaxes(edges, -1, -2)
    return np.triu(_two_of(shared), k=1).sum((-2, -1))


def _two_of(number: np.ndarray) -> np.ndarray:
    return number * (number - 1) / 2
