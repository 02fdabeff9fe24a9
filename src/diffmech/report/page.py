"""The shell of a page: one file that opens from disk, holds all its data, and asks nothing of any network."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from diffmech.report.markup import Section, environment
from diffmech.report.style import CSS, SCRIPT
from diffmech.report.theme import THEMES

# The browser itself enforces that the page loads nothing: only what is inlined may run or be shown.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'"
)


def assemble(title: str, lead: str, contents: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return the whole page around its sections; `contents` names them for the navigation, by anchor."""
    return (
        environment()
        .get_template("page.html")
        .render(
            policy=POLICY,
            title=title,
            lead=lead,
            contents=contents,
            sections=sections,
            css=Markup(CSS),
            themes=THEMES,
            library=Markup(chart_library()),
            script=Markup(SCRIPT),
        )
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
