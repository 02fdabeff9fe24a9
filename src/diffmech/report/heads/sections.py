"""The first half of the page: what was run, on which images, with which denoiser."""

from collections.abc import Mapping

from markupsafe import Markup

from diffmech.config.root import Config
from diffmech.data.store import open_dataset
from diffmech.findings import Finding
from diffmech.report import markup
from diffmech.report.heads.artifacts import Tables, records, weights_directory
from diffmech.report.heads.condition import (
    calls_words,
    compared_words,
    condition_sentence,
    guidance_words,
    is_conditional,
)
from diffmech.report.heads.context import Context
from diffmech.report.heads.denoising import gap_sentence, is_untrained, summary, troubles
from diffmech.report.heads.examples import domain_mosaics, gallery_rows
from diffmech.report.heads.findings import nothing_found
from diffmech.report.heads.images import (
    chosen_words,
    cropped_words,
    foreign_match_sentence,
    is_matched,
    observed_words,
)
from diffmech.report.heads.units import observed_images, seen_note, unit_entry, unit_note, unit_of
from diffmech.report.wording import count, interval, listed, number

TILE = 70  # CSS pixels of one generated image
PIXELS, SPREAD = "Mean pixel (−1 black, 1 white)", "Contrast (standard deviation within an image)"
METHODS = {
    "mean": "their mean over reference images",
    "mean_pooled": "their mean over reference images of both domains",
    "zero": "nothing",
    "resample": "what they write for another image",
    "uniform": "what uniform attention gives",
}
WITHOUT_IMAGE = "is a mask without an image"  # how the reason for such misfits reads
WITH_DRAWS = ("entropy", "mechanisms", "ablation", "discovery", "patching", "complexity")  # sections with `draws`
SKILL_COLUMNS = ["images", "timestep", "loss", "predicting zero", "best multiple of x_t", "skill", "best factor", "n"]
MOST_PROMPTS = 8  # prompts of a domain that are shown
SOURCES = {
    "untrained": "random weights, the null study",
    "train": "trained by this workflow",
    "bundled": "bundled with the project",
    "diffusers": "a diffusers model",
    "custom": "a class of your own",
    "pipeline": "the denoiser of a diffusers pipeline",
    "planted": "built by hand, so that what each head does is known",
}
PREDICTS = {"epsilon": "the noise", "v_prediction": "v", "sample": "the clean image"}


def answers(context: Context, found: list[Finding]) -> markup.Section:
    """Return the findings under what must be known first: whether the denoiser denoises, and is trained at all."""
    warnings = []
    if is_untrained(context.tables):
        outcome = (
            "And nothing was found, as it should be."
            if nothing_found(found)
            else (
                "Whatever is marked as found below is a false alarm; at the chosen level a few are expected, many are a"
                " fault."
            )
        )
        warnings.append(f"This denoiser has random weights. It is the null study: nothing can be found. {outcome}")
    elif nothing_found(found):
        warnings.append(
            "Nothing was found: no test of attention, of labels or of mechanisms beat its nulls and controls. That is"
            " no proof of absence; the intervals say how large an effect could have been missed."
        )
    wrong = troubles(context.tables)
    warnings += [" ".join(wrong)] if wrong else []
    read = (
        "A number in brackets is an interval that comes from resampling images, not pixels. “Found” means that the"
        " result beats every null it was tested against after correction for multiple tests; “not found” that it does"
        " not, which is no proof that there is nothing; “cannot be told” that the data cannot decide it: too few"
        " images, copies or controls, or an interval that holds both answers; “no fair control” that nothing matches"
        " it. Of many estimates the largest is too large on average."
    ) + unit_note(context.config)
    return markup.section(
        "answers",
        "What was found",
        *map(markup.banner, warnings),
        *([] if wrong else [markup.paragraph(summary(context.tables))]),
        markup.paragraph(read, "quiet"),
        markup.block("findings", *map(markup.finding, found)),
    )


