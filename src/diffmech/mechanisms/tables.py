"""The tables of entropy, of phases, clusters and names of heads, of complexity, and the account of mechanisms."""

from diffmech.attention.tables import HEAD, KIND, SITE
from diffmech.data.tables import DOMAIN
from diffmech.models.tables import TIMESTEP, N
from diffmech.tables import Column, Table, flag, interval, number, text, whole

HOLM = "Holm 1979"
SHANNON = "Shannon 1948"
N_FIRST = whole("images of the first domain, or groups of them")
N_SECOND = whole("images of the second domain, or groups of them")
P = number(
    "p-value under permuted domain labels; of what images are told, under random signs", source="Phipson & Smyth 2010"
)

ENTROPY = Table(
    name="entropy",
    path="results/entropy/{model}/heads.csv",
    row="a head at a timestep in one domain",
    about="How widely each head attends.",
    columns={
        "domain": DOMAIN,
        "head": HEAD,
        "site": SITE,
        "kind": KIND,
        "timestep": TIMESTEP,
        "entropy": number("mean over queries and images of -sum p ln p", "nat", SHANNON),
        **interval("the entropy", "nat"),
        "h_max": number("largest entropy there could be: ln(keys)", "nat"),
        "normalised": number("entropy / h_max"),
        "effective_keys": number("mean over images of exp(entropy): so many keys with equal weights"),
        "beside_mass": number(
            "mean share of the attention of the image's queries that goes to the text of joint attention, or to extra "
            "tokens; empty where neither stands beside the image"
        ),
        "untrained_entropy": number("mean entropy over untrained copies of the denoiser", "nat"),
        **{
            f"untrained_{end}": number(f"{word} of it over the untrained copies", "nat")
            for end, word in (("low", "smallest"), ("high", "largest"))
        },
        "n": N,
    },
)

DIVERGENCE = Table(
    name="divergence",
    path="results/entropy/{model}/divergence.csv",
    row="an effect at a timestep on one kind of attention",
    about="Whether the heads of a kind attend otherwise in one domain than in the other.",
    columns={
        "effect": text("image: of the domains' images under one condition; told: of what they are told; interaction"),
        "timestep": TIMESTEP,
        "kind": KIND,
        "divergence": number("mean over heads of the absolute difference of mean entropies", "nat"),
        **interval("the divergence", "nat", how="resampled errors"),
        "share": number("mean over heads of each head's difference as a share of ln(keys)"),
        "floor": number("mean divergence under the null: absolute values are never 0", "nat"),
        "floor_high": number("95 % quantile of the divergence under the null", "nat"),
        "p": P,
        "p_holm": number("p after Holm's correction over timesteps and kinds", source=HOLM),
        "jensen_shannon": number("Jensen-Shannon divergence of the entropies over images, mean over heads", "nat"),
        "jensen_shannon_floor": number("mean of the same under permuted labels", "nat"),
        "untrained_divergence_max": number("largest divergence of untrained copies over timesteps of this kind", "nat"),
        "p_untrained": number(
            "rank among the largest divergences of the untrained copies", source="Westfall & Young 1993"
        ),
        "smallest": number("divergence that would be found four times in five", "nat"),
        "significant": flag("whether p_holm and p_untrained are at most alpha"),
        "p_least": number("smallest p_holm that so many images and permutations allow"),
        "untrained_n": whole("images per domain, or groups, that the untrained copies saw"),
        "n_first": N_FIRST,
        "n_second": N_SECOND,
        "condition": text("what images are told where the effect of the image is taken"),
    },
)

FACTORIAL = Table(
    name="factorial",
    path="results/entropy/{model}/factorial.csv",
    row="an effect on a head at a timestep",
    about="What the image does to each head's entropy, what telling does, and what both do together.",
    columns={
        "timestep": TIMESTEP,
        "head": HEAD,
        "site": SITE,
        "kind": KIND,
        "effect": text("image, told, interaction, or raw: their sum"),
        "estimate": number("difference of mean entropies, first domain less second", "nat"),
        **interval("the difference", "nat"),
        "n_first": N_FIRST,
        "n_second": N_SECOND,
        "p": P,
        "p_holm": number("p after Holm's correction over heads and timesteps", source=HOLM),
        "p_untrained": number("rank among the largest effects of untrained copies", source="Westfall & Young 1993"),
        "untrained_max": number("largest effect of the untrained copies over heads and timesteps of this kind", "nat"),
        "significant": flag("whether p_holm and p_untrained are at most alpha"),
    },
)

