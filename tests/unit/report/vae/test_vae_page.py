"""The page on VAEs says what its tables say, shows all of them, and gives reasons where there is nothing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from small_vaes import EFFECTS, FACTORS, Planted, study, write_study

from diffmech.errors import StoreError
from diffmech.findings import read_findings
from diffmech.report.vae import charts_graphs, charts_latents, charts_scores, grids, sections
from diffmech.report.vae.findings import findings
from diffmech.report.vae.inputs import OF_ALL, by_data, read_tables
from diffmech.report.vae.page import write_page
from diffmech.report.vae.words import over_all
from diffmech.vae.tables import LINKS

CHARTS = (
    *("strengths", "specificity", "effects", "kinds", "participation", "modularity", "patching", "mediation", "links"),
    *("motifs", "causes", "scores", "families", "relation"),
)
TWO = {"scene": {"kind": "pendulum"}, "photos": {"kind": "celeba", "path": "photos", "attributes": ["Smiling"]}}


class Words(HTMLParser):
    """The text of a page, without its scripts, and its pictures without words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside, self.parts, self.wordless, self.ids = [], [], 0, []
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.ids += [told["id"]] if "id" in told else []
        if tag == "img":
            self.wordless += not told.get("alt")
        elif tag not in ("meta", "link"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.parts.append(data)


def spec_of(page: str, name: str) -> dict:
    """Return the specification of a chart of the page."""
    start = page.index(f'id="spec-{name}">') + len(f'id="spec-{name}">')
    return json.loads(page[start : page.index("</script>", start)])


@pytest.fixture(scope="module", autouse=True)
def without_library():
    """Leave out what draws charts in a browser, which is a second of work for each page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffmech.report.page.chart_library", lambda: "")
        yield


def written(folder, vae, **changed):
    """Write the page of a small study, and return it with its findings and the picture."""
    inputs = write_study(folder, vae) | changed
    outputs = (folder / "vae.html", folder / "vae.json", folder / "traversals.svg")
    write_page(inputs, *outputs, vae=vae)
    return outputs[0].read_text(), read_findings(outputs[1]), outputs[2].read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("whole"), study(vq=True))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The page of two data sets, one seed each; no factor of the second can be changed."""
    return written(tmp_path_factory.mktemp("two"), study(seeds=1, kinds=TWO))


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """Tables of a study with intervals, from which others are planted by changing single ones."""
    vae = study(vq=True)
    inputs = write_study(tmp_path_factory.mktemp("sprites"), vae)
    return vae, read_tables(by_data(inputs, vae.data)["sprites"])


def verdict_of(question: str, tables, vae) -> tuple[str, str]:
    """Return verdict and answer of the finding whose question begins so."""
    [found] = [each for each in findings("sprites", tables, vae, None) if each.question.startswith(question)]
    return found.verdict, found.answer


def test_every_chart_is_there_with_words_for_those_who_do_not_see_it(whole):
    for name in CHARTS:
        assert len(spec_of(whole[0], f"sprites-{name}")["description"]) > 40, name
    page = Words(whole[0])
    assert page.wordless == 0
    assert page.inside == []
    assert len(page.ids) == len(set(page.ids))
    assert len(whole[0].encode()) < 8_000_000


PLANTED = {
    "models": "bound",
    "latents": "deviation",
    "effects": "change",
    "units": "participation",
    "patching": "random",
    "mediation": "direct",
    "modularity": "ceiling",
    "motifs": "expected",
    "links": "weight",
    "graphs": "random",
    "swaps": "per_pixel",
    "families": "mean",
    "relation": "correlation",
    "scores": "score",
    "edges": "change",
}


def test_every_table_is_shown_and_no_name_breaks_the_page(tmp_path):
    """A number that no other table has is planted in each of them, and has to come up."""
    vae = study(vq=True)
    inputs = write_study(tmp_path, vae)
    assert set(PLANTED) == {*OF_ALL, "scores", "edges"}
    numbers = {name: 0.30117 + 0.01 * place for place, name in enumerate(PLANTED)}
    for name, number in numbers.items():
        given = inputs[f"sprites__{name}"]
        for path in given if isinstance(given, list) else [given]:
            frame = pd.read_csv(path)
            frame[PLANTED[name]] = frame[PLANTED[name]].where(frame[PLANTED[name]].isna(), number)
            frame.assign(**{"factor": "</script><b>x & y"} if name in ("latents", "effects") else {}).to_csv(
                path, index=False
            )
    write_page(inputs, tmp_path / "p.html", tmp_path / "f.json", tmp_path / "t.svg", vae=vae)
    page = (tmp_path / "p.html").read_text()
    for name, number in numbers.items():
        assert any(f"{number:.{digits}g}" in page for digits in (5, 3)), name
    assert "<b>" not in page + (tmp_path / "t.svg").read_text()
    assert Words(page).inside == []
    assert "latent 0: &lt;/script&gt;&lt;b&gt;x &amp; y" in page  # the traversals name factors by their effects


def test_findings_say_what_was_found(whole):
    found = {finding.question: finding for finding in whole[1]}
    assert {finding.verdict for finding in whole[1]} == {"found", "not found", "caution"}
    made_up = found["Do codes of sprites suggest that one factor causes another, where none does?"]
    assert (made_up.verdict, made_up.answer) == ("not found", "0 of 6 VAEs suggest it.")
    assert len(found) == 8
    learned = found["Have the VAEs of sprites learned their images?"]
    assert learned.answer.startswith("All 6 VAEs have: a reconstruction costs ")
    assert "; 4 latents are active." in learned.answer
    better = found["Does a family tell the factors of sprites apart better than the plain VAE?"]
    assert (
        better.answer == "Yes: beta_tc in DCI disentanglement and beta_tc in MIG, with an interval over seeds above 0."
    )
    assert (better.estimate.value, better.estimate.low) == (0.2, pytest.approx(0.1))
    falls = found["Does effect strength fall as disentanglement rises in sprites?"]
    assert falls.answer == "Yes: Spearman's correlation −0.800 (−0.950 to −0.650) over 4 VAEs."
    assert falls.details[-1].startswith("Effect strength, calibrated: −0.800 (−0.950 to −0.650), p\u00a0=\u00a00.01;")
    assert falls.details[-1].endswith("; within families −0.400.")
    carried = found["Do few units carry what a factor of sprites does, more than others?"]
    assert 35 < carried.estimate.value < 45
    assert re.search(
        r"total effect (0\.9|1\.0).*; directly 0\.[23].*; through the chosen units 0\.[45]", carried.details[1]
    )
    paths = found["Do kinds of paths from factors of sprites to outputs recur more often than by chance?"]
    assert paths.answer == "Yes: coherent units (in 4 of 4 VAEs)."
    assert "grid of numbers of codes" in found["Can latents of a VQ-VAE be shifted in sprites?"].answer


def test_a_family_is_better_only_with_an_interval_above_zero_after_correction(sprites):
    vae, tables = sprites
    question = "Does a family"
    assert verdict_of(question, tables, vae)[0] == "found"
    for column, value in (("p_corrected", 0.2), ("difference_low", -0.01)):
        other = tables.families.assign(
            **{column: tables.families[column].where(tables.families["family"] == "vae", value)}
        )
        verdict, answer = verdict_of(question, replace(tables, families=other), vae)
        assert verdict == "not found"
        assert answer.startswith("None does, in DCI or MIG")
    once = tables.families.assign(difference_low=np.nan, difference_high=np.nan, p_corrected=np.nan)
    assert verdict_of(question, replace(tables, families=once), vae)[0] == "cannot be told"
    alone = tables.families[tables.families["family"] == "vae"]
    assert verdict_of(question, replace(tables, families=alone), vae)[0] == "cannot be told"


def test_a_grid_of_codes_is_not_said_to_be_better_in_mig(sprites):
    vae, tables = sprites
    rows = tables.families[tables.families["family"] == "beta_tc"].assign(family="vq")
    plain = tables.families[tables.families["family"] == "vae"]
    verdict, _ = verdict_of("Does a family", replace(tables, families=pd.concat([plain, rows])), vae)
    assert verdict == "cannot be told"


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict", "said"),
    [
        (-0.9, -0.2, 0.01, "found", "Yes:"),
        (-0.3, 0.4, 0.7, "not found", "That was not seen:"),
        (0.2, 0.9, 0.01, "not found", "No, it rises:"),
        (-0.9, 0.3, 0.2, "cannot be told", "Not decided:"),
        (-0.9, -0.2, 0.2, "cannot be told", "Not decided:"),
        (np.nan, np.nan, np.nan, "cannot be told", "Too few VAEs"),
    ],
)
def test_effect_strength_falls_only_with_an_interval_below_zero(sprites, low, high, p, verdict, said):
    vae, tables = sprites
    other = tables.relation.assign(correlation=(low + high) / 2, low=low, high=high, p=p)
    found = verdict_of("Does effect strength fall", replace(tables, relation=other), vae)
    assert found[0] == verdict
    assert found[1].startswith(said)


