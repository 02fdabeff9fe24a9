"""What the page says of a study is true of the study that ran: of its images, its denoiser and its settings.

Faces, photographs against drawings, domains that the denoiser is told, guidance and matched contrast are things of the
default study; none may be said of another one.
"""

import ast
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_study
from PIL import Image
from small_study import changed

from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.config.load import validate
from diffmech.config.root import Config
from diffmech.mechanisms.account import account
from diffmech.report.drawing import specification, write_text
from diffmech.report.heads.artifacts import ReportInputs, Tables, read_tables
from diffmech.report.heads.charts import every_chart
from diffmech.report.heads.charts_patching import timesteps_within
from diffmech.report.heads.context import Context
from diffmech.report.heads.denoising import gap_sentence, is_untrained, summary, troubles
from diffmech.report.heads.draw import known
from diffmech.report.heads.findings import findings
from diffmech.report.heads.page import made_or_read, write_report
from diffmech.report.heads.sections import ablation_run, answers, intervals, skipped_sentence

ROOT = Path(__file__).parents[4]
FACES = re.compile(
    r"\b(faces?|eyes?|glasses|hats?|beards?|smiles?|hair|real|synthetic|drawn|lfw|celeba)\b", re.IGNORECASE
)
# The judge of attributes is trained on drawn faces, whatever is studied, and is only shown where there is one.
JUDGE = (
    "Share of generated images in which a small classifier, trained on drawn faces, sees",
    "accuracy on drawn faces",
    "The judge is a classifier trained on drawn faces; right on faces it never saw",
)
# What the paper's figures are of, beside its figures.
PAPER = ("Published, of real and synthetic faces",)
# "Drawn" of charts and pictures, not of images.
PICTURES = ("drawn as heat", "drawn again", "drawn over", "random sets drawn", "chart drawn")


class Sections(HTMLParser):
    """The words of each section of a page, and of its charts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: dict[str, str] = {}
        self.stack: list[str] = []
        self.now = "head"
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "section":
            self.now = str(known["id"])
        if tag not in ("meta", "link", "img", "br"):
            self.stack.append(tag)
        self._add(" ".join(str(known[name]) for name in ("alt", "aria-label") if known.get(name)))

    def handle_endtag(self, tag: str) -> None:
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack and ("script" not in self.stack or self.now not in ("head", "settings")):
            self._add(data)

    def _add(self, words: str) -> None:
        self.words[self.now] = f"{self.words.get(self.now, '')} {words}"


def render(folder: Path, inputs: ReportInputs, config: Config) -> tuple[dict[str, str], Tables]:
    """Return the words of each section of the page, and the tables it was made from."""
    tables = read_tables(inputs)
    charts = []
    for chart in every_chart():
        charts.append(folder / f"{chart.name}.vl.json")
        spec = specification(chart.drawn(known(tables, config.ablation)))
        charts[-1].write_text(write_text(spec), encoding="utf-8")
    write_report(
        inputs, [str(chart) for chart in charts], folder / "report.html", folder / "findings.json", config=config
    )
    words = Sections((folder / "report.html").read_text(encoding="utf-8")).words
    return {section: re.sub(r"\s+", " ", said) for section, said in words.items()}, tables


def pictures(folder: Path, seed: int) -> ImageFolder:
    """Write 24 noisy images and a table of labels with two rows that name no image."""
    folder.mkdir(parents=True)
    source = np.random.default_rng(seed)
    for index in range(24):
        values = source.uniform(0, 255, (32, 32)) * np.linspace(0.2, 1, 32)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{index:02d}.png")
    table = pd.DataFrame({"file": [f"{i:02d}.png" for i in range(24)] + ["a.png", "b.png"], "round": 0.5})
    table.to_csv(folder.parent / f"{folder.name}.csv", index=False)
    labels = str(folder.parent / f"{folder.name}.csv")
    return ImageFolder(kind="image_folder", path=str(folder), labels=labels, on_bad_file="skip")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """(words by section, context) of a network of one's own, without condition, on digits and brains as they are."""
    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_study, "DOMAINS", ("digits", "brains"))
        patch.setattr(small_study, "TOKENS", ("one", "two", "three", "four", "five"))
        sources = [pictures(folder / name, seed) for seed, name in enumerate(("digits", "brains"))]
        inputs = small_study.build_study(folder, optional=False, images=ImagesConfig(match=None), sources=sources)
    model = json.loads(Path(inputs.model).read_text())
    model |= {"kind": "custom", "source": "custom", "attributes": [], "domains": [], "weights": "mine.pt"}
    Path(inputs.model).write_text(json.dumps(model))
    for name in ("patching", "doses"):
        path = Path(inputs.tables[name])
        pd.read_csv(path).assign(source="sample").to_csv(path, index=False)
    resampling = pd.read_csv(inputs.tables["resampling"])
    resampling = resampling[~resampling["measure"].str.contains(":")]
    resampling.to_csv(inputs.tables["resampling"], index=False)
    told = [pd.read_csv(inputs.tables[name]) for name in ("mechanisms", "effects", "windows")]
    account(*told, resampling, method="mean", alpha=0.05).to_csv(inputs.tables["account"], index=False)
    for path, alone in ((inputs.tables["divergence"], ["image"]), (inputs.tables["factorial"], ["image"])):
        table = pd.read_csv(path)
        table[table["effect"].isin(alone)].to_csv(path, index=False)
    for path in (inputs.tables["heldout"], inputs.tables["seen"], inputs.tables["seen_divergence"]):
        pd.read_csv(path).head(0).to_csv(path, index=False)
    config = validate(
        {
            "study": {"name": "foreign", "model": "mine", "domains": {"digits": "a", "brains": "b"}},
            "images": {"match": None},
            "datasets": {name: source.canonical() for name, source in zip("ab", sources, strict=True)},
            "models": {"mine": {"source": "custom", "implementation": "mine.py:Mine", "weights": "mine.pt"}},
            "capture": {"timesteps": small_study.TIMESTEPS, "samples": 40, "keep_maps": 2},
            "untrained": {"seeds": 19, "samples": 8},
            "ablation": {"timesteps": small_study.TIMESTEPS, "samples": 8},
        }
    )
    words, tables = render(folder, inputs, config)
    return words, Context(inputs, tables, config, {})


