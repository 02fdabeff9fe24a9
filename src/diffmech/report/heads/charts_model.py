"""Charts of the images and the denoiser: power spectra, training history, held-out loss, recognition."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.report.drawing import (
    absent,
    domain_colour,
    finish,
    from_to,
    table,
    timestep_axis,
    value_scale,
    with_intervals,
)
from diffmech.report.heads.artifacts import records


def power_spectrum(comparison: dict[str, Any], domains: tuple[str, ...]) -> alt.Chart:
    """Radially averaged power of each domain's images, as they were prepared."""
    frame = pd.concat(
        [
            pd.DataFrame({"domain": domain, "frequency": entry["frequency"], "power": entry["power"]})
            for domain, entry in ((domain, comparison["domains"][domain]) for domain in domains)
        ]
    )
    chart = (
        alt.Chart(table(frame))
        .mark_line(point=alt.OverlayMarkDef(size=28))
        .encode(
            x=alt.X(
                "frequency:Q", title="spatial frequency, cycles per image", scale=alt.Scale(type="log", nice=False)
            ),
            y=alt.Y("power:Q", title="power", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=5)),
            color=domain_colour(domains),
            strokeDash=alt.StrokeDash("domain:N", sort=list(domains), legend=None),
            tooltip=["domain:N", alt.Tooltip("frequency:Q", format=".3g"), alt.Tooltip("power:Q", format=".3g")],
        )
    )
    gaps = [entry["after"] for entry in comparison["spectral_distance"]]
    text = f"Power spectra of the images of {' and '.join(domains)}; root mean square log10 ratio {max(gaps):.3g}."
    return finish(chart, text, height=240)


def training_history(history: pd.DataFrame | None) -> Any:
    """Training loss over optimiser steps."""
    if history is None:
        return absent("No training history lies beside the weights of this denoiser.")
    thinned = history.iloc[:: max(1, len(history) // 400)]
    chart = (
        alt.Chart(table(thinned[["step", "loss", "learning_rate"]]))
        .mark_line(strokeWidth=1.3)
        .encode(
            x=alt.X("step:Q", title="optimiser step"),
            y=alt.Y("loss:Q", title="training loss (mean squared error)", scale=value_scale(history["loss"])),
            tooltip=["step:Q", alt.Tooltip("loss:Q", format=".4g"), alt.Tooltip("learning_rate:Q", format=".3g")],
        )
    )
    text = (
        f"Training loss falls from {history['loss'].iloc[0]:.3g} to {history['loss'].iloc[-1]:.3g} in"
        f" {int(history['step'].max())} steps."
    )
    return finish(chart, text, height=200)


def heldout_loss(heldout: pd.DataFrame, domains: tuple[str, ...]) -> Any:
    """Denoising loss per timestep on images that the denoiser was trained on and images that it never saw."""
    heldout = heldout[heldout["timestep"] != "all"]
    if heldout.empty:
        return absent("On which images this denoiser was trained is not on record.")
    heldout = heldout.assign(timestep=heldout["timestep"].astype(float))
    splits = [split for split in ("train", "heldout") if split in set(heldout["split"])]
    data = table(heldout)
    x = timestep_axis()
    y = alt.Y("loss:Q", title="loss (mean squared error of the noise)", scale=value_scale(heldout["loss"]))
    split = alt.StrokeDash("split:N", title=None, sort=splits, scale=alt.Scale(domain=splits, range=[[1, 0], [5, 3]]))
    tooltip = [
        "domain:N",
        "split:N",
        "timestep:Q",
        alt.Tooltip("loss:Q", format=".4g"),
        *from_to(".4g"),
        alt.Tooltip("n:Q", title="images"),
    ]
    line = alt.Chart().mark_line().encode(x=x, y=y, color=domain_colour(domains), strokeDash=split)
    bars = alt.Chart().mark_rule(opacity=0.7).encode(x=x, y="low:Q", y2="high:Q", color=domain_colour(domains))
    points = (
        alt.Chart().mark_point(filled=True, size=30).encode(x=x, y=y, color=domain_colour(domains), tooltip=tooltip)
    )
    text = (
        f"Denoising loss per timestep for {' and '.join(domains)}, {' and '.join(splits)} images, "
        f"from {heldout['loss'].max():.3g} down to {heldout['loss'].min():.3g}."
    )
    return finish(alt.layer(line, bars, points, data=data), text, height=260)


def recognition(recognition: pd.DataFrame | None) -> Any:
    """Share of conditional samples in which a classifier sees the attribute, beside the classifier's own accuracy."""
    if recognition is None:
        return absent("No recognition check was run on this denoiser (target `recognition`).")
    data = table(recognition)
    y = alt.Y("attribute:N", title=None, sort=None)
    intervals = with_intervals(
        alt.X("recognised_share:Q", title="share", scale=alt.Scale(domain=[0, 1])),
        y,
        colour=alt.ColorDatum("generated images", title=None),
        size=80,
        tooltip=[
            "attribute:N",
            alt.Tooltip("recognised_share:Q", format=".3f"),
            *from_to(".3f"),
            alt.Tooltip("heldout_accuracy:Q", title="accuracy on drawn faces", format=".3f"),
        ],
    )
    accuracy = (
        alt.Chart()
        .mark_tick(thickness=3, size=16)
        .encode(y=y, x="heldout_accuracy:Q", color=alt.ColorDatum("classifier's accuracy on drawn faces", title=None))
    )
    chance = alt.Chart().mark_rule(style="reference").encode(x=alt.XDatum(0.5))
    shares = ", ".join(f"{row.attribute} {row.recognised_share:.2f}" for row in records(recognition))
    chart = alt.layer(chance, *intervals, accuracy, data=data)
    return finish(
        chart,
        f"Share of generated images in which the attribute is recognised: {shares}.",
        height=34 * len(recognition),
    )
