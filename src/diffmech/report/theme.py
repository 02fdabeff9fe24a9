"""The look of the charts, in light and in dark. Charts name styles and ranges only; a theme gives them their colours.

Categorical colours are those of Okabe and Ito (2008), which stay apart in all common forms of colour blindness;
sequential values use viridis, signed values a blue-orange scale.
"""

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"


def _theme(
    text: str, quiet: str, grid: str, band: str, background: str, category: list[str], diverging: list[str]
) -> dict[str, Any]:
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "mark": {"color": category[0]},
        "axis": {
            "domainColor": grid,
            "gridColor": grid,
            "gridOpacity": 0.6,
            "tickColor": grid,
            "labelColor": quiet,
            "titleColor": text,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
        },
        # numbers on a narrow axis would run together
        "axisQuantitative": {"labelOverlap": "greedy", "labelSeparation": 8},
        "legend": {
            "orient": "top",
            "labelColor": text,
            "titleColor": quiet,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelLimit": 320,
            "titleLimit": 400,
            "symbolBaseFillColor": quiet,
            "symbolBaseStrokeColor": quiet,
            "symbolStrokeWidth": 2,
            "gradientLength": 180,
        },
        "header": {"labelColor": text, "titleColor": quiet, "labelFontSize": 12, "labelFontWeight": 600},
        "title": {"color": text, "fontSize": 13, "anchor": "start"},
        "range": {
            "category": category,
            "heatmap": {"scheme": "viridis"},
            "ramp": {"scheme": "viridis"},
            "diverging": diverging,
        },
        "style": {
            "null-band": {"color": band, "opacity": 0.75},
            "null-line": {"color": quiet, "strokeDash": [4, 3], "strokeWidth": 1.2},
            "zero": {"color": quiet, "strokeWidth": 1},
            "reference": {"color": quiet, "strokeDash": [2, 3], "strokeWidth": 1.5},
            "mark-on-heat": {"color": text, "stroke": background if background != "transparent" else "#14181d"},
            "note": {"color": quiet, "fontSize": 13, "font": FONT},
            "cell-text": {"color": "#ffffff", "fontSize": 10, "font": FONT, "fontWeight": 600},
        },
    }


LIGHT = _theme(
    text="#1d2733",
    quiet="#566373",
    grid="#d9dee5",
    band="#cfd6de",
    background="#ffffff",
    category=[
        "#0072b2",
        "#c4500a",
        "#00805d",
        "#a8517f",
        "#8a6a00",
        "#2f7fb8",
        "#5b4aa0",
        "#7a4a2b",
        "#3f6b2a",
        "#7b8794",
    ],
    diverging=["#0b5394", "#5b9bd5", "#bcd6ee", "#f5f5f3", "#f8cfa6", "#e58a3c", "#a84a00"],
)
DARK = _theme(
    text="#e8ecf1",
    quiet="#a3afbd",
    grid="#39424e",
    band="#3a4350",
    background="transparent",
    category=[
        "#56b4e9",
        "#f0934a",
        "#2dbd92",
        "#d98bb5",
        "#d8b23c",
        "#8ecae6",
        "#a99be8",
        "#c08a66",
        "#9ac27f",
        "#8994a1",
    ],
    diverging=["#7cc0ff", "#3f86c6", "#2a4a66", "#232a32", "#6b4422", "#c9752f", "#ffb36b"],
)
DARK["style"]["cell-text"]["color"] = "#10151a"
THEMES = {"light": LIGHT, "dark": DARK}
