"""The tables of the study of concepts."""

from diffmech.attention.tables import HEAD, KIND
from diffmech.tables import Table, flag, interval, number, text, whole

CAD = "arXiv 2412.02542 (CAD)"
PROBED = "arXiv 2505.17013 (NeurIPS 2025)"
RANK = "Phipson & Smyth 2010"
CONCEPT = text("concept, as config.yaml calls it")
OBJECTIVE = text("`erase` or `amplify`")
DOSE = number("dose as in config.yaml: below 1 a share of each unit, from 1 on a number of weights")
COUNT = whole("weights that are changed, as realised", "weights")
EDIT = text("`own`, `original` or the baseline; random ones are averaged over their draws")
SEEDS = "bootstrap over seeds"
# Which edit a row is of.
OF_AN_EDIT = {"concept": CONCEPT, "objective": OBJECTIVE, "dose": DOSE, "count": COUNT}

MAP = Table(
    name="concept_map",
    path="results/concepts/{model}/map/{concept}.csv",
    row="a weight tensor in a window of timesteps, for one objective",
    about="Where and when weights carry a concept: sums of their scores.",
    columns={
        "concept": CONCEPT,
        "objective": OBJECTIVE,
        "weight": text("name of the tensor"),
        "group": text("its group"),
        "window": whole("window of timesteps, from 0 = most noise"),
        "first_timestep": whole("largest timestep of the window"),
        "last_timestep": whole("smallest timestep of the window"),
        "weights": whole("weights in the tensor", "weights"),
        "positive": number("sum of the positive scores, w dJ/dw", "J", CAD),
        "negative": number("sum of the negative scores", "J", CAD),
        "guided_steps": whole("guided sampling steps per image behind the scores", "steps"),
    },
)

FIDELITY = Table(
    name="concept_fidelity",
    path="results/concepts/{model}/fidelity/{concept}.csv",
    row="scores of one order for one objective",
    about="Whether scores predict: predicted against actual fall of J over random sets of weights set to 0.",
    columns={
        "concept": CONCEPT,
        "objective": OBJECTIVE,
        "order": text("`first` or `second`"),
        "r": number("Pearson correlation of predicted and actual fall", source=CAD),
        **interval("that correlation", how="bootstrap over sets"),
        "actual": number("mean actual fall of J", "J"),
        "predicted": number("mean predicted fall of J", "J"),
        "objective_value": number("J of the unchanged denoiser", "J", CAD),
        "masks": whole("random sets"),
        "count": whole("weights in each", "weights"),
    },
)

RATES = Table(
    name="concept_rates",
    path="results/concepts/{model}/rates.csv",
    row="an attribute, seen in the images of one edit that were or were not told to have it",
    about="How often the judge sees each attribute in images of the same seeds, before and after an edit.",
    columns={
        **OF_AN_EDIT,
        "edit": EDIT,
        "way": text("how images were asked for the concept: `asked`, `weak` or `base` (without it)"),
        "attribute": text("attribute that the judge looks for"),
        "told": flag("whether these images were told to have it"),
        "rate": number("share of them in which the judge sees it"),
        **interval("that share", how="score interval; of averages over draws bootstrap over seeds"),
        "n": whole("seeds"),
    },
)

JUDGED = Table(
    name="judge_confusion",
    path="results/concepts/{model}/judge_confusion.csv",
    row="one verdict of the judge on an attribute, in images that were told to have it or were not",
    about="What the judge is worth: its verdicts on drawn faces that it never saw, and on images of the unedited "
    "denoiser.",
    columns={
        "source": text("`held_out`: freshly drawn faces; `generated`: images of the denoiser before any edit"),
        "attribute": text("attribute that the judge looks for"),
        "told": flag("whether the image was told to have it; of drawn faces, whether it is drawn"),
        "seen": flag("whether the judge sees it"),
        "count": whole("images of this verdict", "images"),
        "n": whole("images told so", "images"),
        "rate": number("share of these with this verdict"),
        **interval("that share", how="score interval"),
        "balanced": number("mean of the shares told and seen, and not told and not seen; 0.5 by guessing"),
        **interval("that mean", prefix="balanced_", how="from both score intervals"),
    },
)

_AGAINST = "`own` minus the other edit"
EFFECTS = Table(
    name="concept_effects",
    path="results/concepts/{model}/effects.csv",
    row="one edit against the original or against a baseline of equally many weights",
    about="Whether an edit changes its concept, and what else, more than others do; paired over seeds.",
    columns={
        **OF_AN_EDIT,
        "against": text("`original` or the baseline; `uce` changes all values of cross-attention"),
        "target": number("rate of the concept after the edit"),
        "target_against": number("that of the other"),
        "target_change": number(f"difference of the two rates, {_AGAINST}"),
        **interval("that difference", prefix="target_", how=SEEDS),
        "p": number("that nothing tells the two edits of a seed apart (signs flipped at random)"),
        "p_corrected": number("the same, Holm over all doses and comparisons of the concept and objective"),
        "target_relative": number("difference over the rate of the other; empty where that is 0"),
        **interval("that ratio", prefix="target_relative_", how=SEEDS),
        "others": number("mean rate of the other attributes in images told to have them, with and without the concept"),
        "others_against": number("that of the other"),
        "others_relative": number("their difference over that of the other"),
        **interval("that ratio", prefix="others_relative_", how=SEEDS),
        "n": whole("seeds"),
    },
)

