"""Charts of mechanisms: which head does what in which phase, and how good and stable the clusters are."""

import altair as alt
import pandas as pd

from diffmech.report.drawing import finish, head_axis, in_panels, row_height, table
from diffmech.report.heads.artifacts import records
from diffmech.report.heads.terms import LABELS
from diffmech.report.wording import count

MEASURES = {
    "silhouette": "silhouette (higher = apart)",
    "bic": "BIC (lower = better)",
    "ari_sample_bootstrap": "ARI over resampled images",
    "ari_seeds": "ARI over seeds",
}


def cluster_quality(clusters: pd.DataFrame) -> alt.FacetChart:
    """Silhouette, BIC and both adjusted Rand indices for every number of clusters."""
    frame = clusters.melt(id_vars=["kind", "k", "chosen"], value_vars=list(MEASURES), var_name="measure").dropna()
    frame["measure"] = frame["measure"].map(MEASURES)
    kinds = list(dict.fromkeys(clusters["kind"]))
    x = alt.X("k:Q", title="clusters", axis=alt.Axis(tickMinStep=1, grid=False))
    line = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(size=26))
        .encode(
            x=x,
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4, format="~g")),
            color=alt.Color("kind:N", title="attention", scale=alt.Scale(domain=kinds)),
            strokeDash=alt.StrokeDash("kind:N", sort=kinds, legend=None),
            tooltip=["kind:N", "k:Q", "measure:N", alt.Tooltip("value:Q", format=".4g")],
        )
    )
    used = (
        alt.Chart()
        .mark_point(shape="circle", size=150, strokeWidth=2, filled=False)
        .encode(x=x, y=alt.Y("value:Q", title=None), color=alt.Color("kind:N", title="attention"))
        .transform_filter("datum.chosen")
    )
    chart = alt.layer(line, used).properties(width=180, height=150)
    facets = in_panels(chart, "measure", frame, list(MEASURES.values()), columns=4).resolve_scale(y="independent")
    chosen = clusters[clusters["chosen"]]
    named = "; ".join(
        f"{row.kind}: {row.k} clusters in use, silhouette {row.silhouette:.2f}" for row in records(chosen)
    )
    return finish(facets, f"Cluster quality for each number of clusters. {named}.", panels=4)


def mechanism_grid(mechanisms: pd.DataFrame, heads: tuple[str, ...]) -> alt.LayerChart:
    """One cell per head and phase, coloured and lettered by its label; pale where the head does not confirm it."""
    columns = (
        "head phase phase_first phase_last mechanism label label_first label_second probe enrichment p_rolled_holm "
        "p_untrained confirmed stability"
    )
    frame = mechanisms[columns.split()].copy()
    frame["when"] = [f"phase {row.phase}: t {row.phase_first:g} to {row.phase_last:g}" for row in records(mechanisms)]
    doubtful = ~frame["confirmed"] & (frame["label"] != "unassigned")
    frame["sure"] = ~doubtful
    frame["letters"] = (
        frame["label"].where(frame["label"] != "unassigned", "–")
        + doubtful.map({True: "?", False: ""})
        + (" (" + frame["mechanism"].astype(str) + ")")
    )
    present = set(frame["label"])
    labels = [*LABELS, *sorted(present - set(LABELS))]
    phases = list(frame.sort_values("phase_first")["when"].unique())
    shown = tuple(head for head in heads if head in set(frame["head"]))
    x = alt.X("when:N", title=None, sort=phases, axis=alt.Axis(labelAngle=0, orient="top", labelLimit=160, ticks=False))
    y = head_axis(shown)
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "label:N",
                title="label",
                scale=alt.Scale(domain=labels),
                legend=alt.Legend(values=[label for label in labels if label in present]),
            ),
            opacity=alt.condition("datum.sure", alt.value(1), alt.value(0.35)),
            tooltip=[
                "head:N",
                alt.Tooltip("when:N", title="phase"),
                "mechanism:N",
                "label:N",
                alt.Tooltip("label_first:N", title="in the first domain"),
                alt.Tooltip("label_second:N", title="in the second domain"),
                alt.Tooltip("confirmed:N", title="confirmed by this head"),
                alt.Tooltip("probe:N", title="what holds most in both domains"),
                alt.Tooltip("enrichment:Q", title="its enrichment", format=".3g"),
                alt.Tooltip("p_rolled_holm:Q", title="its p against rolled maps (Holm)", format=".3g"),
                alt.Tooltip("p_untrained:Q", title="its p against untrained copies", format=".3g"),
                alt.Tooltip("stability:Q", title="stability", format=".2f"),
            ],
        )
    )
    text = alt.Chart().mark_text(style="cell-text").encode(x=x, y=y, text="letters:N")
    counted = frame["label"].where(frame["sure"], "unconfirmed").value_counts()
    counts = ", ".join(f"{label} {many}" for label, many in counted.items())
    layers = [cells, text] if row_height(len(shown)) >= 12 else [cells]
    return finish(
        alt.layer(*layers, data=table(frame)),
        f"Grid of {len(shown)} heads by {count(len(phases), 'phase')}, each cell with its label: {counts}.",
        height=row_height(len(shown)) * len(shown),
    )
