"""Every chart draws its table, says what it shows in words, and follows the theme."""

import csv
import inspect
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import vl_convert
from small_study import changed, study_config

from diffmech.artifacts import building_store
from diffmech.attention.layout import SiteLayout, create_attention_store
from diffmech.config.load import read_config
from diffmech.findings import Finding
from diffmech.interventions.decisions import CAUSAL
from diffmech.report import markup
from diffmech.report.drawing import specification, write_text
from diffmech.report.heads import captions, charts_ablation, charts_attention, charts_model, page
from diffmech.report.heads import charts as declared
from diffmech.report.heads import sections_results as results
from diffmech.report.heads.artifacts import read_tables
from diffmech.report.heads.charts import CHAPTERS, CHARTS, FACTS, every_chart
from diffmech.report.heads.context import Context
from diffmech.report.heads.draw import known
from diffmech.report.theme import THEMES

ROOT = Path(__file__).parents[4]
NAMES = [chart.name for chart in every_chart()]


def rows(spec):
    return list(csv.DictReader(io.StringIO(next(iter(spec["datasets"].values())))))


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_stands_alone_with_its_data_and_a_description(found, name):
    spec = json.loads((found[0] / "charts" / f"{name}.vl.json").read_text())
    assert rows(spec)
    assert len(spec["description"]) > 30
    assert "url" not in json.dumps(spec.get("data", {}))
    picture = (found[0] / "charts" / f"{name}.svg").read_text()
    assert picture.startswith("<svg")
    assert picture.count("<path") > 3


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_every_theme_can_draw_every_chart(found, name, theme):
    spec = json.loads((found[0] / "charts" / f"{name}.vl.json").read_text())
    assert vl_convert.vegalite_to_vega({**spec, "config": THEMES[theme]})["marks"]


@pytest.mark.parametrize("theme", THEMES)
def test_themes_style_the_same_things(theme):
    assert THEMES[theme]["style"].keys() == THEMES["light"]["style"].keys()
    assert len(set(THEMES[theme]["range"]["category"])) == len(THEMES["light"]["range"]["category"])


@pytest.mark.parametrize("chart", every_chart(), ids=lambda chart: chart.name)
def test_a_chart_is_drawn_from_exactly_what_it_declares(chart):
    asked = set(inspect.signature(chart.function()).parameters)
    assert asked - set(FACTS) == set(chart.tables)
    assert chart.chapter in CHAPTERS
    assert chart.draw.startswith("diffmech.")  # or the code that draws it is not tracked


def test_names_of_charts_are_one_of_a_kind():
    assert len(set(NAMES)) == len(NAMES)


