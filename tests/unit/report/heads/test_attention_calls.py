"""The page says how many attention calls a pass makes and how many were seen."""

from types import SimpleNamespace

import pytest

from diffmech.report.heads.condition import calls_words


@pytest.mark.parametrize(
    ("checked", "sites", "said"),
    [
        (None, 6, "; a pass makes 6 attention calls, of which all were observed"),
        ({"attention_calls": 6}, 6, "; a pass makes 6 attention calls, of which all were observed"),
        ({"attention_calls": 7}, 6, "; a pass makes 7 attention calls, of which 6 were observed"),
        ({"attention_calls": 1}, 1, "; a pass makes one attention call, which was observed"),
        (
            {"attention_calls": 2, "attention_left_out": {"low.attn": "linear", "mid.attn": "linear"}},
            2,
            "; a pass makes 2 attention calls, of which all were observed; left out, having no softmax over keys:"
            " low.attn and mid.attn",
        ),
    ],
)
def test_calls_made_and_seen(checked, sites, said) -> None:
    tables = SimpleNamespace(model={} if checked is None else {"checked": checked}, sites=["site"] * sites)
    assert calls_words(tables) == said