def test_no_face_and_no_drawing_is_seen_on_pages_about_other_things(foreign):
    for section, said in foreign[0].items():
        if section in ("published", "settings"):  # a paper's own words, and the keys of the settings
            continue
        for allowed in (*PICTURES, *PAPER, "eyes"):  # the part that the table of mechanisms names
            said = said.replace(allowed, "")
        assert not FACES.search(said), (section, FACES.search(said), said[FACES.search(said).start() - 80 :][:160])


@pytest.mark.parametrize(
    "never",
    ["guidance", "attribute", "own domain", "said to be", "asked for", "whether it is", "null condition"],
)
def test_nothing_is_said_to_be_told_to_a_denoiser_that_takes_no_condition(foreign, never):
    for section in set(foreign[0]) - {"published", "settings", "domains"}:
        assert never not in foreign[0][section], (section, never)
    assert "none: this denoiser takes nothing but the noised image and the timestep" in foreign[0]["run"]


def test_contrast_that_was_not_matched_is_not_said_to_be(foreign, found):
    for section in ("answers", "run", "domains"):
        said = foreign[0][section]
        assert not re.search(r"(?<!not )(?<!were )matched in mean|after matching|matched images|were matched;", said)
    assert "neither mean and contrast nor fine structure" in foreign[0]["answers"]
    assert "Mean and contrast were not matched." in foreign[0]["domains"]
    default = Sections((found[0] / "report.html").read_text()).words
    assert "matched in mean and contrast" in default["run"]
    assert "after matching" in default["domains"]
    assert "its own domain and its attributes where they are known (glasses" in re.sub(r"\s+", " ", default["run"])


def test_what_has_no_image_is_not_called_an_image_that_was_left_out(foreign):
    assert "Left out no image" in foreign[0]["domains"]  # though two rows of its label table name none
    bad = {"file": "c.png", "reason": "cannot be decoded"}
    masks = [{"file": f"{i}.png", "reason": "is a mask without an image"} for i in range(13082)]
    assert skipped_sentence([bad, *masks]) == "1 image (c.png: cannot be decoded); 13,082 masks belong to no image"
    assert skipped_sentence([]) == "no image"


def test_how_many_images_each_way_of_removing_ran_on_is_told(foreign):
    """All ways were said to have run on as many images as the first."""
    said = ablation_run(foreign[1])
    assert "by their mean over reference images, nothing, what they write for another image or what uniform" in said
    assert said.count(" images at t = ") == 1
    assert "on 8 digits and 8 brains images at t = 20, 220" in said  # in the order of the study
    effects = foreign[1].tables.effects
    fewer = effects.assign(n=effects["n"].where(effects["method"] == "mean", 3))
    said = ablation_run(replace(foreign[1], tables=changed(foreign[1].tables, effects=fewer)))
    assert "by their mean over reference images (on 8 digits and 8 brains images), nothing (on 3 digits and 3" in said


