"""The page says how many attention calls a pass makes and how many were seen."""

from types import SimpleNamespace

import pytest

from diffmech.report.heads.condition import calls_words, elsewhere_words


@pytest.mark.parametrize(
    ("checked", "sites", "said"),
    [
        (None, 6, "; a pass makes 6 attention calls, of which all were observed{}"),
        ({"attention_calls": 6}, 6, "; a pass makes 6 attention calls, of which all were observed{}"),
        ({"attention_calls": 7}, 6, "; a pass makes 7 attention calls, of which 6 were observed{}"),
        ({"attention_calls": 1}, 1, "; a pass makes one attention call, which was observed{}"),
        (
            {"attention_calls": 2, "attention_left_out": {"low.attn": "linear", "mid.attn": "linear"}},
            2,
            "; a pass makes 2 attention calls, of which all were observed{}; left out, since no softmax of queries and"
            " keys was seen: low.attn and mid.attn",
        ),
        (
            {"attention_calls": 3, "extra_tokens": {"block00.self": 1, "block01.self": 3}},
            3,
            "; a pass makes 3 attention calls, of which all were observed{}; in block00.self and block01.self there are"
            " up to 3 extra keys without a place on the image, as of class tokens, registers or learned keys: entropy"
            " is that of the image's queries over all keys, places and distances are those among the image's",
        ),
    ],
)
def test_calls_made_and_seen(checked, sites, said) -> None:
    names = tuple(f"site {number}" for number in range(sites))
    tables = SimpleNamespace(model={} if checked is None else {"checked": checked}, sites=names, sampled_calls={})
    nowhere = "; at other timesteps than those studied it was not looked at which calls a pass makes"
    assert calls_words(tables) == said.format(nowhere)


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ({0: {"a", "b"}, 50: {"a", "b"}}, "at each of 2 steps of sampling it makes the same"),
        (
            {0: {"a", "b"}, 50: {"c"}},
            "at 1 of 2 steps of sampling (t = 50) it does not make those of a and b; at 1 of 2 steps of sampling"
            " (t = 50) it makes others, which are not studied, in c",
        ),
        (
            {t: {"a", "b", "c"} for t in range(13)},
            "at 13 of 13 steps of sampling (t = 0 to 12) it makes others, which are not studied, in c",
        ),
    ],
)
def test_calls_at_other_timesteps_are_told_as_far_as_they_were_seen(calls, said) -> None:
    tables = SimpleNamespace(model={}, sites=("a", "b"), sampled_calls={t: frozenset(c) for t, c in calls.items()})
    assert elsewhere_words(tables) == said
    assert f"which all were observed; {said}" in calls_words(tables)
