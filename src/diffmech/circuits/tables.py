"""The tables of a circuit: its heads, how it was found, what is left without it, and the paths between its heads."""

from diffmech.attention.tables import HEAD, KIND, SITE
from diffmech.models.tables import N
from diffmech.tables import Table, flag, interval, number, text, whole

WANG = "Wang et al. 2023"
FIELLER = "Fieller 1954"

HEADS = Table(
    name="circuit_heads",
    path="results/circuit/{model}/{dataset}/heads.csv",
    row="a head at a timestep, or over all",
    about="The heads of the network as a circuit of one domain sees them.",
    columns={
        "head": HEAD,
        "site": SITE,
        "kind": KIND,
        "rank": whole("place in the ranking that the search took, from 1", ""),
        "effect": number("what the ranking ranks: change of the loss without the head"),
        "in_circuit": flag("whether the head was chosen"),
        "timestep": text("timestep of the scheduler, or all"),
        "drop": number("by how much faithfulness drops without this head of the circuit", source=WANG),
        **interval("the drop", how=FIELLER),
        "p_needed": number("p of no drop, corrected over heads (or heads x timesteps)", source="Westfall & Young 1993"),
        "needed": flag("whether p_needed is at most alpha"),
        "minimality": number("drop without the head once others are gone, the largest tried", source=WANG),
        **interval("the minimality", prefix="minimality_", how=FIELLER),
        "without": text("the other heads that were gone"),
    },
)

CURVE = Table(
    name="circuit_curve",
    path="results/circuit/{model}/{dataset}/curve.csv",
    row="a number of kept heads of one ranking",
    about="Share of what all heads contribute, by the number of heads that are kept.",
    columns={
        "ranking": text("exact, attribution, chance, the circuit itself, or random circuits"),
        "size": whole("heads that are kept"),
        "faithfulness": number("0 = as without any head, 1 = as the whole model", source=WANG),
        **interval("the faithfulness", how=FIELLER),
        "sets": whole("sets of heads that this is the mean of"),
    },
)

SUBSETS = Table(
    name="circuit_subsets",
    path="results/circuit/{model}/{dataset}/subsets.csv",
    row="a set of heads that is taken out of the circuit and of the model",
    about="Whether the circuit is complete: without the same heads, circuit and model should be hurt alike.",
    columns={
        "how": text("how the set was chosen: all of the circuit, at random, or greedily"),
        "size": whole("heads of the set"),
        "removed": text("the heads of the set"),
        "circuit_without": number("faithfulness of the circuit without the set", source=WANG),
        "model_without": number("faithfulness of the model without the set", source=WANG),
        "incompleteness": number("absolute difference of the two", source=WANG),
        **interval("the incompleteness", how=FIELLER),
    },
)

EDGES = Table(
    name="circuit_edges",
    path="results/circuit/{model}/{dataset}/edges.csv",
    row="a path from a head of the circuit",
    about="Through which later heads each head of the circuit acts.",
    columns={
        "sender": text("head whose output is replaced"),
        "receiver": text("later head that alone hears of it, or output"),
        "path": text("edge, direct, mediated, total or residual: how the effect reaches the output"),
        "effect_percent": number("effect on the loss along this path, in percent of the clean loss", "%", WANG),
        **interval("the effect", "%"),
        "p": number("p against no effect: random signs over images", source="Phipson & Smyth 2010"),
        "p_holm": number("the same after Holm's correction over all paths", source="Holm 1979"),
        "significant": flag("whether p_holm is at most alpha"),
        "n": N,
    },
)
