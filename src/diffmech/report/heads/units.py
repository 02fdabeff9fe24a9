"""Which unit the statistics of the page have: images, or groups of images that belong together. Ours."""

from diffmech.config.root import Config
from diffmech.data.groups import read_groups
from diffmech.report.heads.context import Context
from diffmech.report.wording import count, listed


def group_columns(config: Config) -> dict[str, str]:
    """Return, by domain, the column that says which of its images belong together; without those that have none."""
    named = {
        domain: getattr(config.datasets[dataset], "group", None) for domain, dataset in config.study.domains.items()
    }
    return {domain: column for domain, column in named.items() if column}


def unit_of(domain: str, config: Config) -> str:
    """Return what is counted of a domain, before the name of its images: `groups of ` or nothing."""
    return "groups of " if domain in group_columns(config) else ""


def observed_images(context: Context) -> dict[str, int]:
    """Return how many images of each domain were observed, whatever their unit."""
    units = context.tables.entropy.groupby("domain")["n"].max()
    captured = {domain: int(units[domain]) for domain in context.tables.domains}
    known = {domain: len(read_groups(path)) for domain, path in context.inputs.groups.items()}
    return captured | {domain: min(size, context.config.capture.samples) for domain, size in known.items()}


def unit_entry(context: Context) -> dict[str, str]:
    """Return the entry of the page that names the unit of each domain, none where each image is its own."""
    columns, effects = group_columns(context.config), context.tables.effects
    if not columns:
        return {}
    captured = context.tables.entropy.groupby("domain")["n"].max().astype(int)
    images, said = observed_images(context), []
    for domain in context.tables.domains:
        if domain not in columns:
            said.append(f"of {domain} images, each image")
            continue
        text = (
            f"of {domain} images, a group of them (column {columns[domain]}): intervals resample"
            f" {count(int(captured[domain]), 'group')}, of {count(images[domain], 'image')}"
        )
        removed = effects.loc[(effects["domain"] == domain) & (effects["method"] == context.method), "n"]
        if len(removed):
            ablated = min(images[domain], context.config.ablation.samples)
            text += f", and of ablations {count(int(removed.max()), 'group')}, of {count(ablated, 'image')}"
        said.append(text)
    means = "Of a group the mean over its images counts, so that every group counts alike, however many images it has."
    return {"Unit": f"{'; '.join(said)}. {means}"}


def unit_note(config: Config) -> str:
    """Return the sentence on what a number of images is a number of, empty where it is one of images."""
    columns = group_columns(config)
    if not columns:
        return ""
    which = listed([f"{domain} (column {column})" for domain, column in columns.items()])
    return (
        f" Images that belong together are one unit: of {which} it is groups of images that are resampled, permuted and"
        " counted, so that a number of such images beside an interval or a p-value is a number of groups."
    )


def seen_note(context: Context) -> str:
    """Return the sentence on unseen images of seen groups, empty where no domain with groups has unseen images."""
    told = set(context.tables.heldout["domain"]) & set(group_columns(context.config))
    if not told:
        return ""
    return (
        f" Of {listed([d for d in context.tables.domains if d in told])} images those kept out of training were chosen"
        " image by image, so that the denoiser may have seen others of their groups."
    )
