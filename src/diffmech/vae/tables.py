"""The tables of the study of VAEs. Those of one VAE have its family and seed in their path, all others are of all VAEs
of a data set."""

from diffmech.tables import Table, flag, interval, number, text, whole

CES = "arXiv 2505.03530, by a third party"
RANK = "Phipson & Smyth 2010"
SOBOL = "Jansen 1999; Lamboni et al. 2011"
MAX_T = "Westfall & Young 1993"
POSTERIOR = "arXiv 2603.21236"
PEARL = "Pearl 2001; VanderWeele 2014"
OF_ONE = "results/vae/{data}/{family}/{vae_seed}/"
OF_ALL = "results/vae/{data}/"
FAMILY = text("family, as config.yaml calls it")
SEED = whole("seed of the training")
FACTOR = text("factor of the images")
LATENT = whole("latent, from 0")
LAYER = text("layer, `encoder.` or `decoder.` and its name")
SD = "sd of the aggregate posterior"
PAIRS = "bootstrap over pairs of images"
SEEDS = "t over seeds"
OF_A_VAE = {"family": FAMILY, "vae_seed": SEED}

MODELS = Table(
    name="vae_models",
    path=OF_ALL + "models.csv",
    row="a VAE",
    about="Whether each VAE has learned its images, before anything is claimed of it.",
    columns={
        **OF_A_VAE,
        "reconstruction": number(
            "negative log-likelihood at the posterior mean or the codes, of images sampled anew", "nats"
        ),
        "mean_image": number("the same with the mean image for every image", "nats"),
        "bound": number("negative evidence lower bound", "nats", "Kingma & Welling 2014"),
        "learned": flag("whether reconstruction takes half of the mean image's nats and two latents are active"),
        "latents": whole("latents; empty for a grid of codes", "latents"),
        "active_latents": whole("latents whose mean has a variance above 0.01", "latents", "Burda et al. 2016"),
        "codes_in_use": number("perplexity of the codes, of a VQ-VAE", "codes", "van den Oord et al. 2017"),
        "parameters": whole("weights of its networks", "weights"),
        "steps": whole("steps of its training", "steps"),
        "seconds": number("duration of its training", "s"),
    },
)

LATENTS = Table(
    name="vae_latents",
    path=OF_ALL + "latents.csv",
    row="a latent of a VAE",
    about="What setting one latent does to the image that is decoded: how strong it is, and how specific.",
    columns={
        **OF_A_VAE,
        "latent": LATENT,
        "active": flag("whether its mean has a variance above 0.01", "Burda et al. 2016"),
        "deviation": number("its standard deviation under the aggregate posterior", "latent units"),
        "raw": number("mean Euclidean distance of D(z) and D(do(z_i + 1))", "pixel values", CES),
        **interval("that", "pixel values", "raw_", "bootstrap over images"),
        "per_pixel": number("the same as root mean square over pixels", "pixel values"),
        "calibrated": number("per pixel, shifted by one sd of the aggregate posterior", "pixel values", POSTERIOR),
        **interval("that", "pixel values", "calibrated_", "bootstrap over images"),
        "clamped": number("per pixel, set to its mean", "pixel values"),
        "swapped": number("per pixel, taken from another image", "pixel values"),
        "specificity": number("1 / (H(p) + eps) over pixels", "1 / nats", CES),
        "bounded": number("1 - H(p) / ln n over pixels"),
        "factor": text("factor that moves it most, in units of its own spread"),
        "over_factors": number("1 - H(p) / ln n over what factors move it"),
    },
)

EFFECTS = Table(
    name="vae_effects",
    path=OF_ALL + "effects.csv",
    row="a factor and a latent of a VAE",
    about="What changing one factor of the image does to each latent.",
    columns={
        **OF_A_VAE,
        "factor": FACTOR,
        "latent": LATENT,
        "change": number("mean absolute change of the posterior mean", SD),
        **interval("that", SD, how=PAIRS),
        "untrained": number("mean of the same over untrained twins, each in units of its own spread", SD),
        "pairs": whole("pairs of images", "pairs"),
    },
)