def test_one_vae_with_a_selective_unit_may_be_chance(sprites):
    vae, tables = sprites
    question = "Do units respond"
    assert verdict_of(question, tables, vae)[0] == "found"
    none = tables.units.assign(kind=tables.units["kind"].replace("monosemantic", "polysemantic"))
    verdict, answer = verdict_of(question, replace(tables, units=none), vae)
    assert verdict == "not found"
    assert answer.startswith("No unit of 6 VAEs responds")
    none.loc[none.index[0], "kind"] = "monosemantic"
    assert verdict_of(question, replace(tables, units=none), vae)[0] == "cannot be told"


@pytest.mark.parametrize(("share", "verdict"), [(0.6, "found"), (0.2, "cannot be told"), (0.05, "not found")])
def test_few_units_carry_a_factor_only_beyond_random_ones(sprites, share, verdict):
    vae, tables = sprites
    shift = share - tables.patching["share"].mean()
    noise = 0.02 * (tables.patching["vae_seed"] - 0.5)  # so that an interval over VAEs holds 0 where nothing is carried
    other = tables.patching.assign(share=tables.patching["share"] + shift + noise)
    assert verdict_of("Do few units", replace(tables, patching=other), vae)[0] == verdict
    everything = tables.patching.assign(units=tables.patching["of"])
    found = verdict_of("Do few units", replace(tables, patching=everything), vae)
    assert found == ("cannot be told", "Every layer is patched as a whole: measures.share leaves no unit out.")


