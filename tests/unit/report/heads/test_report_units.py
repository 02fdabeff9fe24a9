"""The page says which unit was used: groups of images where images belong together, by their column, with numbers."""

import html
import re
from dataclasses import replace

from small_study import changed, study_config

from diffmech.config.images import ImageFolder
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import findings
from diffmech.report.heads.sections import answers, what_was_run
from diffmech.report.heads.units import seen_note


def words(page):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", str(page))).split())


def grouped(study, tmp_path):
    """Return the small study as if its 24 real images were those of 9 persons, of whom 3 are ablated."""
    path = tmp_path / "groups.csv"
    path.write_text("sample,group\n" + "".join(f"{k},p{k % 9}\n" for k in range(24)))
    config = study_config()
    people = ImageFolder(kind="image_folder", path="p", labels="p.csv", group="person")
    config = config.model_copy(update={"datasets": {**config.datasets, "lfw": people}})
    tables = {}
    for name, n in (("entropy", 9), ("effects", 3)):
        table = getattr(study[2], name)
        tables[name] = table.assign(n=table["n"].where(table["domain"] != "real", n))
    inputs = replace(study[1], groups={"real": str(path)})
    return Context(inputs, changed(study[2], **tables), config, {})


def test_the_page_names_the_column_the_groups_and_their_images(found, tmp_path):
    run = words(what_was_run(grouped(found, tmp_path)))
    assert (
        "Unit of real images, a group of them (column person): intervals resample 9 groups, of 24 images, and of "
        "ablations 3 groups, of 8 images; of synthetic images, each image. Of a group the mean over its images counts"
    ) in run
    observed = int(found[2].entropy.query("domain == 'synthetic'")["n"].max())
    assert re.search(rf"24 real( \([^)]*\))? and {observed} synthetic( \([^)]*\))? observed", run)
    assert "on 3 groups of real and 8 synthetic images at t = " in run


def test_numbers_of_images_are_said_to_be_numbers_of_groups(found, tmp_path):
    context = grouped(found, tmp_path)
    said = words(answers(context, findings(context.tables, context.config)))
    assert "of real (column person) it is groups of images that are resampled, permuted and counted" in said


def test_unseen_images_are_said_to_be_of_groups_that_may_have_been_seen(found, tmp_path):
    context = grouped(found, tmp_path)
    heldout = context.tables.heldout
    assert "real" in set(heldout["domain"])
    assert "Of real images those kept out of training were chosen image by image" in seen_note(context)
    drawn = changed(context.tables, heldout=heldout[heldout["domain"] == "synthetic"])
    assert seen_note(replace(context, tables=drawn)) == ""
    assert seen_note(replace(context, config=study_config())) == ""


def test_without_groups_nothing_is_said_of_them(found):
    context = Context(found[1], found[2], study_config(), {})
    page = words(what_was_run(context)) + words(answers(context, findings(context.tables, context.config)))
    assert "group of them" not in page
    assert "groups of" not in page
    assert "belong together" not in page
