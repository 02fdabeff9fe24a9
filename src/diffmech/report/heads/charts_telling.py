"""Charts of what the image and what telling do to attention: three effects that add up to the raw difference. Ours."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.mechanisms.told import EFFECTS, IMAGE, INTERACTION, TOLD
from diffmech.report.drawing import (
    absent,
    beats_both_nulls,
    dots,
    finish,
    from_to,
    head_axis,
    in_panels,
    row_height,
    signed_cells,
    timestep_axis,
)
from diffmech.report.heads.charts_attention import KINDS

NAMES = {
    IMAGE: "the image, all told the same",
    TOLD: "what it is told, same images",
    INTERACTION: "both together, beyond the sum",
}
NOTHING_TOLD = "This denoiser cannot be told a domain, so that all differences are those of the images."


def telling(divergence: pd.DataFrame, telling: pd.DataFrame) -> Any:
    """Mean size over heads of what the image, what telling and their interaction do to entropy, per timestep."""
    if telling.empty:
        return absent(NOTHING_TOLD)
    frame = pd.concat([divergence, telling]).assign(zero=0.0)
    frame["panel"], frame["what"] = frame["kind"].map(KINDS), frame["effect"].map(NAMES)
    kinds = [name for kind, name in KINDS.items() if kind in set(frame["kind"])]
    colour = alt.Color("what:N", title=None, sort=list(NAMES.values()), scale=alt.Scale(domain=list(NAMES.values())))
    x = timestep_axis("timestep")
    y = alt.Y("divergence:Q", title="mean |effect on entropy|, nats")
    line = alt.Chart().mark_line().encode(x=x, y=y, color=colour)
    bars = alt.Chart().mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=colour)
    points = (
        alt.Chart()
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=beats_both_nulls(),
            tooltip=[
                alt.Tooltip("what:N", title="effect of"),
                alt.Tooltip("kind:N", title="attention"),
                "timestep:Q",
                alt.Tooltip("divergence:Q", title="mean size, nats", format=".4g"),
                *from_to(".4g"),
                alt.Tooltip("floor_high:Q", title="95 % of chance", format=".4g"),
                alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3g"),
                alt.Tooltip("p_untrained:Q", title="p against untrained copies", format=".3g"),
            ],
        )
    )
    facets = in_panels(
        alt.layer(line, bars, points).properties(width=300, height=220), "panel", frame, kinds, columns=2
    )
    spoken = [
        f"{kind}, {what}: {part['divergence'].min():.3g} to {part['divergence'].max():.3g} nats."
        for (kind, what), part in frame.groupby(["panel", "what"], sort=False)
    ]
    return finish(facets, f"Mean sizes of three effects on entropy per timestep. {' '.join(spoken)}", panels=2)


def factorial_map(factorial: pd.DataFrame, heads: tuple[str, ...]) -> Any:
    """What the image, what telling and their interaction do to the entropy of each head at each timestep."""
    frame = factorial[factorial["effect"].isin(EFFECTS)]
    if frame["effect"].nunique() < len(EFFECTS):
        frame = frame.assign(what="the image")
        names = ["the image"]
    else:
        frame = frame.assign(what=frame["effect"].map(NAMES))
        names = list(NAMES.values())
    bound = float(frame["estimate"].abs().quantile(0.99)) or 1.0
    x = alt.X("timestep:O", title="timestep", axis=alt.Axis(labelAngle=0, ticks=False))
    tooltip = [
        "head:N",
        "timestep:Q",
        alt.Tooltip("estimate:Q", title="effect, nats", format=".4g"),
        *from_to(".4g"),
        alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3g"),
        alt.Tooltip("p_untrained:Q", title="p against untrained copies", format=".3g"),
    ]
    cells = signed_cells(x, head_axis(heads), "estimate", "effect on entropy, nats", bound, tooltip, clamp=True)
    marks = dots(x, head_axis(heads), "significant")
    chart = alt.layer(cells, marks).properties(width=190, height=row_height(len(heads)) * len(heads))
    columns = ["what", "head", "timestep", "estimate", "low", "high", "p_holm", "p_untrained", "significant"]
    facets = in_panels(chart, "what", frame[columns], names, columns=3)
    found = frame.groupby("what", sort=False)["significant"].agg(["sum", "size"])
    spoken = "; ".join(f"{what}: {int(row['sum'])} of {int(row['size'])} cells" for what, row in found.iterrows())
    return finish(facets, f"Heat maps of effects on the entropy of each head. Beyond both nulls: {spoken}.", panels=3)