def test_motifs_are_found_only_where_there_are_more_than_expected(sprites):
    vae, tables = sprites
    question = "Do kinds of paths"
    rarer = tables.motifs.assign(found=0)
    assert verdict_of(question, replace(tables, motifs=rarer), vae)[0] == "not found"
    once = tables.motifs.assign(p_corrected=[0.01 if row == 2 else 1.0 for row in range(len(tables.motifs))])
    assert verdict_of(question, replace(tables, motifs=once), vae)[0] == "cannot be told"


@pytest.mark.parametrize(("distance", "verdict"), [(0, "found"), (2, "not found")])
def test_a_graph_with_wrong_edges_is_not_recovered(tmp_path, distance, verdict):
    vae = study(kinds={"scene": {"kind": "pendulum"}})
    inputs = write_study(tmp_path, vae, Planted(distance=distance))
    tables = read_tables(by_data(inputs, vae.data)["scene"])
    [graph] = [each for each in findings("scene", tables, vae, None) if each.question.startswith("Is the causal graph")]
    assert graph.verdict == verdict
    assert graph.details[0] == "The true graph has 4 edges; set on the mechanism itself, the estimate is the same."
    assert graph.details[1] == "Of untrained encoders of the same form 4 of 4 give it as well."
    assert graph.estimate.value == distance
    exact = "4 of 4 VAEs give the true graph."
    wrong = "0 of 4 VAEs give the true graph; on average 2.00 edges are wrong or missing."
    assert graph.answer == (wrong if distance else exact)
    said = charts_graphs.causal_map(tables.edges, vae).to_dict()["description"]
    assert "set on the mechanism itself: 4 true edges found, 0 missed, 0 false" in said
    assert f"read from vae: 4 true edges found, 0 missed, {distance} false" in said


def test_what_has_not_learned_is_named(sprites):
    vae, tables = sprites
    tables = replace(tables, models=tables.models.assign(learned=tables.models.index != 2))
    found = next(findings("sprites", tables, vae, "picture.svg"))
    assert found.verdict == "not found"
    assert found.answer.startswith("5 of 6 VAEs have")
    assert found.details == ("Not learned, so that nothing below is said of its latents and units: beta_tc, seed 0.",)


def test_one_p_over_vaes_holds_however_they_depend():
    assert over_all([0.02] * 6) == pytest.approx(0.04)
    assert over_all([0.01, 0.02, 0.9]) == pytest.approx(0.03)  # 3 / 2 times the second
    assert over_all([0.001, 0.9, 1.0, 1.0]) == 1.0
    assert over_all([]) == 1.0
    rng = np.random.default_rng(0)
    shared = rng.random((4000, 1))
    for p_values in (np.tile(shared, 6), rng.random((4000, 6)), np.hstack([shared, shared, 1 - shared, 1 - shared])):
        assert np.mean([over_all(row) <= 0.1 for row in p_values]) <= 0.1 + 3 * np.sqrt(0.09 / 4000)


