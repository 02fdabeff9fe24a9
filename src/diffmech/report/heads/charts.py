"""The charts of the main study in the order of its page, as declarations: importing this imports nothing that draws."""

from diffmech.charts import Chart, declared_in

MEASURES = "diffmech.measures"  # each module in it may declare charts of its own

# What functions that draw may ask for beside tables.
FACTS = {
    "domains": "the two domains, in the order of the study",
    "sites": "the layers of attention, in the order in which they run",
    "heads": "all heads, layer by layer in that order",
    "ablation": "the settings of the ablation",
    "references": "published figures and definitions, with their sources",
}

# The section of the page at whose end those charts of a chapter stand that a measure declares.
CHAPTERS = {
    "1 Images": "domains",
    "2 Denoiser": "denoiser",
    "3 Entropy": "entropy",
    "4 Mechanisms": "mechanisms",
    "5 Ablation": "ablation",
    "6 Patching": "patching",
    "7 Circuit": "circuit",
    "8 Complexity": "complexity",
}

MEASURED_ON = (
    "with {{ '%g' | format(100 * settings['ablation']['confidence']) }} % intervals from"
    " {{ settings['ablation']['draws'] }} bootstrap draws over images; {{ settings['ablation']['samples'] }} images per"
    " domain"
)


def _interval(section: str) -> str:
    """Return the coverage of the intervals of one analysis, e.g. `95 % intervals`."""
    return "{{ '%g' | format(100 * settings['" + section + "']['confidence']) }} % intervals"


def _effect(what: str) -> str:
    """Return what an effect of ablation is, e.g. of `one head is`."""
    measure = "{{ 'Output shift' if settings['latents']['kind'] == 'trajectory' else 'Change of the denoising loss' }}"
    return f"{measure} when {what} replaced"


