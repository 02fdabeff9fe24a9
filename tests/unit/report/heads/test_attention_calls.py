"""The page says how many attention calls a pass makes and how many were seen."""

from types import SimpleNamespace

import pytest

from diffmech.attention.store import ExtraTokens
from diffmech.report.heads.condition import calls_words, elsewhere_words, extra_words


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
    ],
)
def test_calls_made_and_seen(checked, sites, said) -> None:
    names = tuple(f"site {number}" for number in range(sites))
    tables = SimpleNamespace(
        model={} if checked is None else {"checked": checked}, sites=names, sampled_calls={}, extra_tokens={}
    )
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
    calls = {t: frozenset(names) for t, names in calls.items()}
    tables = SimpleNamespace(model={}, sites=("a", "b"), sampled_calls=calls, extra_tokens={})
    assert elsewhere_words(tables) == said
    assert f"which all were observed; {said}" in calls_words(tables)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({}, ""),
        (
            {"a": ExtraTokens(("extra 0",), ("extra 1",), 0), "b": ExtraTokens(("extra 0",), ("extra 1",), 0)},
            "in all layers 2 extra keys without a place on the image (extra 0 before the image's and extra 1 behind the"
            " image's), as of class tokens,",
        ),
        (
            {"b": ExtraTokens(("extra 0", "extra 1", "extra 2"), (), 3)},
            "in b 3 extra keys without a place on the image (extra 0 to extra 2 before the image's, to all of which no"
            " query belongs), as of",
        ),
        (
            {"a": ExtraTokens((), ("extra 0",), 0), "b": ExtraTokens(("extra 0", "extra 1"), (), 1)},
            "in a 1 extra key without a place on the image (extra 0 behind the image's); in b 2 extra keys without a"
            " place on the image (extra 0 and extra 1 before the image's, to 1 of which no query belongs), as of",
        ),
    ],
)
def test_extra_tokens_are_said_to_stand_where_they_stand(extra, said) -> None:
    tables = SimpleNamespace(model={}, sites=("a", "b"), sampled_calls={}, extra_tokens=extra)
    assert said in extra_words(tables)
    assert bool(extra_words(tables)) == bool(extra)
    assert calls_words(tables).endswith(extra_words(tables))