def test_units_of_what_has_not_learned_are_not_counted(sprites):
    vae, tables = sprites
    of_one = (tables.units["family"] == "beta_tc") & (tables.units["vae_seed"] == 0)
    units = tables.units.assign(kind=np.where(of_one, "monosemantic", "polysemantic"))
    tables = replace(tables, units=units)
    assert verdict_of("Do units respond", tables, vae)[1].startswith("1 of 6 VAEs")
    failed = replace(tables, models=tables.models.assign(learned=tables.models.index != 2))
    assert verdict_of("Do units respond", failed, vae) == (
        "not found",
        "No unit of 5 VAEs responds mainly to one factor, more selectively than units of untrained twins and than "
        "factors permuted over pairs allow.",
    )


def test_one_seed_has_no_interval_and_says_so(two):
    page, found, _ = two
    verdicts = {finding.question.split(" ")[2]: finding.verdict for finding in found[1:3]}
    assert verdicts == {"family": "cannot be told", "strength": "cannot be told"}
    assert "Each family was trained once; a difference needs an interval over seeds" in found[1].answer
    assert "0.200, no interval" in Words(page).text
    assert "Nothing to relate" in Words(page).text


def test_where_no_factor_can_be_changed_reasons_stand_in_place_of_charts(two):
    page, found, _ = two
    told = Words(page)
    assert told.text.count("Nothing is measured here: no factor of these images can be changed alone") == 5
    assert "No effect on a latent was mediated" in told.text
    for name in CHARTS:
        there = name in ("strengths", "specificity", "scores", "families")
        assert (f'"spec-photos-{name}"' in page) == there, name
    assert found[-1].verdict == "caution"
    chapter = page[page.index('id="photos-traversals"') : page.index('id="photos-latents"')]
    assert ">latent 0</div>" in chapter  # no factor names it


def test_a_study_of_codes_alone_has_no_latents(sprites):
    vae, tables = sprites
    shown = sections.latents("sprites", replace(tables, latents=tables.latents.head(0)), {}, vae)
    assert [str(each).count("No VAE of this data set has single latents") for each in shown] == [1, 1]
    for drawn in (charts_latents.strengths, charts_latents.effects_map):
        assert "description" in drawn(tables.latents.head(0), vae).to_dict()


def test_motifs_that_follow_from_degrees_are_listed_as_not_tested(whole):
    [data] = spec_of(whole[0], "sprites-motifs")["datasets"].values()
    assert "coherent units" in data
    assert "fan-out" not in data
    assert "fan-out 44 44.0 (34.0 to 54.0) not tested" in Words(whole[0]).text


def test_what_is_undefined_of_codes_is_not_shown_as_zero(whole):
    text = Words(whole[0]).text
    assert "are undefined, and are not shown as zero" in text
    assert "undefined: codes have no order; the same code is chosen again in 71 % of places" in text
    assert "any other code in one place" in text


def test_traversals_name_the_factor_and_leave_out_what_is_not_active(whole):
    page, found, drawn = whole
    assert re.findall(r">(latent \d: \w+)</text>", drawn) == [f"latent {n}: {FACTORS[n]}" for n in range(4)]
    assert page.count('alt="latent 0: shape; 7 images decoded with this latent alone from −2.0 to +2.0 sd"') == 2
    assert "Not active, and not shown: latents 4 and 5." in page
    assert [finding.picture for finding in found][:2] == ["traversals.svg", None]


def test_each_data_set_has_its_chapter(two):
    page, found, drawn = two
    titles = re.findall(r'<h2 id="h-[^"]*">([^<]*)</h2>', page)
    assert titles[0] == "scene: what was found"
    assert titles[-2:] == ["Measured beside published", "Settings"]
    assert sum(title.startswith("photos: ") for title in titles) == (len(titles) - 2) / 2
    assert {finding.section for finding in found} <= set(re.findall(r'<section id="([^"]*)"', page))
    # the picture is of the first data set alone
    assert [finding.picture for finding in found if finding.picture] == ["traversals.svg"]
    assert "latent 0: angle</text>" in drawn