def test_bootstrap_draws_are_told_of_each_analysis(foreign):
    assert intervals(foreign[1].config) == "95 %, 2,000 bootstrap draws over images"
    config = foreign[1].config
    fewer = config.model_copy(update={"ablation": config.ablation.model_copy(update={"draws": 500})})
    assert intervals(fewer) == (
        "95 %, 2,000 bootstrap draws over images (entropy, mechanisms, discovery, patching and complexity); 500"
        " bootstrap draws over images (ablation)"
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [("train", "made with"), ("custom", "imported with"), ("diffusers", "imported with"), ("bundled", "imported with")],
)
def test_only_a_denoiser_that_was_made_here_is_said_to_be_made_with_these_versions(source, said):
    assert made_or_read(source) == f"the denoiser was {said}"


def test_figures_of_a_paper_say_which_images_they_are_of(foreign):
    assert "(real and synthetic faces)" in foreign[0]["published"]
    assert "Published, of real and synthetic faces, by a definition that is not known: 1.084" in foreign[0]["answers"]


def test_settings_of_a_study_with_domains_of_its_own_take_out_those_of_the_default(foreign):
    assert "domains: real: null synthetic: null digits: a brains: b" in foreign[0]["settings"]


def test_no_image_is_called_seen_or_unseen_where_nobody_knows(foreign):
    context = foreign[1]
    assert "not on record" in gap_sentence(context.tables)
    for section in ("answers", "denoiser"):
        assert not re.search(r"unseen|kept out of training|never saw", foreign[0][section])


def test_heads_are_named_at_the_timesteps_at_which_they_were_replaced(foreign):
    assert timesteps_within(0, 453, [120.0, 320.0, 620.0]) == "t = 120 and 320"
    assert timesteps_within(0, 999, [10.0 * step for step in range(9)]) == "t = 0, 10, …, 80 (9 timesteps)"
    assert timesteps_within(0, 9, [120.0]) == "t within 0 to 9"
    assert "20 to 420 (t = 20, 220 and 420)" in foreign[0]["windows"]
    assert "t = 620 and 820: 12 % (11 to 13)" in foreign[0]["account"]
    for section in ("windows", "patching", "account"):
        assert not re.search(r"at t \d+ to \d+", foreign[0][section])


def test_a_negative_share_is_explained(foreign):
    assert "A negative share moves the prediction the other way." in foreign[0]["patching"]


def test_no_head_that_was_picked_as_the_largest_is_said_to_be_larger_than_all_others(foreign):
    for said in foreign[0].values():
        assert not re.search(r"more than all other heads(?! together)", said)
        assert "most of all" not in said


@pytest.mark.parametrize(
    "accepted",
    [
        "lies in the images",
        "does nothing",
        "have no effect",
        "has no effect on",
        "do as well",
        "Removing none of them changes",
        "No mechanism costs more than its matched controls in any",
    ],
)
def test_no_null_is_accepted(foreign, null, accepted):
    nothing = re.sub(r"\s+", " ", " ".join(Sections((null[0] / "report.html").read_text()).words.values()))
    assert accepted not in nothing
    assert accepted not in " ".join(foreign[0].values())


def first_screen(context: Context, **columns: object) -> str:
    """Return the first section of the page of a study that denoises otherwise at the last timestep."""
    table = context.tables.denoising.astype(dict.fromkeys(columns, float))
    for name, value in columns.items():
        table.loc[table["timestep"] == small_study.TIMESTEPS[-1], name] = value
    other = replace(context, tables=changed(context.tables, denoising=table))
    page = answers(other, findings(other.tables, other.config))
    return html.unescape(re.sub(r"<[^>]+>", "", str(page))).replace("\u00a0", " ")


def test_that_a_denoiser_denoises_is_said_first_with_its_numbers(foreign):
    said = foreign[0]["answers"].replace("\u00a0", " ")
    assert "The denoiser denoises: at each of 5 timesteps its loss lies below that of the best constant" in said
    assert "needs no network, each with its 95 % interval: by" in said
    assert "by 40 % (35 to 45) (t = 820) to 80 % (75 to 85) (t = 20) on digits images" in said
    assert said.index("The denoiser denoises") < said.index("A number in brackets")
    assert "does not denoise" not in said


def test_a_loss_above_that_of_a_multiple_of_the_image_is_called_out_on_the_first_screen(foreign):
    said = first_screen(foreign[1], skill=-1.5, skill_low=-1.7, skill_high=-1.3, loss=0.25, linear=0.1)
    assert "This denoiser does not denoise on digits images at t = 820 and brains images at t = 820" in said
    assert "at worst 2.5 times as large (t = 820, digits images)" in said
    assert "A wrong schedule or kind of prediction" in said
    assert "too little training, or too small a network" in said
    # the size of its predictions is that of a schedule that fits
    assert "near 1 (1.00 to 1.00)" not in said
    assert "is near 1 (1.00 everywhere)" in said
    assert "All that stands below is about a denoiser that does not denoise there." in said
    assert "The denoiser denoises" not in said


