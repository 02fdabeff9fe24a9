"""The page as a reader gets it: opened from disk in Chromium, without any network."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

from diffmech.report.heads.charts import every_chart

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium binary on the PATH"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--virtual-time-budget=30000",
    "--enable-logging=stderr",
]
# The page is asked about itself once its charts are drawn. It stands in a frame, since a window cannot be as narrow as
# a telephone; its answer travels in the document that is dumped.
QUESTIONS = """
<script>
new MutationObserver((_, observer) => {
  if (document.body.dataset.charts !== 'drawn') return;
  observer.disconnect();
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  setTimeout(() => {
    const charts = {};
    for (const box of document.querySelectorAll('.chart')) {
      const rows = box.parentElement.querySelectorAll('details.data tbody tr').length;
      const drawing = box.querySelector('svg');
      charts[box.dataset.spec.replace('spec-', '')] = {
        marks: drawing ? drawing.querySelectorAll('.mark-rect path, .mark-symbol path, .mark-line path').length : 0,
        excess: drawing ? drawing.getBoundingClientRect().width - box.clientWidth : 0,
        theme: box.dataset.theme, rows,
      };
    }
    parent.postMessage(JSON.stringify({
      charts, width: innerWidth, content: document.documentElement.scrollWidth,
      background: getComputedStyle(document.body).backgroundColor,
      pictures: [...document.images].every(image => image.naturalWidth > 0),
    }), '*');
  }, 500);
}).observe(document.body, {attributes: true});
</script>
"""


FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener('message', event => {{ document.body.dataset.answer = event.data; }});
</script><iframe src="{address}" style="border:0;width:{width}px;height:900px"></iframe>"""


@pytest.fixture(scope="module")
def page(found):
    """Return the path of the page with the questions in it."""
    folder = found[0]
    asking = folder / "asking.html"
    themes = '<script type="application/json" id="themes">'
    asking.write_text((folder / "report.html").read_text().replace(themes, QUESTIONS + themes))
    return asking


def opened(page, tmp_path, width, *, dark=False):
    """Open the page and return its answer and what the browser logged."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(address=page.as_uri(), width=width))
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,900",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=True,
    )
    answer = re.search(r'data-answer="([^"]*)"', done.stdout)
    assert answer, f"the page was never drawn: {done.stderr[-2000:]}"
    return json.loads(html.unescape(answer[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def wide(page, tmp_path_factory):
    """The answer of the page in a wide window of light colours, and what the browser logged."""
    return opened(page, tmp_path_factory.mktemp("wide"), 1400)


@pytest.fixture(scope="module")
def narrow(page, tmp_path_factory):
    """The same in a narrow window of dark colours."""
    return opened(page, tmp_path_factory.mktemp("narrow"), 400, dark=True)


@pytest.mark.parametrize(("window", "width"), [("wide", 1400), ("narrow", 400)])
def test_every_chart_is_drawn_and_nothing_overflows(request, window, width):
    answer, console = request.getfixturevalue(window)
    assert console == []
    assert answer["width"] == width
    assert set(answer["charts"]) == {chart.name for chart in every_chart()}
    for name, chart in answer["charts"].items():
        assert chart["marks"] >= 1, f"{name} has hardly any marks"
        assert chart["excess"] <= 1, f"{name} is {chart['excess']} pixels too wide"
        assert chart["rows"] >= 3, f"{name} shows no table"
    assert answer["pictures"]
    assert answer["content"] <= answer["width"]


def test_the_page_follows_the_readers_colour_scheme(wide, narrow):
    (light, _), (dark, _) = wide, narrow
    assert {chart["theme"] for chart in light["charts"].values()} == {"light"}
    assert {chart["theme"] for chart in dark["charts"].values()} == {"dark"}
    assert light["background"] != dark["background"]
