"""The tables that say what was found of a planted denoiser."""

from diffmech.attention.tables import HEAD
from diffmech.data.tables import DOMAIN
from diffmech.tables import Table, flag, interval, number, text, whole

RECOVERY = Table(
    name="recovery",
    path="results/planted/{model}/recovery.csv",
    row="a head in one domain",
    about="What each planted head was said to do, and whether that is right.",
    columns={
        "domain": DOMAIN,
        "head": HEAD,
        "role": text("role that was planted"),
        "planted_label": text("name that the role should be given, or unassigned"),
        "label": text("name that the head was given"),
        "label_right": flag("whether the two agree"),
        "causal": flag("whether removing the head should raise the loss in this domain"),
        "effect_percent": number("change of the denoising loss when it is removed", "%"),
        **interval("the effect", "%"),
        "p_zero_holm": number("p against no effect, after Holm's correction", source="Holm 1979"),
        "p_zero_max": number("p against no effect, corrected by the largest statistic", source="Westfall & Young 1993"),
        "p_untrained": number("rank of the rise among the largest of untrained copies"),
        "significant": flag("whether a rise was found"),
        "effect_right": flag("whether that is right"),
    },
)

PAIRS = Table(
    name="pairs",
    path="results/planted/{model}/pairs.csv",
    row="a pair of heads in one domain",
    about="Which pairs of heads stand in for each other.",
    columns={
        "domain": DOMAIN,
        "first": HEAD,
        "second": HEAD,
        "planted": flag("whether the pair was planted as a redundant one"),
        "effect_first": number("change of the loss without the first head", "%"),
        "effect_second": number("change of the loss without the second head", "%"),
        "effect_both": number("change of the loss without both", "%"),
        "interaction": number("effect of both less the sum of the single ones", "%"),
        "p_holm": number("p of no interaction, after Holm's correction over pairs", source="Holm 1979"),
        "redundant": flag("whether the pair was found to be redundant"),
    },
)

SUMMARY = Table(
    name="planted_summary",
    path="results/planted/{model}/summary.csv",
    row="what was to be found",
    about="Precision and recall of everything that was planted.",
    columns={
        "what": text("label, effect, mechanism or redundant pair"),
        "planted": whole("how many were planted"),
        "found": whole("how many were found"),
        "right": whole("how many of these are right"),
        "precision": number("right / found"),
        "recall": number("right / planted"),
    },
)
