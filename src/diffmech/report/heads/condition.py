"""What the denoiser was told of each image beside the noised image itself, in words, from what ran. Ours."""

from diffmech.attention.store import ExtraTokens
from diffmech.config.root import Config
from diffmech.config.study import NOTHING
from diffmech.report.heads.artifacts import Tables
from diffmech.report.wording import count, listed

MOST_NAMES = 12
# The columns of how many images there are of each domain.
SIDES = ("n_first", "n_second")


def is_conditional(tables: Tables, config: Config) -> bool:
    """Return whether the denoiser reads a condition at all."""
    model = tables.model
    tokens = model.get("kind") == "unet_condition_tokens"
    return config.model.source == "pipeline" or tokens or bool(model.get("attributes") or model.get("domains"))


def guidance_words(tables: Tables, config: Config, guidance: float) -> str:
    """Return ` with guidance 3`, or nothing for a denoiser without a condition, which cannot be guided."""
    return f" with guidance {guidance:g}" if is_conditional(tables, config) else ""


def told_domains(tables: Tables) -> list[str]:
    """Return the domains of the study that the denoiser knows by name."""
    return [domain for domain in tables.domains if domain in (tables.model.get("domains") or [])]


def told_attributes(tables: Tables) -> list[str]:
    """Return the attributes that the denoiser knows by name and that are known of some image."""
    labelled = {
        name
        for entry in tables.comparison["domains"].values()
        for name, about in entry["attributes"].items()
        if about["known"]
    }
    return [name for name in tables.model.get("attributes") or [] if name in labelled]


def condition_sentence(tables: Tables, config: Config) -> str:
    """Return what each pass was given beside the noised image."""
    full = config.latents.condition == "full"
    if config.model.source == "pipeline":
        given = "each image's own prompt" if full else "the negative prompt alone"
        guided = f", observed in both passes of guidance {config.sampling.guidance:g}; analysed in the conditional one"
        return given + (guided if config.sampling.guidance > 1 and full else "")
    if not is_conditional(tables, config):
        return "none: this denoiser takes nothing but the noised image and the timestep"
    if not full:
        return "none (null condition), although this denoiser can be given one"
    domains, attributes = told_domains(tables), told_attributes(tables)
    parts = []
    if domains:
        parts.append("its own domain" if len(domains) == len(tables.domains) else f"whether it is {listed(domains)}")
    if attributes:
        more = f" and {len(attributes) - MOST_NAMES} more" if len(attributes) > MOST_NAMES else ""
        parts.append(f"its attributes where they are known ({', '.join(attributes[:MOST_NAMES])}{more})")
    if not parts:
        return "none: no name that this denoiser knows is that of a domain or a label of this study"
    return f"of each image {' and '.join(parts)}"


def condition_of_comparison(tables: Tables, config: Config) -> str:
    """Return, as a sentence, what all images were told where the two domains are compared by their entropy."""
    first, second = tables.domains
    pipeline = config.model.source == "pipeline"
    if not is_conditional(tables, config):
        return "The denoiser is told nothing of any image."
    if config.latents.kind == "trajectory":
        return (
            f"Each image is observed under its own prompt, so that {first} and {second} images differ in what the"
            " denoiser is told too, and the two are not kept apart."
        )
    if config.latents.condition == "null":
        return "All images are told nothing (null condition)."
    if str(tables.divergence["condition"].iloc[0]) != NOTHING:
        told = f"are under the prompts of {first} images" if pipeline else f"are said to be {first}"
        return f"All images {told}, those of {second} too."
    told = "the negative prompt alone" if pipeline else "nothing: neither their domain nor an attribute"
    return f"All images are told {told}, so that the difference is that of the images."


def told_otherwise(tables: Tables, config: Config) -> str:
    """Return what of a difference between the domains may come from what images were told; empty for nothing."""
    if not is_conditional(tables, config) or config.latents.condition == "null":
        return ""
    if config.latents.kind == "trajectory":
        return "What they were told: every image is observed under its own prompt, in all that stands here."
    return (
        "What they were told: not in the comparison of attention and of effective keys and activations, where all are"
        " told the same; but mechanisms, effects of removing heads and the circuit are of images that are told what"
        f" they are ({condition_sentence(tables, config)})."
    )