QUALITY = Table(
    name="concept_quality",
    path="results/concepts/{model}/quality.csv",
    row="images of one edit that were not asked for the concept",
    about="What an edit does to images without the concept: their distance from clean images, and their likeness.",
    columns={
        **OF_AN_EDIT,
        "edit": EDIT,
        "measure": text("`fd` or `kid`, distances in the features of the judge, or `ssim` to the original of the seed"),
        "original": number("distance of the originals from clean images of other seeds; 1 for ssim"),
        "change": number("what the edit adds to it; ssim minus 1"),
        **interval("the change of ssim", prefix="change_", how=SEEDS),
        "p": number("that nothing tells edited from original images apart (swapped at random); empty for ssim"),
        "n": whole("seeds"),
    },
)

PROBES = Table(
    name="concept_probes",
    path="results/concepts/{model}/probes.csv",
    row="one probe of an edit that erases a concept",
    about="Whether an erased concept is destroyed or avoided: how much of it comes back, and how.",
    columns={
        **OF_AN_EDIT,
        "probe": text(
            "`completion` (the unedited denoiser begins), `noise` (in every step) or `inversion` (a token is looked "
            "for)",
            source=PROBED,
        ),
        "setting": number("share of steps that the unedited denoiser does; eta; steps of the optimiser"),
        "rate": number("rate of the concept in the edited denoiser's images under the probe"),
        **interval("that rate", how="score interval"),
        "edited": number("the same without the probe"),
        "original": number("rate of the unedited denoiser; with noise, under the same"),
        "random": number("rate of an edit of as many weights at random, at the last hand-over; else empty"),
        "control": number("rate of a token that was looked for on images without the concept; empty of other probes"),
        "recovered": number("(rate - edited) / (original - edited); empty where the edit took nothing away"),
        **interval(
            "that share",
            prefix="recovered_",
            how="bootstrap over seeds, never narrower than the score interval of the rate; over all probes of the edit",
        ),
        "above_control": number("rate minus control"),
        **interval("that difference", prefix="above_control_", how="bootstrap over seeds"),
        "cut": whole("steps of `steps` in which eta is cut off", "steps"),
        "steps": whole("sampling steps", "steps"),
        "n": whole("seeds"),
    },
)

ATTENTION = Table(
    name="concept_attention",
    path="results/concepts/{model}/attention.csv",
    row="a head at a timestep under one edit, or all heads of a kind over all timesteps",
    about="What an edit does to attention: its entropy before and after, on the same noisy images.",
    columns={
        **OF_AN_EDIT,
        "head": text("attention head, or all of its kind"),
        "kind": KIND,
        "timestep": text("timestep of the scheduler, or all"),
        "before": number("mean entropy in the unedited denoiser, over images and queries", "nat", "Shannon 1948"),
        "after": number("the same in the edited one", "nat"),
        "change": number("after minus before: below 0 attention concentrates, above it disperses", "nat"),
        **interval("that change", "nat"),
        "h_max": number("largest entropy there could be: ln(keys), mean over heads", "nat"),
        "p_corrected": number(
            "p that there is no change (random signs over images), corrected by the largest statistic over heads and "
            "timesteps of the edit, or over kinds",
            source="Westfall & Young 1993",
        ),
        "random": number("mean change by edits of as many weights at random in each matrix", "nat"),
        **interval("that change", "nat", "random_"),
        "p_random": number("p that the change is that of these edits, corrected alike", source="Westfall & Young 1993"),
        "n": whole("images"),
    },
)

HEADS = Table(
    name="concept_heads",
    path="results/concepts/{model}/heads.csv",
    row="an attention head, for one concept and objective",
    about="In which attention heads weights carry a concept: sums of their scores.",
    columns={
        "concept": CONCEPT,
        "objective": OBJECTIVE,
        "head": HEAD,
        "kind": KIND,
        "positive": number("sum of the positive scores of its weights, w dJ/dw", "J", CAD),
        "negative": number("sum of the negative scores", "J", CAD),
        "causal": flag("whether the main study found it causal; false where it was not asked"),
    },
)

OVERLAP = Table(
    name="concept_overlap",
    path="results/concepts/{model}/overlap.csv",
    row="components of one sign, for one concept and objective",
    about="Whether weights that carry a concept lie in heads that the main study found causal.",
    columns={
        "concept": CONCEPT,
        "objective": OBJECTIVE,
        "sign": text("`positive`: the highest scores; `negative`: the lowest"),
        "components": whole("attention weights of these scores", "weights"),
        "heads": whole("attention heads"),
        "causal_heads": whole("heads that the main study found causal"),
        "share": number("share of the components that lie in causal heads"),
        "expected": number("mean of that share for as many weights at random in each matrix"),
        **interval("that share", prefix="expected_", how="2.5 and 97.5 % of these"),
        "p_components": number("p that they lie where weights at random do", source=RANK),
        "p_heads": number("p that other heads of the same layers are as good, exchanged at random", source=RANK),
        "p": number("the larger of both", source="Berger 1982"),
        "p_corrected": number("the same after Holm's correction over all rows", source="Holm 1979"),
    },
)
