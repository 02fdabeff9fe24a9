"""What images were told while the domains were compared, and what telling does by itself. Ours."""

from diffmech.findings import Finding, Verdict
from diffmech.mechanisms.told import INTERACTION, TOLD
from diffmech.report import markup
from diffmech.report.heads.artifacts import Tables, largest
from diffmech.report.heads.context import Context
from diffmech.report.heads.terms import attention
from diffmech.report.wording import count, interval, listed, number


def telling_finding(tables: Tables) -> Finding | None:
    """What does telling the denoiser the domain do, with the images unchanged? None where it cannot be told."""
    told = tables.telling[tables.telling["effect"] == TOLD]
    if told.empty:
        return None
    first, second = tables.domains
    found, details, sights = [], [], []
    for kind, part in told.groupby("kind", sort=False):
        name, peak = attention(str(kind)), largest(part, "divergence")
        image = tables.divergence[tables.divergence["kind"] == kind].set_index("timestep")["divergence"]
        details.append(
            f"{name.capitalize()}: being told {first} rather than {second} changes the entropy of a head by"
            f" {interval(peak['divergence'], peak['low'], peak['high'], 'nats')} on average, at t ="
            f" {peak['timestep']:g}, where it is largest; there the images, all told the same, make a difference of"
            f" {number(image[peak['timestep']])} nats. Random signs alone give up to"
            f" {number(part['floor_high'].max())} nats, the largest untrained copy, on"
            f" {count(int(part['untrained_n'].max()), 'image')} per domain,"
            f" {number(part['untrained_divergence_max'].max())} nats."
        )
        if hits := int(part["significant"].sum()):
            found.append(f"at {hits} of {count(len(part), 'timestep')} of {name}")
        sights.append(f"{number(part['smallest'].max())} nats in {name}")
    together = tables.telling[(tables.telling["effect"] == INTERACTION) & tables.telling["significant"]]
    if len(together):
        details.append(
            f"At {len(together)} of {len(told)} timesteps and kinds of attention, being told anything changes"
            f" {first} images by another amount than {second} ones (interaction)."
        )
    verdict: Verdict = "found" if found else "not found"
    answer = (
        f"It changes attention {listed(found)}, with the same images."
        if found
        else "Not shown: at no timestep does what is told change attention beyond both nulls."
    )
    family = (
        f"Corrected over {count(len(told), 'test')} (timesteps x kinds of attention): Holm against random signs of"
        " images, the largest value of any of them against untrained copies."
    )
    return Finding(
        f"What does telling the denoiser “{first}” or “{second}” do?",
        verdict,
        answer,
        tuple(details),
        "telling",
        family,
        f"Found at least four times in five: changes of {listed(sights)}.",
    )


def section(context: Context, finding: Finding) -> markup.Section:
    """Return the effects of the image, of telling, and of both, by timestep and by head."""
    first, second = context.tables.domains
    n = int(context.tables.telling["n_first"].min())
    return markup.section(
        "telling",
        "What the image does, and what telling does",
        markup.paragraph(finding.answer),
        markup.paragraph(
            f"Each of {n} images per domain is observed three times on the same noise: told that it is {first}, told"
            f" that it is {second}, and told nothing, always without attributes. The difference between {first} images"
            f" told {first} and {second} images told {second} is then the sum of three parts: what the images do when"
            " all are told the same; what being told the one rather than the other does to the same image, on average;"
            " and by how much more being told anything, rather than nothing, changes the images of the one domain than"
            " those of the other (interaction). Whether a head answers to images that agree with what is told of them"
            " cancels in that difference, and is not shown."
        ),
        context.chart("telling"),
        markup.heading("Head by head"),
        context.chart("factorial_map"),
    )