CHARTS = (
    Chart(
        name="power_spectrum",
        chapter="1 Images",
        caption=(
            "Mean power of the {{ 'matched ' if settings['images']['match'] and"
            " settings['models'][settings['study']['model']]['source'] != 'pipeline' else '' }}images by spatial"
            " frequency. Where the lines part, one domain has more structure of that size, from which a difference"
            " between the domains further on may come."
        ),
        tables=("comparison",),
        draw="diffmech.report.heads.charts_model:power_spectrum",
    ),
    Chart(
        name="heldout_loss",
        chapter="2 Denoiser",
        caption=(
            "Denoising loss per timestep on images used for training (solid) and images kept out of it (dashed), with"
            " 95 % intervals over images. A gap between solid and dashed is a sign of memorisation."
        ),
        tables=("heldout",),
        draw="diffmech.report.heads.charts_model:heldout_loss",
    ),
    Chart(
        name="training_history",
        chapter="2 Denoiser",
        caption="Training loss over optimiser steps, as recorded beside the weights of the denoiser.",
        tables=("history",),
        draw="diffmech.report.heads.charts_model:training_history",
    ),
    Chart(
        name="recognition",
        chapter="2 Denoiser",
        caption=(
            "Share of generated images in which a small classifier, trained on drawn faces, sees the attribute that was"
            " asked for, with its interval; the tick is the classifier's own accuracy on drawn faces it never saw, the"
            " dotted line is chance."
        ),
        tables=("recognition",),
        draw="diffmech.report.heads.charts_model:recognition",
    ),
    Chart(
        name="entropy_map",
        chapter="3 Entropy",
        caption=(
            "Attention entropy as a share of its bound, ln(keys); 1 is uniform attention. One row per head, one column"
            " per timestep, one panel per domain, and the mean of {{ settings['untrained']['seeds'] }} untrained copies"
            " on {{ settings['untrained']['samples'] }} images per domain."
        ),
        tables=("entropy",),
        draw="diffmech.report.heads.charts_attention:entropy_map",
    ),
    Chart(
        name="entropy_layers",
        chapter="3 Entropy",
        caption=(
            "Mean normalised entropy over the heads of each layer. The grey band runs from the lowest to the highest of"
            " {{ settings['untrained']['seeds'] }} untrained copies of each head, averaged over heads."
        ),
        tables=("entropy",),
        draw="diffmech.report.heads.charts_attention:entropy_layers",
    ),
    Chart(
        name="entropy_divergence",
        chapter="3 Entropy",
        caption=(
            "Entropy divergence per timestep: the mean over the heads of a kind of attention of the absolute entropy"
            " difference between the domains, with " + _interval("entropy") + " from"
            " {{ settings['entropy']['draws'] }} bootstrap draws over images. Grey area: what"
            " {{ settings['entropy']['permutations'] }} permutations of the domain labels reach in 95 % of cases;"
            " dashed grey line: their mean; dashed coloured line: the largest untrained copy. Diamonds beat both at"
            " level {{ settings['entropy']['alpha'] }} after correction over timesteps and kinds of attention."
        ),
        tables=("divergence",),
        draw="diffmech.report.heads.charts_attention:entropy_divergence",
    ),
    Chart(
        name="jensen_shannon",
        chapter="3 Entropy",
        caption=(
            "Jensen-Shannon divergence between the per-image entropies of the two domains: 0 = the same distribution,"
            " ln 2 = 0.693 = no overlap."
        ),
        tables=("divergence",),
        draw="diffmech.report.heads.charts_attention:jensen_shannon",
    ),
    Chart(
        name="telling",
        chapter="3 Entropy",
        caption=(
            "The effects of the image (all told the same), of what is told (on the same images) and of both together on"
            " attention entropy: mean sizes over the heads of a kind of attention, with " + _interval("entropy") + "."
            " Head by head they add up to the difference between images of the two domains that are told what they are."
            " A mean of sizes is never zero: diamonds mark what beats both nulls."
        ),
        tables=("divergence", "telling"),
        draw="diffmech.report.heads.charts_telling:telling",
    ),
    Chart(
        name="factorial_map",
        chapter="3 Entropy",
        caption=(
            "What the image, what telling and both together do to the entropy of each head at each timestep, in nats:"
            " above zero where {{ domains[0] }} images, or being told {{ domains[0] }}, make a head look more widely;"
            " of both together, where being told anything widens it more on {{ domains[0] }} images. Dots mark effects"
            " that beat chance (Holm, over heads and timesteps) and the largest untrained copy. The colours end at the"
            " 99th percentile."
        ),
        tables=("factorial",),
        draw="diffmech.report.heads.charts_telling:factorial_map",
    ),
    Chart(
        name="mechanism_grid",
        chapter="4 Mechanisms",
        caption=(
            "Every head in every phase, by label; the cluster stands in brackets. A label holds in both domains: beyond"
            " every untrained copy and, for what is in the image, beyond reference maps rolled to other places"
            " ({{ settings['mechanisms']['rolls'] }} rolls) and the maps of other images (level"
            " {{ settings['mechanisms']['alpha'] }}, Holm); otherwise the cluster is unassigned (–). Pale cells with a"
            " question mark are heads that do not confirm the name of their cluster. A head may change its mechanism."
        ),
        tables=("mechanisms",),
        draw="diffmech.report.heads.charts_mechanisms:mechanism_grid",
    ),
    Chart(
        name="cluster_quality",
        chapter="4 Mechanisms",
        caption=(
            "Quality by number of clusters; a ring marks the number in use (by the settings"
            " {{ settings['mechanisms']['clusters'] }} of self-attention,"
            " {{ settings['mechanisms']['cross_clusters'] }} of cross-attention, where there is any). Silhouette: how"
            " far apart clusters lie. BIC: cost of a Gaussian mixture. ARI: agreement with the clusters found again"
            " from {{ settings['mechanisms']['stability_draws'] }} resampled sets of images, and from other seeds (1 ="
            " the same, 0 = chance)."
        ),
        tables=("clusters",),
        draw="diffmech.report.heads.charts_mechanisms:cluster_quality",
    ),
    Chart(
        name="ablation_mechanisms",
        chapter="5 Ablation",
        caption=(
            _effect("all heads of a mechanism are")
            + " ({{ settings['ablation']['methods'][0] }} ablation), "
            + MEASURED_ON
            + ". Grey: up to {{ settings['ablation']['controls'] }} random sets of as many other"
            " heads that match the mechanism. Marks are at level"
            " {{ settings['ablation']['alpha'] }} after correction over all mechanisms and domains, against zero and"
            " against controls."
        ),
        tables=("effects", "mechanisms"),
        draw="diffmech.report.heads.charts_ablation:ablation_mechanisms",
    ),
    Chart(
        name="ablation_layers",
        chapter="5 Ablation",
        caption=_effect("all heads of a layer are")
        + f", {MEASURED_ON}. Grey: the range of the other layers of its kind of attention.",
        tables=("effects",),
        draw="diffmech.report.heads.charts_ablation:ablation_layers",
    ),
    Chart(
        name="ablation_heads",
        chapter="5 Ablation",
        caption=_effect("one head is")
        + f", for the heads with the largest effects, {MEASURED_ON}. Grey: all other heads of the same kind of"
        " attention.",
        tables=("effects",),
        draw="diffmech.report.heads.charts_ablation:ablation_heads",
    ),
    Chart(
        name="ablation_map",
        chapter="5 Ablation",
        caption=_effect("one head is")
        + ", per timestep. Dots: different from zero at level {{ settings['ablation']['alpha'] }} after correction over"
        " all heads, timesteps and domains. The colours end at the 99th percentile.",
        tables=("effects",),
        draw="diffmech.report.heads.charts_ablation:ablation_map",
    ),
    Chart(
        name="ablation_methods",
        chapter="5 Ablation",
        caption=(
            "The same removals by each method ({{ settings['ablation']['methods'] | join(', ') }}). Where methods"
            " disagree, part of the effect belongs to the method. Methods beyond the first may have run on fewer"
            " images."
        ),
        tables=("effects", "mechanisms"),
        draw="diffmech.report.heads.charts_ablation:ablation_methods",
    ),
    Chart(
        name="windows_map",
        chapter="5 Ablation",
        caption=_effect("one head is")
        + ", by window of timesteps. Dots: different from zero at level {{ settings['ablation']['alpha'] }}, corrected"
        " over heads and windows by the maximum statistic. The colours end at the 99th percentile.",
        tables=("windows",),
        draw="diffmech.report.heads.charts_patching:windows_map",
    ),
    Chart(
        name="patching_sufficient",
        chapter="6 Patching",
        caption=(
            "Share of the difference between two passes that a single head brings into the first, by window of"
            " timesteps: 100 % = this head alone is sufficient. Dots: different from zero at level"
            " {{ settings['patching']['alpha'] }}, corrected over heads and windows by the maximum statistic."
        ),
        tables=("patching",),
        draw="diffmech.report.heads.charts_patching:patching_sufficient",
    ),
    Chart(
        name="patching_necessary",
        chapter="6 Patching",
        caption=(
            "Share of the difference between two passes that is gone when a single head is taken out of the second, by"
            " window of timesteps: 100 % = this head is necessary. Dots: different from zero at level"
            " {{ settings['patching']['alpha'] }}, corrected over heads and windows by the maximum statistic."
        ),
        tables=("patching",),
        draw="diffmech.report.heads.charts_patching:patching_necessary",
    ),
    Chart(
        name="patching_doses",
        chapter="6 Patching",
        caption=(
            "Share of the difference that is moved when part of a head's output is replaced, for the heads that move"
            " most, over all timesteps, with " + _interval("patching") + " over images. Dashed: what it would be if the"
            " rest of the network were linear."
        ),
        tables=("patching",),
        draw="diffmech.report.heads.charts_patching:patching_doses",
    ),
    Chart(
        name="resampling_attributes",
        chapter="5 Ablation",
        caption=(
            "How much surer (orange) or less sure (blue) a judge is of each attribute in generated images when a"
            " mechanism is removed at every sampling step at which it runs"
            " ({{ settings['resampling']['method'] }} ablation): the median"
            " over the same {{ settings['resampling']['images'] }} seeds with and without. A dot marks a change that"
            " differs from zero{% if settings['resampling']['controls'] %}, a diamond one that is also more than its"
            " matched controls, of up to {{ settings['resampling']['controls'] }} random sets{% endif %}; level"
            " {{ settings['ablation']['alpha'] }} after correction (Holm against zero, over all changes of a domain"
            "{% if settings['resampling']['controls'] %}; over all mechanisms, attributes and domains against controls"
            "{% endif %})."
        ),
        tables=("resampling", "mechanisms"),
        draw="diffmech.report.heads.charts_resampling:resampling_attributes",
    ),
    Chart(
        name="resampling_measures",
        chapter="5 Ablation",
        caption=(
            "Structural similarity to the image of the same seed with nothing removed, 1 = unchanged, when a mechanism"
            " is removed at every sampling step at which it runs, with " + _interval("resampling") + " over"
            " {{ settings['resampling']['images'] }} seeds. Where features were read, a second panel shows how"
            " much farther the images lie from those of other seeds than images with nothing removed do, 0 = no farther"
            " than they.{% if settings['resampling']['controls'] %} Grey: up to"
            " {{ settings['resampling']['controls'] }} random sets of as many heads that match the mechanism, of the"
            " same seeds.{% endif %}"
        ),
        tables=("resampling", "mechanisms"),
        draw="diffmech.report.heads.charts_resampling:resampling_measures",
    ),
    Chart(
        name="circuit_curve",
        chapter="7 Circuit",
        caption=(
            "Share of what all heads contribute, by the number of heads kept while all others are replaced"
            " ({{ settings['circuit']['method'] or settings['ablation']['methods'][0] }} ablation), those worth most"
            " first. Diamond: the heads that were chosen on the other half of the images to reach"
            " {{ '%g' | format(100 * settings['discovery']['faithfulness']) }} % (dotted), with their interval."
            " Triangle: random sets with as many heads of each kind of attention, their mean and range."
        ),
        tables=("circuits",),
        draw="diffmech.report.heads.charts_circuit:circuit_curve",
    ),
    Chart(
        name="circuit_graph",
        chapter="7 Circuit",
        caption=(
            "The heads chosen for a circuit, over the layers, and the paths between them. Circles: these heads, by"
            " mechanism; the larger, the more of the share is lost without it. Lines: paths between heads and to the"
            " output that differ from zero at level {{ settings['discovery']['alpha'] }} after Holm's correction;"
            " dotted: before correction only."
        ),
        tables=("circuits", "mechanisms"),
        draw="diffmech.report.heads.charts_circuit:circuit_graph",
    ),
    Chart(
        name="circuit_timesteps",
        chapter="7 Circuit",
        caption=(
            "Share of what all heads contribute that is lost at each timestep when one of the heads that were chosen is"
            " replaced too. Dots: more than nothing at level {{ settings['discovery']['alpha'] }} (random signs,"
            " corrected over heads and timesteps). Timesteps at which all heads together do not surely help are left"
            " out: there is no share of nothing."
        ),
        tables=("circuits",),
        draw="diffmech.report.heads.charts_circuit:circuit_timesteps",
    ),
    Chart(
        name="complexity_ratio",
        chapter="8 Complexity",
        caption=(
            "Complexity of the first domain relative to the second, in variants of our own, with "
            + _interval("complexity")
            + ", beside the published ratio, whose formula is not known; the dotted line is"
            " equality. Grey: the range of the untrained copies, on the same images with random weights; where there is"
            " none, they were not measured."
        ),
        tables=("complexity",),
        draw="diffmech.report.heads.charts_ablation:complexity_ratio",
    ),
)


# The caption of the page itself in `snakemake --report`.
PAGE = (
    "The whole study in one page: what was found, what was run, and how sure one can be. It opens from disk and needs"
    " no network. Study **{{ settings['study']['name'] }}**, domains {{ domains | join(' and ') }}."
)


def of_measures() -> tuple[Chart, ...]:
    """Return the charts that measures declare: no section places them, so they stand at the end of their chapter."""
    return declared_in(MEASURES)


def every_chart() -> tuple[Chart, ...]:
    """Return all charts of the study, those of measures last."""
    return (*CHARTS, *of_measures())
