"""Averages of the page are over what they are said to be over: borders, and heads of one kind."""

import html
import re
from dataclasses import replace

import numpy as np
import pandas as pd
from small_study import changed, study_config

from diffmech.attention.store import ExtraTokens
from diffmech.report.heads import controls
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import findings
from diffmech.report.heads.sections_results import ablation, entropy, extra_sentences, mechanisms, phase_sentence


def context_of(study, **tables) -> Context:
    return Context(study[1], changed(study[2], **tables), study_config(), {"entropy_map": {}, "entropy_layers": {}})


def test_a_border_counts_once_however_long_the_phase_that_it_opens(found):
    """One of 9 timesteps opened by 0.9 and one of 1 by 0.5: 70 % on average, not 86 %."""
    phases = pd.DataFrame(
        {
            "timestep": np.arange(12) * 80,
            "phase": [1, 1, *[2] * 9, 3],
            "stability": [np.nan, np.nan, *[0.9] * 9, 0.5],
        }
    )
    assert "Their borders recur in 70 % of resampled image sets, on average." in phase_sentence(
        context_of(found, phases=phases)
    )


def test_shares_of_cells_are_told_by_kind_of_attention(found):
    table = found[2].entropy
    uniform = table.assign(normalised=np.where(table["kind"] == "cross", 1.0, 0.5))
    told = findings(changed(found[2], entropy=uniform), study_config())[1].details[-1]
    assert "0 % of self-attention and 100 % of cross-attention are within 1 %" in told
    inside = table.assign(untrained_low=0.0, untrained_high=np.where(table["kind"] == "cross", 9.0, 0.0))
    assert "0 % of self-attention and 100 % of cross-attention lie within" in str(
        entropy(context_of(found, entropy=inside))
    ).replace("\u00a0", " ")


def table_of_mechanisms(study) -> dict[str, dict[str, str]]:
    """Return the cells of the table of mechanisms by cluster and column."""
    context = Context(study[1], study[2], study_config(), {"mechanism_grid": {}, "cluster_quality": {}})
    page = str(mechanisms(context, findings(study[2], study_config())[1]))
    body = page[page.index("<table>") : page.index("</table>")]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("<tr>")[1:]]
    plain = [[html.unescape(cell).replace("\u00a0", " ") for cell in row] for row in cells]
    return {row[1]: dict(zip(plain[0], row, strict=True)) for row in plain[1:]}


def test_on_how_many_images_clusters_were_found_and_tested_is_told(found):
    context = Context(found[1], found[2], study_config(), {"mechanism_grid": {}, "cluster_quality": {}})
    page = html.unescape(str(mechanisms(context, findings(found[2], study_config())[1])))
    said = (
        "Clusters, and the phases, were found on 4 real and 5 synthetic images, and named and tested on 20 real and 19 "
        "synthetic others"
    )
    assert said in page


def test_each_domain_shows_the_p_of_the_preference_beside_it(found):
    """They were those of a third preference, the one that holds most where it holds less, which no column named."""
    row = table_of_mechanisms(found)["cross-2"]  # semantic on synthetic images alone
    assert row["its p on real"] == "rolled maps p = 0.70; other images p = 0.80; untrained copies p = 0.60"
    assert row["its p on synthetic"] == "rolled maps p = 0.004; other images p = 0.001; untrained copies p = 0.05"
    assert row["named by, or strongest, on real"].startswith("eyes ")
    assert row["named by, or strongest, on synthetic"].startswith("semantic: eyes ")
    table = found[2].mechanisms
    places = changed(found[2], mechanisms=table.assign(p_rolled_holm_first=np.nan, p_content_holm_first=np.nan))
    assert table_of_mechanisms((*found[:2], places))["cross-2"]["its p on real"] == "untrained copies p = 0.60"


def test_heads_that_confirm_a_name_are_counted_for_both_domains_and_for_each(found):
    row = table_of_mechanisms(found)["cross-2"]
    assert (row["confirm it in both"], row["confirm it on real"], row["confirm it on synthetic"]) == ("0", "0", "9")


def test_a_group_is_said_to_be_named_after_what_passes_its_tests_not_after_its_strongest_preference(found):
    said = (found[0] / "report.html").read_text()
    assert "a group is named after the strongest of the preferences that exceed what untrained copies prefer" in said
    assert "named after its strongest preference" not in said


def test_controls_are_told_by_how_many_ran_and_in_the_order_of_the_study(found):
    groups = found[2].effects[found[2].effects["group"] == "mechanisms"]
    two = groups[groups["target"].isin(["self-1", "self-2"])]
    said = "Corrected over 2 mechanisms on real and synthetic images together, against zero and against controls."
    assert controls.family(two) == said
    other_way = pd.concat([two[two["domain"] == "synthetic"], two[two["domain"] == "real"]])
    assert "on synthetic and real images" in controls.family(other_way)
    one = two[two["target"] == "self-1"].assign(controls_fair=False, controls=1)
    one = one.assign(control_ratio_low=0.61, control_ratio_high=0.61)
    assert controls.why_unfair(one) == "1 mechanism has no fair control: the closest are 1 set 0.61 times as large."


def test_single_heads_and_layers_are_said_to_have_no_controls_because_none_were_run(found):
    names = ("ablation_mechanisms", "ablation_layers", "ablation_heads", "ablation_map", "ablation_methods")
    context = Context(found[1], found[2], study_config(), {name: {} for name in names})
    page = str(ablation(context, findings(found[2], context.config)[3]))
    assert "Beside single heads and layers no controls were run" in page
    assert "left to choose from" not in page


def test_heads_that_give_most_of_their_attention_to_extra_tokens_are_named(found):
    assert extra_sentences(found[2]) == []
    site, other = found[2].sites[0], found[2].sites[2]
    table = found[2].entropy.assign(beside_mass=np.nan)
    table.loc[table["site"] == site, "beside_mass"] = 0.25
    table.loc[table["site"] == other, "beside_mass"] = 0.4  # text of joint attention
    extra = {site: ExtraTokens(("extra 0",), (), 0)}
    (none,) = extra_sentences(changed(found[2], entropy=table, extra_tokens=extra))
    assert "25 to 25 % goes to extra tokens" in none
    assert "No head gives most of its attention to them" in none
    heads = [f"{site}.h05", f"{site}.h03"]
    table.loc[table["head"].isin(heads), "beside_mass"] = 0.75
    (some,) = extra_sentences(changed(found[2], entropy=table, extra_tokens=extra))
    assert f"2 heads give most of it to them ({heads[1]} and {heads[0]})" in some
    context = context_of(found, entropy=table)
    page = str(entropy(replace(context, tables=changed(context.tables, extra_tokens=extra))))
    assert "2 heads give most of it to them" in page