def test_declarations_are_read_without_what_draws():
    code = (
        "import sys; from diffmech.report.heads.charts import every_chart; every_chart();"
        "print([name for name in ('altair', 'pandas', 'numpy', 'torch', 'scipy', 'xarray') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("study", sorted((ROOT / "resources/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_caption_can_be_said_of_every_study(study):
    config = read_config(ROOT / "config.yaml", study)
    settings = config.model_dump(mode="json", exclude={"runtime"})
    for chart in every_chart():
        said = chart.words(settings, tuple(config.study.domains))
        assert said.endswith(".")
        assert not set(said) & set("{}\n")


def test_generated_captions_match_the_declarations():
    written = {path.stem: path.read_text(encoding="utf-8") for path in captions.FOLDER.glob("*.rst")}
    assert written == captions.captions(), "run: make docs"


def test_the_page_places_every_chart(found):
    text = (found[0] / "report.html").read_text(encoding="utf-8")
    placed = re.findall(r'id="spec-(\w+)"', text)
    assert sorted(placed) == sorted(NAMES)
    # Those of measures stand at the end of their chapter, wherever that is.
    own = [chart.name for chart in CHARTS]
    assert [name for name in placed if name in own] == own


def test_the_chart_of_a_measure_stands_at_the_end_of_its_chapter(found, monkeypatch):
    measured = replace(CHARTS[2], name="measured", chapter="3 Entropy")
    monkeypatch.setattr(declared, "of_measures", lambda: (measured,))
    monkeypatch.setattr(page, "of_measures", lambda: (measured,))
    context = Context(found[1], found[2], study_config(), {"measured": {}})
    section = page.with_measures(markup.section("entropy", "Entropy", markup.paragraph("Before.")), context)
    assert [str(part)[:3] for part in section.parts] == ["<p>", "<fi"]
    other = markup.section("domains", "Images")
    assert page.with_measures(other, context) == other


def test_equal_tables_give_equal_bytes(found):
    tables = found[2]
    texts = {
        write_text(specification(charts_attention.entropy_map(tables.entropy, tables.heads, tables.domains)))
        for _ in range(2)
    }
    assert len(texts) == 1


def test_the_entropy_map_shows_both_domains_and_the_untrained_null(found):
    tables = found[2]
    spec = specification(charts_attention.entropy_map(tables.entropy, tables.heads, tables.domains))
    panels = {row["panel"] for row in rows(spec)}
    assert panels == {"real", "synthetic", "untrained copies"}
    null = [float(row["normalised"]) for row in rows(spec) if row["panel"] == "untrained copies"]
    assert null == pytest.approx([0.985] * len(null))


def test_the_divergence_chart_marks_exactly_the_significant_timesteps(found):
    spec = specification(charts_attention.entropy_divergence(found[2].divergence))
    marked = {row["timestep"] for row in rows(spec) if row["significant"] == "true" and row["kind"] == "self"}
    assert marked == {"220", "420", "620", "820"}


def test_only_effects_beyond_controls_get_the_strongest_mark(found):
    tables = found[2]
    spec = specification(charts_ablation.ablation_forest(tables.effects, "mechanisms", "mean", tables.domains, {}))
    strongest = {row["name"] for row in rows(spec) if row["verdict"] == charts_ablation.MARKS[CAUSAL][0]}
    assert strongest == {"self-1"}


def test_the_map_dots_exactly_the_cells_that_differ_from_zero(found):
    tables = found[2]
    spec = specification(
        charts_ablation.ablation_map(tables.effects, tables.heads, tables.domains, study_config().ablation)
    )
    significant = sum(row["significant"] == "true" for row in rows(spec))
    assert 0 < significant < len(rows(spec))
    picture = vl_convert.vegalite_to_svg(json.dumps(spec))
    drawn = sum(group.count("<path") for group in re.findall(r"mark-symbol role-mark.*?</g>", picture, re.DOTALL))
    assert drawn == significant


def test_single_heads_are_limited_to_the_strongest(found):
    tables = found[2]
    spec = specification(charts_ablation.ablation_forest(tables.effects, "heads", "mean", tables.domains, {}))
    assert len({row["name"] for row in rows(spec)}) == charts_ablation.TOP_HEADS


def test_the_published_ratio_stands_among_the_measured_ones(found):
    tables = found[2]
    references = {"published": [{"key": "complexity_ratio", "value": 1.084, "interval": [1.076, 1.092]}]}
    spec = specification(charts_ablation.complexity_ratio(tables.complexity, references, tables.domains))
    assert [float(row["ratio"]) for row in rows(spec)] == [1.12, 1.03, 0.99, 1.084]


def test_what_was_not_recorded_is_said_and_not_drawn():
    for chart in (charts_model.training_history(None), charts_model.recognition(None)):
        spec = specification(chart)
        assert "No " in rows(spec)[0]["message"]


def store_of_layers(folder: Path, names: list[str]) -> str:
    """Write an attention store of one image whose layers ran in the order of `names`, two heads in each."""
    layouts = [
        SiteLayout(name, "self", tuple(f"{name}.h{head:02d}" for head in range(2)), 4, 4, 8, (2, 2)) for name in names
    ]
    axes, about = {"sample": [0], "timestep": [20]}, {"domain": "real", "model_sha256": "0"}
    with building_store(folder / "layers.zarr.zip") as directory:
        create_attention_store(directory, layouts, axes=axes, chunks={"sample": 1, "timestep": 1}, attrs=about)
    return str(folder / "layers.zarr.zip")


@pytest.mark.parametrize(
    "names",
    [
        [f"layers.{index}.mha.self" for index in range(12)],  # by name 10 and 11 stand before 2
        ["blocks.0.attn.mha.self", "block01.self", "blocks.2.attn.mha.self"],
        ["down1.0.self", "down1.0.cross", "mid.0.self", "up1.0.self", "up1.0.cross"],
    ],
)
def test_layers_stand_in_the_order_in_which_they_run(names, found, tmp_path):
    inputs = changed(found[1], attention={domain: [store_of_layers(tmp_path, names)] for domain in found[2].domains})
    tables = read_tables(inputs)
    assert list(tables.sites) == names
    assert list(tables.heads) == [f"{name}.h{head:02d}" for name in names for head in range(2)]


def test_all_charts_take_layers_and_heads_in_that_order(found):
    sites, heads = tuple(reversed(found[2].sites)), tuple(reversed(found[2].heads))
    tables = replace(found[2], sites=sites, heads=heads)
    drawn = {chart.name: specification(chart.drawn(known(tables, study_config().ablation))) for chart in every_chart()}
    assert [*sites, "output"] in list(orders(drawn["circuit_graph"]))
    assert list(sites) in list(orders(drawn["entropy_layers"]))
    by_head = [found for spec in drawn.values() for found in orders(spec) if set(found) == set(heads)]
    assert len(by_head) >= 3
    assert all(found == list(heads) for found in by_head)
    page = results.mechanisms(Context(found[1], tables, study_config(), drawn), Finding("", "found", "", (), ""))
    listed = [re.findall(r"\S+\.self(?= h\d\d)", cell) for cell in re.findall(r"<td[^>]*>\d+: (.*?)</td>", str(page))]
    assert any(len(layers) > 1 for layers in listed)
    assert all(layers == [site for site in sites if site in layers] for layers in listed)


def orders(spec):
    """Yield every order of names that a chart gives: of an axis or of panels."""
    if isinstance(spec, dict):
        yield from (spec[key] for key in ("sort", "domain") if isinstance(spec.get(key), list))
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from orders(part)