UNITS = Table(
    name="vae_units",
    path=OF_ALL + "units.csv",
    row="a unit of a layer of a VAE",
    about="Whether a unit responds to one factor or to several, beside untrained twins and permuted factors.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "unit": whole("unit (channel), from 0"),
        "factor": text("factor that it responds to most"),
        "share": number("share of that factor among the shares of its variance that need each", source=SOBOL),
        "participation": number("participation ratio 1 / sum of squared shares: how many factors, in effect"),
        "p_permuted": number("p of a ratio so small where factors are permuted over pairs", source=RANK),
        "p_untrained": number("p of a ratio so small among units of this layer in untrained twins"),
        "p_corrected": number("the larger of both, Benjamini-Hochberg over the units of a VAE"),
        "kind": text("`monosemantic`, `polysemantic`, or `silent`: changes in fewer than a tenth of the pairs"),
    },
)

PATCHING = Table(
    name="vae_patching",
    path=OF_ALL + "patching.csv",
    row="a layer of a VAE and a factor",
    about="How few units of a layer carry what a factor does, by patching them from the changed image.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "factor": FACTOR,
        "units": whole("units that are patched together, chosen on the other half of the pairs", "units"),
        "of": whole("units of the layer", "units"),
        "share": number("share of the change of the output that they carry"),
        **interval("that share", how=PAIRS),
        "random": number("the same of equally many units at random, mean over draws"),
        **interval("that of random ones", prefix="random_", how="quantiles of draws"),
        "half": whole("fewest units, taken alone and added up, that carry half of it; empty where none do", "units"),
    },
)

MEDIATION = Table(
    name="vae_mediation",
    path=OF_ALL + "mediation.csv",
    row="a layer of the encoder of a VAE and a factor",
    about="How much of what a factor does to the latent that it moves most goes through a few units.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "factor": FACTOR,
        "latent": LATENT,
        "units": whole("units that mediate, chosen on the other half of the pairs", "units"),
        **{
            column: cell
            for effect, words, source in (
                ("total", "total effect", PEARL),
                ("direct", "natural direct effect", PEARL),
                ("indirect", "natural indirect effect", PEARL),
                ("interaction", "mediated interaction", "VanderWeele 2014"),
            )
            for column, cell in (
                (effect, number(f"{words}, signed so that the total is positive on average", SD, source)),
                *interval(f"the {words}", SD, f"{effect}_", PAIRS).items(),
            )
        },
        "residual": number("largest absolute value of total - direct - indirect - interaction of a pair", SD),
        "random": number("natural indirect effect of equally many units at random, mean over draws", SD),
    },
)

MODULARITY = Table(
    name="vae_modularity",
    path=OF_ALL + "modularity.csv",
    row="a layer of a VAE",
    about="Whether the units of a layer change together when factors change.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "units": whole("units that change at all", "units"),
        "modularity": number("1 - mean absolute correlation of their changes", source=CES),
        "ceiling": number("the same of changes permuted over pairs, unit by unit: no unit goes with another"),
        "untrained": number("the same in untrained twins, mean"),
    },
)

MOTIFS = Table(
    name="vae_motifs",
    path=OF_ALL + "motifs.csv",
    row="a kind of motif in a VAE",
    about="Signed paths factor -> unit -> latent -> output that recur more often than in graphs of the same degrees.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "motif": text("kind of motif", "Milo et al. 2002; Alon 2007"),
        "found": whole("how often it occurs", "motifs"),
        "expected": number("mean number in random graphs of the same degrees", "motifs"),
        **interval("that number", "motifs", how="quantiles of random graphs"),
        "p": number("two-sided p among random graphs", source="Milo et al. 2002; Phipson & Smyth 2010"),
        "p_corrected": number("Holm over the motifs of a VAE; empty where degrees alone decide the number"),
    },
)

LINKS = Table(
    name="vae_links",
    path=OF_ALL + "links.csv",
    row="an edge of the graph of a VAE that motifs are counted in",
    about="Which factors move which units, which of these move which latents, which of these move which outputs.",
    columns={
        **OF_A_VAE,
        "layer": LAYER,
        "source": text("factor, unit or latent that is changed"),
        "target": text("unit, latent or output that it moves"),
        "level": text("`factor-unit`, `unit-latent` or `latent-output`"),
        "weight": number("change of the target where the source rises by its spread", "spread of the target"),
        "p_corrected": number("sign flips over pairs or images, max-T over the edges of its level", source=MAX_T),
    },
)

