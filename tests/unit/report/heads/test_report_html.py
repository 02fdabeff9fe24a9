"""The page holds everything it shows, says what is missing, and cannot be broken by what it quotes."""

import html
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from small_study import changed, study_config

from diffmech.errors import StoreError
from diffmech.report import markup
from diffmech.report.heads.artifacts import read_tables
from diffmech.report.heads.findings import findings
from diffmech.report.heads.page import CONTENTS, durations


class Page(HTMLParser):
    """Collects what a test asks about: addresses, images without words, ids, open elements."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.wordless, self.stack, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img" and not attributes.get("alt"):
            self.wordless.append(attributes)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def pages(found, null):
    return [Page((study[0] / "report.html").read_text()) for study in (found, null)]


def test_the_page_asks_nothing_of_any_network(found, pages):
    for page in pages:
        assert {address.split(":")[0] if ":" in address else "#" for address in page.addresses} <= {"data", "#"}
    text = (found[0] / "report.html").read_text()
    assert "default-src 'none'" in html.unescape(text)
    assert "@import" not in text.split("</style>")[0]
    assert "url(" not in text.split("</style>")[0]


def test_the_page_is_small_and_whole(found, null, pages):
    for study, page in zip((found, null), pages, strict=True):
        assert (study[0] / "report.html").stat().st_size < 8e6
        assert page.stack == []


def test_every_picture_has_words_and_every_id_is_one_of_a_kind(pages):
    for page in pages:
        assert page.wordless == []
        assert len(page.ids) == len(set(page.ids))
        assert {f"#{anchor}" for anchor in CONTENTS} <= set(page.addresses)
        assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_random_weights_are_said_to_have_found_nothing(pages):
    assert "nothing can be found. And nothing was found, as it should be." in pages[1].text
    assert "random weights" not in pages[0].text.split("What was run")[0]


def test_missing_optional_tables_are_said_to_be_missing(pages):
    assert "No training history lies beside the weights" in pages[1].text
    assert "No recognition check lies beside the weights" in pages[1].text
    assert "glasses in 90 % (84 to 95) of 64" in pages[0].text.replace("\xa0", " ")


def test_figures_of_papers_carry_their_source_and_the_warning_about_uniform_attention(pages):
    assert "1.084 ± 0.008" in pages[0].text
    assert "arXiv 2506.17237" in pages[0].text
    assert "ln 64 = 4.159" in pages[0].text
    assert "source: ours" in pages[0].text


def test_settings_are_shown_without_those_that_change_nothing(pages):
    assert "keep_maps: 2" in pages[0].text
    assert "batch_size: 64" not in pages[0].text


def test_a_table_that_lacks_a_column_is_named(found, tmp_path):
    broken = tmp_path / "divergence.csv"
    pd.read_csv(found[1].tables["divergence"]).drop(columns="floor").to_csv(broken, index=False)
    with pytest.raises(StoreError, match=r"divergence\.csv: lacks the columns floor"):
        read_tables(changed(found[1], divergence=str(broken)))


@pytest.mark.parametrize("content", [None, "published: [", "7"])
def test_published_figures_that_cannot_be_read_are_named(content, found, tmp_path):
    broken = tmp_path / "references.yaml"
    if content is not None:
        broken.write_text(content)
    message = r"references\.yaml: the published figures cannot be read \(.*\); restore the file"
    with pytest.raises(StoreError, match=message) as caught:
        read_tables(changed(found[1], references=str(broken)))
    assert "\n" not in str(caught.value)


def test_a_published_figure_that_was_taken_out_is_named(found):
    references = found[2].references | {"published": []}
    with pytest.raises(
        StoreError, match=r"references\.yaml: has no published figure 'complexity_ratio'; restore the file"
    ):
        findings(changed(found[2], references=references), study_config())


def test_an_empty_table_is_named(found, tmp_path):
    (tmp_path / "effects.csv").write_text("")
    with pytest.raises(StoreError, match=r"effects\.csv: cannot be read as a table"):
        read_tables(changed(found[1], effects=str(tmp_path / "effects.csv")))


def test_quoted_text_cannot_break_the_page():
    spec = {"description": 'a "quote" & </script><b>', "datasets": {"x": "a\n</script>"}}
    chart = markup.chart("x", spec, "<i>caption</i>")
    assert chart.count("</script>") == 1
    assert "<i>" not in chart
    assert Page(chart).stack == []


def test_durations_are_summed_over_jobs(found, tmp_path):
    text = Page(durations(found[1].benchmarks)).text
    assert re.search(r"capture_attention\s+1\s+42 s\s+812 MB", text)
    assert "No durations" in durations(str(tmp_path / "none"))


def test_the_small_study_is_a_valid_study():
    assert study_config().study.domains == {"real": "lfw", "synthetic": "drawn"}