def what_was_run(context: Context) -> markup.Section:
    """Return model, data, sizes, timesteps and the steps of the workflow."""
    tables, config = context.tables, context.config
    model = tables.model
    captured = observed_images(context)
    kinds = tables.entropy.drop_duplicates("head")["kind"].value_counts()
    heads = " and ".join(f"{heads} {kind}-attention" for kind, heads in kinds.items())
    channels, height, width = model["sample_shape"]
    predicted = str(model["prediction_type"])
    timesteps = sorted(int(t) for t in tables.entropy["timestep"].unique())
    entries = {
        "Denoiser": (
            f"{config.study.model}: {SOURCES.get(str(model['source']), str(model['source']))},"
            f" {int(model['parameters']):,} parameters, predicts {PREDICTS.get(predicted, predicted)},"
            f" {model['timesteps']} timesteps"
        ),
        "Attention": f"{len(tables.heads)} heads ({heads}) in {count(len(tables.sites), 'layer')}{calls_words(tables)}",
        "Domains": listed(
            [f"{domain} (data set {config.study.domains.get(domain, domain)})" for domain in tables.domains]
        ),
        "Images": (
            f"{observed_words(tables, captured)} observed, {width} × {height} pixels,"
            f" {'grey' if channels == 1 else f'{channels} channels'}"
        ),
        **unit_entry(context),
        "Condition": condition_sentence(tables, config),
        "Timesteps": f"{', '.join(map(str, timesteps))} (0 = clean image)",
        "Untrained copies": (
            f"{config.untrained.seeds}, each on {config.untrained.samples} images per domain: the same architecture"
            " with fresh random weights"
        ),
        "Compared domains": compared_words(tables, config),
        "Ablation": ablation_run(context),
        "Intervals": (
            f"{intervals(config)}; p-values of entropies from at least {config.entropy.permutations:,} permutations of"
            " the domain labels (of telling: random signs), of ablations from"
            f" {config.ablation.permutations:,} random signs of images"
        ),
    }
    steps = steps_sentence(context)
    return markup.section("run", "What was run", markup.paragraph(steps), markup.facts(entries))


def intervals(config: Config) -> str:
    """Return the coverage of all intervals and the bootstrap draws behind them, by analysis where they differ."""
    known = {name: getattr(config, name) for name in WITH_DRAWS}
    told = []
    for key, unit in (("confidence", " %"), ("draws", " bootstrap draws over images")):
        by_value: dict[float, list[str]] = {}
        for name, section in known.items():
            by_value.setdefault(getattr(section, key), []).append(name)
        written = [
            (f"{100 * value:g}{unit}" if key == "confidence" else f"{value:,}{unit}", names)
            for value, names in by_value.items()
        ]
        same = len(written) == 1
        told.append(written[0][0] if same else "; ".join(f"{value} ({listed(names)})" for value, names in written))
    return ", ".join(told)


def ablation_run(context: Context) -> str:
    """Return which heads were replaced by what, on how many images, at which timesteps."""
    effects, config = context.tables.effects, context.config
    if effects.empty:
        return "none"
    groups, methods = (list(dict.fromkeys(effects[column])) for column in ("group", "method"))
    images = {}
    for method, rows in effects.groupby("method"):
        most = rows.groupby("domain")["n"].max()
        images[str(method)] = listed(
            [f"{int(most[domain])} {unit_of(domain, config)}{domain}" for domain in context.tables.domains]
        )
    steps = ", ".join(f"{timestep:g}" for timestep in context.ablated_timesteps)
    same = len(set(images.values())) == 1
    ways = [METHODS.get(name, name) + ("" if same else f" (on {images[name]} images)") for name in methods]
    on = f", on {images[methods[0]]} images" if same else ""
    said = f"{listed(groups)}, whose outputs are replaced by {listed(ways, 'or')}{on} at t = {steps}"
    asked = config.ablation.controls
    return said + (f"; up to {asked} random sets of heads beside each mechanism" if "mechanisms" in groups else "")


