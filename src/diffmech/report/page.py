"""The shell of a page: one file that opens from disk, holds all its data, and asks nothing of any network."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from diffmech.report.style import CSS, SCRIPT
from diffmech.report.theme import THEMES

# The browser itself enforces that the page loads nothing: only what is inlined may run or be shown.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'"
)


def assemble(title: str, lead: str, contents: Mapping[str, str], parts: Sequence[str]) -> str:
    """Return the whole page around its sections; `contents` names them for the navigation, by anchor."""
    there = [anchor for anchor in contents if any(f'<section id="{anchor}"' in part for part in parts)]
    entries = "".join(f'<li><a href="#{anchor}">{escape(contents[anchor])}</a></li>' for anchor in there)
    themes = json.dumps(THEMES, separators=(",", ":"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{CSS}</style></head>",
            '<body><a class="skip" href="#answers">To the findings</a><div class="frame">',
            f'<nav aria-label="Sections"><ol>{entries}</ol></nav><main>',
            f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>',
            "<noscript><p>The charts need JavaScript; all text, tables and pictures do not.</p></noscript>",
            *parts,
            "<footer>Made by diffmech. Everything on this page is inside this file.</footer>",
            "</main></div>",
            f'<script type="application/json" id="themes">{themes}</script>',
            f"<script>{chart_library()}</script>",
            f"<script>{SCRIPT}</script>",
            "</body></html>\n",
        ]
    )


def chart_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    # "</script" inside a string of the library would end the element early.
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)).replace(
        "</script", "<\\/script"
    )