SCORES = Table(
    name="vae_scores",
    path=OF_ONE + "scores.csv",
    row="a score of a VAE",
    about="How well factors are told apart in the latents.",
    columns={
        "measure": text("which score"),
        "score": number("the score", source="see docs/vae.md"),
        "floor": number("the same of the codes dealt out anew among images, mean"),
        "floor_high": number("their largest"),
        "fit": number("the same on what its predictors were fitted on, where there are such"),
        "inputs": text("what it is of: means or codes, images, factors, how predicted"),
    },
)

EDGES = Table(
    name="vae_edges",
    path=OF_ONE + "edges.csv",
    row="a cause and an effect among the factors, seen at one level",
    about="Which factor causes which, by setting one while all others but the effect are held.",
    columns={
        "level": text("`generator`, `inputs` (read from the codes of the images) or `untrained` (fresh weights)"),
        "cause": text("factor that is set"),
        "effect": text("factor that is read"),
        "true": flag("whether the data set says that it is an effect of the cause"),
        "change": number("mean absolute change of the effect", "sd of the factor"),
        "floor": number("the same where the effect is held and all else changes", "sd of the factor"),
        "p_corrected": number("one-sided sign flips of change minus floor, Holm over the pairs of a level"),
        "edge": flag("whether it is called an edge: p at most alpha, and a change of at least 0.1"),
        "readout": number("R2 or share of right classes with which the effect is read from codes; empty above"),
    },
)

GRAPHS = Table(
    name="vae_graphs",
    path=OF_ALL + "graphs.csv",
    row="a causal graph that was estimated",
    about="How far each estimated graph is from the true one, beside random graphs.",
    columns={
        **OF_A_VAE,
        "level": text("`generator`, `inputs` or `untrained`"),
        "edges": whole("edges found", "edges"),
        "true_edges": whole("edges of the true graph", "edges"),
        "distance": whole("structural Hamming distance to it", "edges", "Tsamardinos et al. 2006"),
        "random": number("mean distance of random acyclic graphs with as many edges", "edges"),
        "p": number("share of random graphs that are as near, with the one found among them"),
        "readout": number("mean R2 or share of right classes with which factors are read from codes; empty above"),
    },
)

SWAPS = Table(
    name="vae_swaps",
    path=OF_ALL + "swaps.csv",
    row="a kind of swap of codes in a VQ-VAE",
    about="What takes the place of shifts where the latent is a grid of codes.",
    columns={
        **OF_A_VAE,
        "swap": text("`neighbour` (nearest code of the codebook), `random` (any other), `shift` (one place, one sd)"),
        "per_pixel": number("root mean squared change of the image, mean over images and places", "pixel values"),
        **interval("that", "pixel values", how="bootstrap over images"),
        "local": number("share of the squared change in the block of pixels that the place stands over"),
        "note": text("why it is undefined, where it is"),
    },
)

FAMILIES = Table(
    name="vae_families",
    path=OF_ALL + "families.csv",
    row="a measure of a family, beside the plain VAE",
    about="Whether a family differs from the plain VAE, over all seeds, also those that have not learned.",
    columns={
        "measure": text("score or effect"),
        "family": FAMILY,
        "mean": number("mean over seeds"),
        **interval("that mean", how=SEEDS),
        "difference": number("mean minus that of the plain VAE"),
        **interval("that difference", prefix="difference_", how=SEEDS),
        "p": number("Welch's t", source="Welch 1947"),
        "p_corrected": number("Holm-Sidak over the families", source="Holm 1979; Sidak 1967"),
        "n": whole("seeds", "VAEs"),
    },
)

RELATION = Table(
    name="vae_relation",
    path=OF_ALL + "relation.csv",
    row="a kind of effect strength and a score",
    about="Whether effect strength goes with disentanglement, over the VAEs of a data set that have learned.",
    columns={
        "strength": text("`raw`, `per_pixel` or `calibrated`, mean over active latents"),
        "measure": text("score"),
        "correlation": number("Spearman's"),
        **interval("that correlation", how="bootstrap over VAEs"),
        "within": number("the same of ranks within each family"),
        "p": number("permutation over VAEs", source=RANK),
        "n": whole("VAEs", "VAEs"),
    },
)

# Of all VAEs of a data set, which one job writes; SCORES and EDGES are of one VAE.
TABULATED = (
    MODELS,
    LATENTS,
    EFFECTS,
    UNITS,
    PATCHING,
    MEDIATION,
    MODULARITY,
    MOTIFS,
    LINKS,
    GRAPHS,
    SWAPS,
    FAMILIES,
    RELATION,
)