SEEN_DIVERGENCE = Table(
    name="seen_divergence",
    path="results/entropy/{model}/seen.csv",
    row="a kind of attention at a timestep in one domain",
    about="Whether heads attend otherwise to images that the denoiser was trained on.",
    columns={
        "domain": DOMAIN,
        "timestep": TIMESTEP,
        "kind": KIND,
        "divergence": number("mean over heads of the absolute difference of mean entropies, seen and unseen", "nat"),
        **interval("the divergence", "nat", how="resampled errors"),
        "floor": number("mean divergence under permuted labels", "nat"),
        "floor_high": number("95 % quantile of the divergence under permuted labels", "nat"),
        "p": number("p-value under permuted labels of seen and unseen", source="Phipson & Smyth 2010"),
        "p_holm": number("p after Holm's correction over domains, timesteps and kinds", source=HOLM),
        "p_least": number("smallest p_holm that so many images and permutations allow"),
        "n_seen": whole("images that the denoiser was trained on"),
        "n_unseen": whole("images that it was not trained on"),
    },
)

PHASES = Table(
    name="phases",
    path="results/mechanisms/{model}/phases.csv",
    row="a captured timestep",
    about="The phases of the diffusion: contiguous timesteps at which heads do much the same.",
    columns={
        "timestep": TIMESTEP,
        "phase": whole("number of the phase, from 1 at the clean end", ""),
        "phase_first": whole("its first timestep", ""),
        "phase_last": whole("its last timestep", ""),
        "stability": number("mean over the phase borders of the share of resampled image sets that have them"),
    },
)

CLUSTERS = Table(
    name="clusters",
    path="results/mechanisms/{model}/clusters.csv",
    row="a number of clusters that was tried for one kind of attention",
    about="How well the heads fall into so many clusters.",
    columns={
        "kind": KIND,
        "k": whole("number of clusters"),
        "chosen": flag("whether mechanisms are these clusters"),
        "requested": whole("number of clusters that was asked for"),
        "observations": whole("heads x phases that were clustered"),
        "silhouette": number("silhouette of the clusters", source="Rousseeuw 1987"),
        "bic": number("Bayesian information criterion of a Gaussian mixture", source="Schwarz 1978"),
        "ari_mixture": number("adjusted Rand index of k-means and the mixture", source="Hubert & Arabie 1985"),
        "ari_sample_bootstrap": number("the same over resampled images, mean", source="Hubert & Arabie 1985"),
        "ari_seeds": number("the same over seeds of k-means, mean", source="Hubert & Arabie 1985"),
    },
)

_IN_PHASE = {
    "head": HEAD,
    "site": SITE,
    "kind": KIND,
    "phase": whole("phase of the diffusion", ""),
    "phase_first": whole("first timestep of the phase", ""),
    "phase_last": whole("last timestep of the phase", ""),
    "mechanism": text("cluster of heads, self-1 being the largest of self-attention"),
}
STABILITY = number("Jaccard index of the mechanism over resampled images, mean", source="Hennig 2007")
FEATURES = "features of the head that are clustered (`diffmech.mechanisms.descriptors`)"

MEMBERS = Table(
    name="members",
    path="results/mechanisms/{model}/members.csv",
    row="a head in a phase",
    about="Which heads form a cluster.",
    columns={**_IN_PHASE, "stability": STABILITY},
    more=FEATURES,
)


def _evidence(where: str) -> dict[str, Column]:
    return {
        "probe": text(f"what attracts the mechanism most{where}"),
        "enrichment": number(f"attention on the probe over that of uniform attention{where}", "times uniform"),
        "excess": number(f"share of attention on the probe beyond chance{where}", source="kappa: Cohen 1960"),
        "p_rolled_holm": number(f"p against maps rolled in space, after Holm's correction{where}", source=HOLM),
        "p_content_holm": number(f"p against the maps of other images, after Holm's correction{where}", source=HOLM),
        "p_untrained": number(f"rank of the excess among untrained copies{where}", source="Westfall & Young 1993"),
    }


def _of_domain(ending: str) -> dict[str, Column]:
    where = f", in the {ending.removeprefix('_')} domain"
    evidence = {f"{name}{ending}": column for name, column in _evidence(where).items()}
    return {
        f"domain{ending}": text(f"the {ending.removeprefix('_')} domain"),
        f"label{ending}": text(f"name of the mechanism{where}, or unassigned"),
        f"reason{ending}": text(f"why there is none{where}"),
        **evidence,
    }


def _of_head(ending: str) -> dict[str, Column]:
    where = f" in the {ending.removeprefix('_')} domain"
    return {
        f"found_on{ending}": whole(f"images{where} on which clusters were found"),
        f"tested_on{ending}": whole(f"other images{where}, of which all evidence is"),
        f"enrichment_of_head{ending}": number(f"enrichment of the head itself{where}", "times uniform"),
        f"p_of_head{ending}": number(f"p-value of the head itself{where}, uncorrected"),
        f"confirmed{ending}": flag(f"whether the head itself is attracted{where}"),
    }


