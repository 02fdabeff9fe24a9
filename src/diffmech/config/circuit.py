"""`circuit` and `discovery`: which heads carry the computation."""

from typing import Annotated, Literal

from pydantic import Field

from diffmech.config.section import Count, Inference, Method, Probability, Section


class CircuitConfig(Section):
    """Attribution patching: the effect of ablating each head, estimated from gradients, beside the exact one."""

    method: Method | None = Field(
        None, description="What replaces a head's output, one of ablation.methods; null = the first of them."
    )
    samples: Count | None = Field(None, description="Images per domain; null = ablation.samples.")
    steps: Annotated[int, Field(ge=0)] = Field(
        1, description="Steps of integrated gradients beside the plain gradient; 0 = the plain gradient alone."
    )
    path: Literal["site", "joint"] = Field(
        "site",
        description="What moves together along the steps: the heads of one site (a run per site), or all heads.",
    )
    draws: Count = Field(2000, description="Bootstrap draws over images behind every interval.")
    confidence: Probability = Field(0.95, description="Coverage of the intervals.")


class DiscoveryConfig(Inference):
    """Circuit discovery: the fewest heads that bring most of what all heads contribute, all others ablated."""

    faithfulness: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of what all heads contribute that the circuit must reach, on the images that choose it."
    )
    search: Literal["ranked", "greedy"] = Field(
        "ranked",
        description="ranked = shortest prefix of a ranking of the heads, pruned; greedy = all heads, taken out one by "
        "one (about half of heads^2 sets).",
    )
    ranking: Literal["exact", "attribution"] = Field(
        "exact",
        description="What ranks the heads: exact = their ablation; attribution = estimates from gradients, with "
        "circuit.steps and circuit.path.",
    )
    samples: Annotated[int, Field(ge=4)] | None = Field(
        None, description="Images per domain: the first half chooses, the other half tests; null = ablation.samples."
    )
    timesteps: Count | None = Field(
        None, description="How many of the timesteps at which heads are ablated, spread evenly; null = all of them."
    )
    contribution: Annotated[float, Field(ge=0)] = Field(
        5.0,
        description="Percent by which the loss must at least rise without any head for there to be a circuit (lower "
        "end of the interval); heads of random weights reach about 2.",
    )
    random_circuits: Annotated[int, Field(ge=20)] = Field(100, description="Random circuits of the same size.")
    random_elsewhere: Annotated[int, Field(ge=0)] = Field(
        5, description="Random circuits at half and at twice the size; 0 = none."
    )
    control_samples: Count | None = Field(
        None, description="Images of the test half on which random circuits run; null = all of it."
    )
    permutations: Count = Field(2000, description="Random signs of the images behind the p-value of every path.")
    graph_heads: Annotated[int, Field(ge=0)] = Field(
        16, description="Most heads between which paths are measured, those worth most; 0 = no paths."
    )