def test_a_skill_that_is_not_sure_is_not_called_denoising(foreign):
    said = first_screen(foreign[1], skill=0.02, skill_low=-0.05, skill_high=0.09)
    assert "It was not shown to denoise on digits images at t = 820 and brains images at t = 820" in said
    assert "(skill 2.0 % (−5.0 to 9.0) at t = 820, digits images)" in said
    one_image = first_screen(foreign[1], skill_low=np.nan, skill_high=np.nan)
    assert "It was not shown to denoise" in one_image


def test_predictions_of_the_wrong_size_are_called_out_even_where_they_are_better_than_none(foreign):
    said = first_screen(foreign[1], slope=0.8, slope_low=0.78, slope_high=0.82)
    assert "Its predictions have the wrong size on digits images at t = 820" in said
    assert "multiplied by 0.800 (0.780 to 0.820)" in said
    assert "is near 1" not in said
    assert "All that stands below is about a denoiser that predicts in the wrong size there." in said
    everywhere = {"slope": 0.8, "slope_low": 0.78, "slope_high": 0.82}
    table = foreign[1].tables.denoising
    every = " ".join(troubles(changed(foreign[1].tables, denoising=table.assign(**everywhere))))
    assert every.startswith("Its predictions have the wrong size at all of the timesteps studied")
    assert not troubles(foreign[1].tables)


def test_random_weights_are_said_not_to_denoise_and_to_remember_nothing(found, null):
    said = " ".join(troubles(null[2]))
    assert said.startswith("This denoiser does not denoise at any of the timesteps studied")
    assert "wrong schedule" not in said  # it is used as it should be
    assert "trained on no image" in gap_sentence(null[2])
    assert "the ratio taken at each timestep and averaged over timesteps: real +25 %" in gap_sentence(found[2])
    planted = " ".join(troubles(changed(null[2], model={**null[2].model, "source": "planted"})))
    assert planted.endswith("It was built by hand so that the work of its heads is known, not to denoise well.")
    own = changed(null[2], model={**null[2].model, "source": "custom", "weights": None})
    assert is_untrained(own)
    assert not is_untrained(changed(own, model={**own.model, "weights": "mine.pt"}))


def test_of_a_pipeline_nothing_is_said_to_be_measured(null):
    empty = changed(null[2], denoising=null[2].denoising.head(0), heldout=null[2].heldout.head(0))
    assert "was not measured" in summary(empty)
    assert troubles(empty) == []


def test_definitions_are_those_of_what_is_measured(found):
    """They called effective keys a number, shares of a patch 0 to 1, and left out the test among random choices."""
    said = {entry["name"]: " ".join(entry["text"].split()) for entry in found[2].references["definitions"]}
    assert "exp(H) / keys" in said["Effective keys"]
    assert "below 0 = it moves away, above 1 = beyond" in said["Activation patching"]
    assert "attention which ignores where the query is" in said["Enrichment"]
    assert "random choices of as many heads" in said["Causal mechanism"]
    assert "no fair control" in said["Matched control"]
    assert "one domain alone" in said["Mechanism"]


def literals(path: Path) -> list[str]:
    """Return all strings of a module but its docstrings, f-strings with their holes as `{}`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | documentation:
            found.append(node.value)
    return found


def test_no_sentence_of_the_report_knows_what_the_images_show():
    modules = set((ROOT / "src/diffmech/report").rglob("*.py")) - {ROOT / "src/diffmech/report/style.py"}  # a script
    said = {path: literals(path) for path in sorted(modules)}
    said |= {path: [path.read_text(encoding="utf-8")] for path in sorted((ROOT / "resources/captions").glob("*.rst"))}
    assert sum(map(len, said.values())) > 1000
    for path, texts in said.items():
        for text in texts:
            plain = re.sub(r"\s+", " ", text)
            # brains that were made are called so wherever they are shown
            brains = ["synthetic", "Synthetic"] if path.parent.name == "anomaly" else []
            for allowed in (*JUDGE, *PICTURES, *brains):
                plain = plain.replace(allowed, "")
            assert not FACES.search(plain), (path.name, FACES.search(plain), text)


# Filled in by `str.format`.
TEMPLATES = {"sections_account.py": {"{what}"}, "sections_circuit.py": {"{least}", "{target}"}}


def test_no_sentence_shows_the_name_of_a_variable_instead_of_its_value():
    """A part of a long sentence that lost its f prints `{sampled}`."""
    shown = []
    for path in sorted(set((ROOT / "src/diffmech/report").rglob("*.py")) - {ROOT / "src/diffmech/report/style.py"}):
        named = {hole for text in literals(path) for hole in re.findall(r"\{[a-z_]+[^{}]*\}", text)}
        shown += [(path.name, hole) for hole in named - TEMPLATES.get(path.name, set())]
    assert not shown
