"""The front page says what every study found, quotes safely, leads to the studies, and holds all it shows."""

import re
from html.parser import HTMLParser

import pytest

from diffmech.errors import StoreError
from diffmech.findings import Estimate, Finding, StudyCard, write_findings
from diffmech.report.front_page import write_front_page

PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="5"><rect width="9" height="4"/></svg>'


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.words, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.links += [known["href"]] if tag == "a" else []
        self.images += [known] if tag == "img" else []
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def studies(tmp_path):
    findings = tmp_path / "results/heads/findings.json"
    (findings.parent / "charts").mkdir(parents=True)
    for name in ("first", "second", "third"):
        (findings.parent / f"charts/{name}.svg").write_text(PICTURE)
    estimate = Estimate("Effect of <it>", 12.5, 10.0, 15.0, "%")
    second, third = "charts/second.svg", "charts/third.svg"
    write_findings(
        [
            Finding("Is <b>it</b> so?", "not found", "Not shown.", (), "first", picture="charts/first.svg"),
            Finding("Does it matter?", "found", "Yes.", ("Why.",), "second", estimate=estimate, picture=second),
            Finding("And that?", "found", "Yes.", (), "third", picture=third),
        ],
        findings,
    )
    return [
        StudyCard("heads", "Attention heads", tmp_path / "results/report.html", findings, ""),
        StudyCard("other", "Something else", None, None, "Not run; run it with `snakemake --cores 2 other`."),
    ]


def written(studies, folder):
    write_front_page(studies, folder / "results/index.html", title="All & everything")
    return Page((folder / "results/index.html").read_text(encoding="utf-8"))


def test_every_finding_is_said_with_its_verdict_its_interval_and_the_way_to_its_evidence(studies, tmp_path):
    page = written(studies, tmp_path)
    assert "What 1 study found: Attention heads. 1 other was not run." in page.text
    assert "Not found Is <b>it</b> so? Not shown." in page.text
    assert "Found Does it matter? Yes. Effect of <it>: 12.5 % (10.0 to 15.0)" in page.text
    assert page.links == ["report.html", *(f"report.html#{name}" for name in ("first", "second", "third"))]


def test_pictures_are_inside_with_words_those_of_what_was_found_first(studies, tmp_path):
    page = written(studies, tmp_path)
    assert [image["src"].split(",")[0] for image in page.images] == ["data:image/svg+xml;base64"] * 2
    assert [image["alt"].split("?")[0] for image in page.images] == ["Does it matter", "And that"]


def test_the_front_page_asks_nothing_of_any_network_and_is_whole(studies, tmp_path):
    page = written(studies, tmp_path)
    text = (tmp_path / "results/index.html").read_text(encoding="utf-8")
    assert page.open == []
    assert "default-src 'none'" in text.replace("&#39;", "'")
    assert "<script" not in text
    assert not re.search(r"(src|href)=.https?:", text)
    assert len(text) < 8e6


def test_a_study_that_was_not_run_is_named_with_the_command_that_runs_it(studies, tmp_path):
    page = written(studies[1:], tmp_path)
    assert "No study was run yet." in page.text
    assert "Something else Not run; run it with snakemake --cores 2 other ." in page.text
    assert page.links == []


def test_links_are_those_of_urls(tmp_path):
    write_findings([Finding("Is it?", "found", "Yes.", (), "50 %")], tmp_path / "findings.json")
    card = StudyCard("heads", "Heads", tmp_path / "results/of heads #1.html", tmp_path / "findings.json", "")
    assert written([card], tmp_path).links == ["of%20heads%20%231.html", "of%20heads%20%231.html#50%20%25"]


def test_a_study_that_ran_and_states_nothing_is_not_called_absent(tmp_path):
    write_findings([], tmp_path / "findings.json")
    card = StudyCard("heads", "Attention heads", tmp_path / "results/report.html", tmp_path / "findings.json", "")
    page = written([card], tmp_path)
    assert "What 1 study found: Attention heads." in page.text
    assert "Ran; states no finding." in page.text
    assert page.links == ["report.html"]
    assert 'class="study absent"' not in (tmp_path / "results/index.html").read_text()


def test_what_is_no_longer_asked_for_is_shown_with_that_said(studies, tmp_path):
    old = StudyCard("heads", "Attention heads", studies[0].page, studies[0].findings, "not asked for")
    page = written([old], tmp_path)
    assert "Attention heads not asked for Not found Is <b>it</b> so?" in page.text


def test_a_page_above_the_limit_names_its_pictures(studies, tmp_path):
    for name in ("second", "third"):
        (tmp_path / f"results/heads/charts/{name}.svg").write_bytes(b"0" * 5_000_000)
    with pytest.raises(StoreError, match=r"13\.3 MB, above the 8 MB of a page.*second\.svg 6\.7 MB and .*third\.svg"):
        written(studies, tmp_path)
    assert not (tmp_path / "results/index.html").exists()


def test_pictures_are_svg_or_png_however_their_ending_is_written(tmp_path):
    for name, kind in (("a.SVG", "image/svg+xml"), ("b.PNG", "image/png")):
        (tmp_path / name).write_text(PICTURE)
        write_findings([Finding("Is it?", "found", "Yes.", (), "is", picture=name)], tmp_path / "findings.json")
        card = StudyCard("heads", "Heads", tmp_path / "report.html", tmp_path / "findings.json", "")
        assert written([card], tmp_path).images[0]["src"].startswith(f"data:{kind};")
    write_findings([Finding("Is it?", "found", "Yes.", (), "is", picture="c.jpg")], tmp_path / "findings.json")
    with pytest.raises(StoreError, match=r"c\.jpg: the picture of a finding is neither SVG nor PNG"):
        written([card], tmp_path)


def test_a_missing_picture_is_named(studies, tmp_path):
    (tmp_path / "results/heads/charts/second.svg").unlink()
    with pytest.raises(StoreError, match=r"second\.svg: the picture of a finding is missing"):
        written(studies, tmp_path)