def calls_words(tables: Tables) -> str:
    """Return how many attention calls a pass makes, at which timesteps, how many were observed, and what is left out.

    A pass with other calls than those observed ends a study, so where the model was not checked beforehand they are
    the same.
    """
    checked = tables.model.get("checked") or {}
    seen = len(tables.sites)
    calls = int(checked.get("attention_calls", seen))
    said = f"; a pass makes {count(calls, 'attention call')}, of which {'all' if calls == seen else seen} were observed"
    if calls == seen == 1:
        said = "; a pass makes one attention call, which was observed"
    said += f"; {elsewhere_words(tables)}"
    if left_out := checked.get("attention_left_out"):
        said += f"; left out, since no softmax of queries and keys was seen: {listed(list(left_out))}"
    return f"{said}{extra_words(tables)}"


def extra_words(tables: Tables) -> str:
    """Return which keys stand beside the image's without a place on it, where, and what that means for numbers."""
    if not tables.extra_tokens:
        return ""
    alike: dict[ExtraTokens, list[str]] = {}
    for site, extra in tables.extra_tokens.items():
        alike.setdefault(extra, []).append(site)
    told = []
    for extra, sites in alike.items():
        where = "all layers" if len(sites) == len(tables.sites) else listed(sites)
        sides = [("before", extra.before), ("behind", extra.behind)]
        stand = listed([f"{_from_to(names)} {side} the image's" for side, names in sides if names])
        memory = f", to {'all' if extra.memory == extra.count else extra.memory} of which no query belongs"
        told.append(
            f"in {where} {count(extra.count, 'extra key')} without a place on the image"
            f" ({stand}{memory if extra.memory else ''})"
        )
    return (
        f"; besides the image's there are {'; '.join(told)}, as of class tokens, registers or learned keys, numbered as"
        " they come: entropy is that of the image's queries over all keys, places and distances are those among the"
        " image's"
    )


def _from_to(names: tuple[str, ...]) -> str:
    return listed(list(names)) if len(names) < 3 else f"{names[0]} to {names[-1]}"


def elsewhere_words(tables: Tables) -> str:
    """Return whether passes at other timesteps than those studied made the same attention calls, as far as was seen."""
    seen, studied = tables.sampled_calls, set(tables.sites)
    if not seen:
        return "at other timesteps than those studied it was not looked at which calls a pass makes"
    steps = count(len(seen), "step")
    gone = {t: [site for site in tables.sites if site not in called] for t, called in seen.items()}
    new = {t: sorted(called - studied) for t, called in seen.items()}
    if not any(gone.values()) and not any(new.values()):
        return f"at each of {steps} of sampling it makes the same"
    parts = []
    for without, verb in ((gone, "does not make those of"), (new, "makes others, which are not studied, in")):
        if at := [t for t, names in without.items() if names]:
            names = list(dict.fromkeys(name for t in at for name in without[t]))
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            named = f"{', '.join(names[:MOST_NAMES])}{more}" if more else listed(names)
            parts.append(f"at {len(at)} of {steps} of sampling ({timestep_words(at)}) it {verb} {named}")
    return "; ".join(parts)


def timestep_words(timesteps: list[int]) -> str:
    """Return some timesteps, or from where to where they lie where there are many."""
    if len(timesteps) > MOST_NAMES:
        return f"t = {min(timesteps)} to {max(timesteps)}"
    return f"t = {', '.join(map(str, sorted(timesteps)))}"


def compared_words(tables: Tables, config: Config) -> str:
    """Return on which images, at which timesteps and under what condition the domains are compared."""
    image = tables.divergence
    sides = zip(SIDES, tables.domains, strict=True)
    counts = listed([f"{int(image[column].min())} {domain}" for column, domain in sides])
    steps = ", ".join(f"{timestep:g}" for timestep in sorted(image["timestep"].unique()))
    told = str(image["condition"].iloc[0])
    said = f"{counts} images at t = {steps}"
    if tables.telling.empty:
        return said
    condition = "told nothing" if told == NOTHING else f"all told {told}"
    return (
        f"{said}, {condition}, by entropy and complexity; what telling does, on the same images told"
        f" {listed(list(tables.domains), 'or')};"
        f" untrained copies see the first {config.told.untrained_samples} of each domain, told a domain"
        f" {config.told.untrained_told}"
    )