def test_versions_of_a_paper_are_kept_apart_beside_what_was_measured(whole):
    table = Words(whole[0][whole[0].index('id="published"') - 10 : whole[0].index('<section id="settings"')]).text
    for version, figure in (("v1 (arXiv 2505.03530;", "0.064 and 3.99"), ("v3 (arXiv 2505.03530;", "near zero")):
        assert table.index(version) < table.index(figure)
    assert "0.084 and 4.59" in table
    assert "sprites: not trained" in table  # no FactorVAE is
    assert "sprites: DCI disentanglement 0.200 (0.150 to 0.250), raw strength " in table
    assert "change per pixel by swaps: neighbour 0.0210, random 0.0630, shift 0.00400; undefined: codes" in table


def test_the_graph_shows_the_strongest_paths_of_one_vae():
    rows = [("vae", 0, "encoder.hidden", "x", f"unit {n}", "factor-unit", 1 - 0.03 * n, 0.01) for n in range(20)]
    rows += [("vae", 0, "encoder.hidden", f"unit {n}", "latent 1", "unit-latent", -1.0, 0.01) for n in range(20)]
    rows += [("vae", 0, "encoder.hidden", "latent 1", "spread", "latent-output", 0.5, 0.01)]
    rows += [("vae", 0, "encoder.hidden", "latent 2", "spread", "latent-output", 0.5, 0.01)]  # nothing leads to it
    rows += [("vae", 0, "encoder.hidden", "y", "unit 0", "factor-unit", 0.1, 0.01)]  # too thin
    links = LINKS.frame([*rows, ("other", 0, "encoder.hidden", "x", "unit 0", "factor-unit", 9.0, 0.01)])
    shown = charts_graphs.shown_links(links, study())
    assert set(shown["family"]) == {"vae"}
    assert set(shown[shown["level"] == "factor-unit"]["target"]) == {f"unit {n}" for n in range(12)}
    assert set(shown["source"]) == {"x", "latent 1", *(f"unit {n}" for n in range(12))}
    heights = charts_graphs.places(shown)
    assert {column for column, _ in heights} == {0, 1, 2, 3}
    pathless = links[links["level"] != "unit-latent"]
    assert charts_graphs.shown_links(pathless, study()).empty
    assert "No VAE has significant links" in charts_graphs.links_graph(pathless, study()).to_dict()["description"]
    assert len({height for (column, _), height in heights.items() if column == 1}) == 12  # none on another


def test_a_latent_is_named_by_all_that_move_it_half_as_much_as_the_strongest():
    effects = pd.DataFrame({"factor": ["x", "y", "scale"], "change": [0.5, 1.0, 0.4]})
    assert grids.factors_of(effects) == ["y", "x"]
    assert grids.factors_of(effects.head(0)) == []


def test_relation_is_drawn_of_means_over_active_latents():
    rows = [(0, True, 2.0, 0.1), (1, True, 4.0, 0.3), (2, False, 90.0, 9.0)]
    latents = pd.DataFrame(rows, columns=["latent", "active", "raw", "calibrated"]).assign(
        family="vae", vae_seed=0, per_pixel=0.0
    )
    scores = pd.DataFrame({"family": ["vae"], "vae_seed": [0], "measure": ["dci_disentanglement"], "score": [0.4]})
    both = charts_scores.strength_of_vaes(latents, scores).set_index("strength")
    assert both.loc["raw", "value"] == 3.0
    assert both.loc["calibrated", "value"] == pytest.approx(0.2)
    assert charts_scores.strength_of_vaes(latents.head(0), scores).empty


def test_the_parts_of_mediation_stand_beside_the_total(whole):
    [data] = spec_of(whole[0], "sprites-mediation")["datasets"].values()
    rows = [line.split(",") for line in data.splitlines()]
    assert len(rows) == 1 + 2 * len(FACTORS) * (len(EFFECTS) + 1)


def test_inputs_are_told_apart_by_data_set():
    given = {"a__b__models": 1, "a__models": 2, "references": 3, "a__scores": [4]}
    assert by_data(given, ["a", "a__b"]) == {"a": {"models": 2, "scores": [4]}, "a__b": {"models": 1}}


def test_a_table_that_is_missing_is_named(tmp_path):
    vae = study()
    with pytest.raises(StoreError, match=r"nowhere\.csv"):
        written(tmp_path, vae, sprites__units=tmp_path / "nowhere.csv")