MECHANISMS = Table(
    name="mechanisms",
    path="results/mechanisms/{model}/heads.csv",
    row="a head in a phase",
    about="What each head does, by the mechanism that it belongs to, and what speaks for that name.",
    columns={
        **_IN_PHASE,
        "label": text("name of the mechanism that holds in both domains, or unassigned"),
        "reason": text("why there is no name"),
        **_evidence(", in the domain that says less"),
        "smallest_excess": number("excess that would be found four times in five"),
        **_of_domain("_first"),
        **_of_domain("_second"),
        **_of_head("_first"),
        **_of_head("_second"),
        "enrichment_of_head": number("enrichment of the head itself, the lower of both domains", "times uniform"),
        "p_of_head": number("p-value of the head itself, the larger of both domains"),
        "confirmed": flag("whether the head itself is attracted in both domains, and the mechanism has a name"),
        "stability": STABILITY,
    },
    more=FEATURES,
)

COMPLEXITY = Table(
    name="complexity",
    path="results/complexity/{model}.csv",
    row="a measure of complexity",
    about="How much more of the network one domain engages than the other.",
    columns={
        "variant": text(
            "effective_heads_(kind), a number of heads; effective_keys_(kind), a share of the keys: mean exp(entropy) "
            "/ keys; or activation_participation, a number of dimensions"
        ),
        "condition": text("what the images are told where it is measured"),
        "domain_first": text("the first domain"),
        "first": number("the measure in the first domain"),
        "domain_second": text("the second domain"),
        "second": number("the measure in the second domain"),
        "ratio": number("first / second", source="ours, counterpart of arXiv 2506.17237"),
        **interval("the ratio"),
        "p": number("p-value under permuted domain labels, two-sided in ln(ratio)", source="Phipson & Smyth 2010"),
        "n_first": N_FIRST,
        "n_second": N_SECOND,
        "p_holm": number("p after Holm's correction over all measures", source=HOLM),
        "p_least": number("smallest p_holm that so many images and permutations allow"),
        **{
            f"untrained_{end}": number(f"{word} ratio of the untrained copies")
            for end, word in (("low", "smallest"), ("high", "largest"))
        },
        "untrained_n": whole("images per domain that the untrained copies saw"),
        "p_untrained": number("rank of the ratio among the untrained copies"),
        "p_untrained_max": number("the same over all measures that copies have", source="Westfall & Young 1993"),
        "smallest_ratio": number("ratio above 1 that would be found four times in five"),
        "significant": flag("whether the interval holds no 1, both corrected p are at most alpha, and sides agree"),
    },
)

ACCOUNT = Table(
    name="account",
    path="results/account/{model}.csv",
    row="a mechanism in one domain",
    about="What is known of each mechanism: whether it matters, when most, and what it does to whole images.",
    columns={
        "mechanism": _IN_PHASE["mechanism"],
        "label": text("name of the mechanism in this domain"),
        "domain": DOMAIN,
        "heads": whole("heads of the mechanism"),
        "verdict": text("what may be claimed of removing it over all timesteps"),
        "effect_percent": number("change of the denoising loss, or output shift, when it is removed", "%"),
        **interval("the effect", "%"),
        "p_zero_max": number("p against no effect, corrected over all targets", source="Westfall & Young 1993"),
        "smallest_effect": number("effect that would be found four times in five", "%"),
        "control_mean": number("mean effect of removing matched heads", "%"),
        **interval("the effect of removing matched heads", "%", "control_", "quantiles over sets"),
        "p_control_adjusted": number("p against matched heads and random choices, corrected"),
        "smallest_effect_control": number("effect that would exceed its controls four times in five", "%"),
        "controls": whole("sets of matched heads"),
        "controls_fair": flag("whether these sets match in every domain"),
        "n": N,
        "window": text("window of timesteps in which removing it matters most, empty where in none"),
        "window_effect": number("effect in that window", "%"),
        **interval("the effect in that window", "%", "window_"),
        "window_p_zero_max": number("p against no effect in that window, corrected"),
        "window_p_control_adjusted": number("p against matched heads in that window, corrected"),
        "window_verdict": text("what may be claimed of that window"),
        "attributes": text("attributes that whole images lose or gain; none; or not measured"),
        "attributes_beyond": text("those that fair controls change less"),
        "attributes_flipped": text("those whose verdict flips in some image"),
        "attribute": text("the attribute that changes most"),
        "attribute_measure": text("attribute: the judge's probability; asked: counted towards what was asked for"),
        "attribute_change": number("median change of the judge's probability"),
        **interval("that change", prefix="attribute_"),
        "attribute_p_holm": number("p of the exact sign test, after Holm's correction", source="Arbuthnott 1710"),
        "attribute_flipped": number("share of images whose verdict flips"),
        **interval("the same without matched heads", prefix="attribute_control_", how="quantiles over sets"),
        "attribute_controls": whole("sets of matched heads whose images were made"),
        "attribute_p_control_adjusted": number("p of that change among those without matched heads, corrected"),
        "attribute_verdict": text("what may be claimed of that change"),
    },
)