def steps_sentence(context: Context) -> str:
    """Return what the workflow did, in the order in which it did it."""
    config, groups = context.config, set(context.tables.effects["group"])
    matched = " and matched in mean and contrast" if config.images.match is not None else ""
    first = (
        f"Both image sets are brought to one size{matched}. Every image is noised to each timestep with noise that"
        " depends on its number and the timestep alone, so that both domains share it. One denoiser makes one"
        " prediction for each noised image while all attention heads are observed; observing does not change the"
        " prediction."
    )
    ways = [*(["one at a time"] if "heads" in groups else []), *(["in groups"] if groups - {"heads"} else [])]
    effect = "the change of the denoising loss is measured."
    where = "on the same noised images"
    if config.model.source == "pipeline":
        sampler = config.sampling.scheduler or "its own sampler"
        first = (
            f"A pipeline generates the images of both domains from prompts ({config.sampling.steps} steps of {sampler},"
            f" guidance {config.sampling.guidance:g}). "
        )
        first += (
            "All attention heads of its denoiser are observed on the very inputs it had on the way."
            if config.latents.kind == "trajectory"
            else (
                "Every generated image is noised anew to each timestep, and all attention heads of the denoiser are"
                " observed on it, with the image's prompt."
            )
        )
    if config.latents.kind == "trajectory":
        where = "on the same inputs"
        effect = (
            "the output shift is measured, since on a sampling trajectory nobody knows the noise: the mean square"
            " change of the prediction, in percent of its own mean square. It cannot be negative, so only the"
            " comparison with controls tells whether a mechanism matters."
        )
    last = " Entropy, mechanisms and their untrained nulls are computed from these passes."
    if ways:
        last += f" Then heads are replaced, {' and '.join(ways)}, {where}, and {effect}"
    return first + last


def domains(context: Context) -> markup.Section:
    """Return both domains side by side, how they were matched, and what still differs."""
    tables = context.tables
    shown = domain_mosaics(context.inputs, context.config.report.gallery)
    matched = is_matched(context.config)
    pair = []
    for domain, mosaic in shown.items():
        entry = tables.comparison["domains"][domain]
        before, after = entry["before"], entry["after"]
        entries = {"Images": f"{entry['count']:,} in the data set {entry['dataset']}, {entry['measured']:,} measured"}
        if entry["kind"] == "prompts":
            asked = list(dict.fromkeys(open_dataset(context.inputs.datasets[domain]).files))  # type: ignore[arg-type]
            more = f"; and {len(asked) - MOST_PROMPTS} more" if len(asked) > MOST_PROMPTS else ""
            entries |= {
                "Prompts": "; ".join(asked[:MOST_PROMPTS]) + more,
                PIXELS: number(after["mean"], 3),
                SPREAD: number(after["contrast"], 3),
            }
        else:
            if matched:
                entries |= {
                    PIXELS: f"{number(before['mean'], 3)} before, {number(after['mean'], 3)} after matching",
                    SPREAD: (f"{number(before['contrast'], 3)} before, {number(after['contrast'], 3)} after matching"),
                    "Clipped": f"{number(100 * entry['clipped_share'], 2)} % of the pixels, at black or white",
                }
            else:
                entries |= {PIXELS: number(after["mean"], 3), SPREAD: number(after["contrast"], 3)}
            entries |= {"Cropped": cropped_words(entry), "Left out": skipped_sentence(entry["skipped"])}
            if chosen := chosen_words(context.config, domain):
                entries["Chosen"] = chosen
        pair.append(markup.block("", markup.heading(domain), markup.figure(mosaic), markup.facts(entries)))
    gap = tables.comparison["spectral_distance"][0]
    meaning = "root mean square log10 power ratio"
    if matched:
        left = (
            f"Matching mean and contrast leaves {number(gap['after'], 2)} of spectral distance ({meaning};"
            f" {number(gap['before'], 2)} before matching)."
        )
    else:
        unlike = "" if context.config.model.source == "pipeline" else "Mean and contrast were not matched. "
        left = f"{unlike}Their spectral distance is {number(gap['after'], 2)} ({meaning})."
    residual = (
        f"{left} This is a confounder: a difference between {listed(list(tables.domains))} images further down may come"
        " from how fine their structure is rather than from what they show."
    )
    return markup.section(
        "domains",
        "The two domains, side by side",
        markup.block("pair", *pair),
        attribute_table(context),
        markup.paragraph(" ".join(filter(None, [foreign_match_sentence(tables, context.config), residual]))),
        context.chart("power_spectrum"),
    )


def skipped_sentence(skipped: list[Mapping[str, str]]) -> str:
    """Return which images were left out, and why, and how many masks have no image to belong to."""
    masks = [entry for entry in skipped if entry["reason"] == WITHOUT_IMAGE]
    files = [entry for entry in skipped if entry["reason"] != WITHOUT_IMAGE]
    first = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in files[:3])
    more = f"; and {len(files) - 3} more" if len(files) > 3 else ""
    said = f"{count(len(files), 'image')} ({first}{more})" if files else "no image"
    if masks:
        said += f"; {count(len(masks), 'mask')} {'belongs' if len(masks) == 1 else 'belong'} to no image"
    return said


