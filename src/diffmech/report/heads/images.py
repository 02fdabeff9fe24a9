"""What the page says of the studied images themselves: which the denoiser has seen, how they were prepared. Ours."""

from collections.abc import Mapping
from typing import Any

from diffmech.config.images import NamedImages
from diffmech.config.root import MATCHED_SOURCES, Config
from diffmech.report.heads.artifacts import Tables, largest
from diffmech.report.heads.terms import attention
from diffmech.report.wording import count, interval, listed, number, p_value


def seen_counts(tables: Tables) -> dict[str, tuple[int, int]]:
    """Return how many studied images were trained on, and how many there are, by domain where it is on record."""
    by_domain = tables.seen.groupby("domain")["seen"]
    known = {str(domain): (int(seen.sum()), len(seen)) for domain, seen in by_domain}
    return {domain: known[domain] for domain in tables.domains if domain in known}


def observed_words(tables: Tables, captured: Mapping[Any, Any]) -> str:
    """Return how many images of each domain were observed and, where it is known, how many of them were trained on."""
    known = seen_counts(tables)
    parts = []
    for domain in tables.domains:
        said = f"{int(captured[domain])} {domain}"
        if domain in known:
            seen = known[domain][0]
            said += f" ({seen or 'none'} of them trained on)"
        parts.append(said)
    return listed(parts)


def seen_sentence(tables: Tables, config: Config) -> str:
    """Return how many studied images of each domain the denoiser was trained on; nothing where that is not known."""
    known = seen_counts(tables)
    if not known:
        return ""
    if not any(seen for seen, _ in known.values()):
        said = f"None of the {listed(list(known))} images studied was among those that the denoiser was trained on"
        alike = len(known) == len(tables.domains)
    else:
        parts = [f"{seen} of {studied} {domain}" for domain, (seen, studied) in known.items()]
        said = f"The denoiser was trained on {listed(parts)} images of those studied"
        shares = [seen / studied for seen, studied in known.values()]
        alike = len(known) == len(tables.domains) and max(shares) - min(shares) < 0.01
    others = [domain for domain in tables.domains if domain not in known]
    rest = f"; of {listed(others)} images that is not on record" if others else ""
    if alike:
        return f"{said}, so that this does not tell the domains apart."
    what = "What it does with images that it was trained on may differ from what it does with new ones"
    remedy = "" if config.capture.images == "unseen" else "; capture.images: unseen studies new ones alone"
    return f"{said}{rest}. {what}, and would then pass for a difference of the domains{remedy}."


def seen_divergence_sentences(tables: Tables, alpha: float) -> list[str]:
    """Return, for each domain with enough of both, how far entropies of seen and unseen images of it lie apart.

    These are observed under their own condition at every timestep, the domains told nothing, at some of them.
    """
    between = tables.divergence.set_index(["timestep", "kind"])
    said = []
    for domain, rows in tables.seen_divergence.groupby("domain", sort=False):
        most = largest(rows, "divergence")
        beyond = int((rows["p_holm"] <= alpha).sum())
        if most.p_least > alpha:
            verdict = "whether that is more than chance cannot be told with so few images"
        elif beyond:
            verdict = f"more than chance in {beyond} of {len(rows)} combinations of timestep and kind of attention"
        else:
            verdict = f"nowhere more than chance (smallest corrected {p_value(rows['p_holm'].min())})"
        where = (most.timestep, most.kind)
        there = between.loc[where] if where in between.index else None
        beside = (
            f" The domains, told the same, differ there by {number(there['divergence'], 2)} nats"
            f" ({int(there['n_first'])} and {int(there['n_second'])} images)."
            if there is not None
            else ""
        )
        said.append(
            f"Between {int(most.n_seen)} {domain} images that were trained on and {int(most.n_unseen)} that were not,"
            " each told what it is, entropies differ by"
            f" {interval(most.divergence, most.low, most.high, 'nats', 2)} at most"
            f" ({attention(most.kind)}, t = {most.timestep:g}; {number(most.floor, 2)} by chance), {verdict}.{beside}"
        )
    return said


def is_matched(config: Config) -> bool:
    """Return whether mean and contrast were matched; generated images stay as they were made."""
    return config.images.match is not None and config.model.source != "pipeline"


def foreign_match_sentence(tables: Tables, config: Config) -> str:
    """Return what shifting means for a denoiser that was not trained here, nothing where nothing was shifted."""
    if not is_matched(config) or config.model.source in MATCHED_SOURCES:
        return ""
    shifts = [
        f"{domain} from {number(about['before']['mean'], 2)} to {number(about['after']['mean'], 2)}"
        for domain, about in tables.comparison["domains"].items()
    ]
    return (
        "This denoiser was not trained here, and yet its images were shifted in mean and contrast, as images.match asks"
        f" (mean pixel of {listed(shifts)}): unless it was trained on images that were matched alike, it is shown"
        " others than those of its training, and images.match: null would be right."
    )


def cropped_words(entry: Mapping[str, Any]) -> str:
    """Return how many images lost pixels when they were cut to squares, and how much of them."""
    if not entry["cropped"]:
        return "no image: all were square"
    of = f"{entry['cropped']:,} of {count(entry['measured'], 'image')}"
    lost = number(100 * entry["cut_area"], 2)
    area = "its area" if entry["cropped"] == 1 else "their area on average"
    return f"{of}, to the central square, which cuts off {lost} % of {area}"


def chosen_words(config: Config, domain: str) -> str:
    """Return how the images were chosen among those that there are, nothing where they have no order to be drawn of."""
    settings = config.datasets.get(config.study.domains.get(domain, ""))
    if not isinstance(settings, NamedImages):
        return ""
    return f"by a hash of the seed {settings.seed} and each image's own name, whatever the order of the set"