def attribute_table(context: Context) -> Markup:
    """Return how often each attribute is known and its mean, per domain."""
    described = context.tables.comparison["domains"]
    names = list(dict.fromkeys(name for entry in described.values() for name in entry["attributes"]))
    if not names:
        return markup.paragraph("Neither domain has labelled attributes.")
    rows = []
    for name in names:
        cells = []
        for domain in context.tables.domains:
            entry = described[domain]["attributes"].get(name)
            known = entry is not None and entry["known"]
            cells.append(f"{number(entry['mean'], 2)} (known in {entry['known']})" if known else "unknown")
        rows.append([name, *cells])
    body = markup.table(
        ["attribute", *context.tables.domains],
        rows,
        "Mean of each attribute, from 0 to 1, and in how many images it is known",
    )
    return markup.folded("Attributes of both domains", body)


def denoiser(context: Context) -> markup.Section:
    """Return training history, held-out loss, the gallery and the recognition check."""
    tables = context.tables
    parts = [
        markup.paragraph(f"Weights: {weights_name(context)}, SHA-256 {str(tables.model['sha256'])[:16]}….", "quiet")
    ]
    wrong = troubles(tables)
    parts.append(markup.heading("Does it denoise?"))
    parts.append(markup.paragraph(" ".join(wrong) if wrong else summary(tables)))
    parts += [table_of_skill(tables)] if len(tables.denoising) else []
    parts.append(markup.heading("Does it remember what it was trained on?"))
    parts.append(markup.paragraph(gap_sentence(tables) + seen_note(context)))
    if len(tables.heldout):
        parts.append(context.chart("heldout_loss"))
    parts.append(markup.heading("How it was trained"))
    if tables.history is None:
        parts.append(markup.paragraph("No training history lies beside the weights, so none is shown."))
    else:
        parts.append(context.chart("training_history"))
    parts.append(markup.heading("What it draws"))
    if context.config.model.source == "pipeline":
        parts.append(markup.paragraph("The images of both domains above are its own."))
    else:
        parts += gallery(context)
    if not is_conditional(tables, context.config):
        return markup.section("denoiser", "The denoiser", *parts)  # nothing can be asked of it
    parts.append(markup.heading("Do its images show what was asked for?"))
    if tables.recognition is None:
        parts.append(
            markup.paragraph(
                "No recognition check lies beside the weights, so whether generated images show what was asked for was"
                " not measured."
            )
        )
    else:
        lines = [
            f"{row.attribute} in {interval(100 * row.recognised_share, 100 * row.low, 100 * row.high, '%', 2)}"
            f" of {row.n}"
            for row in records(tables.recognition)
        ]
        parts.append(markup.paragraph(f"Recognised of the images that were asked for: {'; '.join(lines)}."))
        parts.append(context.chart("recognition"))
    return markup.section("denoiser", "The denoiser", *parts)


def table_of_skill(tables: Tables) -> Markup:
    """Return loss, baselines, skill and best factor per domain and timestep, folded away."""
    rows = [
        [
            row.domain,
            f"{row.timestep:g}",
            number(row.loss),
            number(row.zero),
            number(row.linear),
            interval(100 * row.skill, 100 * row.skill_low, 100 * row.skill_high, "%"),
            interval(row.slope, row.slope_low, row.slope_high),
            str(int(row.n)),
        ]
        for row in records(tables.denoising)
    ]
    caption = "Mean squared error of the predicted noise, skill = 1 − loss / loss of the best multiple of x_t"
    return markup.folded("Does it denoise? By timestep", markup.table(SKILL_COLUMNS, rows, caption, SKILL_COLUMNS[1:]))


def gallery(context: Context) -> list[Markup]:
    """Return the images generated to show what the denoiser learned."""
    sampling, shown = context.config.sampling, gallery_rows(context.inputs.gallery)
    lead = markup.paragraph(
        f"Images generated from noise in {sampling.steps} DDIM steps"
        f"{guidance_words(context.tables, context.config, sampling.guidance)}."
        f"{' Within a column all images start from the same noise.' if len(shown) > 1 else ''}"
    )
    return [lead, markup.gallery(shown, TILE)]


def weights_name(context: Context) -> str:
    """Return the last parts of the path of the weights: enough to know them, without the machine they lie on."""
    folder = weights_directory(context.inputs, context.tables.model)
    return "/".join(folder.resolve().parts[-3:])
