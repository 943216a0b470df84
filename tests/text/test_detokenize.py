"""Incremental decoding and stop strings: where the borders lie makes no difference."""
from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipstone.errors import ArgumentError
from skipstone.text._detokenize import Detokenizer, StopStrings, decode

BYTES = [bytes([i]) for i in range(256)]


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(st.one_of(st.binary(max_size=5), st.text(max_size=3).map(str.encode)), max_size=20), data=st.data())
def test_pushes_add_up_to_decode(pieces, data):
    ids = data.draw(st.lists(st.integers(0, len(pieces) + 2), max_size=40))
    stream = Detokenizer(pieces)
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) + stream.finish() == decode(pieces, ids) == b"".join(pieces[i] for i in ids if i < len(pieces)).decode("utf-8", "replace")
    for part in parts:
        part.encode()


@pytest.mark.parametrize("character", ["\u00e9", "\u65e5", "\U0001f44d"])
def test_a_character_comes_with_its_last_byte(character):
    stream = Detokenizer(BYTES)
    data = character.encode()
    assert [stream.push(byte) for byte in data] == [""] * (len(data) - 1) + [character]
    assert stream.finish() == ""


def test_wrong_bytes_come_out_when_that_is_certain():
    stream = Detokenizer(BYTES)
    assert stream.push(0x80) == "\ufffd"                    # can begin nothing
    assert stream.push(0xE2) == "" and stream.push(0x82) == ""      # may become the euro sign
    assert stream.push(0x41) == "\ufffdA"                    # no longer
    assert stream.push(0xF0) == "" and stream.finish() == "\ufffd" and stream.finish() == ""


def test_copy_is_independent():
    stream = Detokenizer(BYTES)
    stream.push(0xC3)
    other = stream.copy()
    assert stream.push(0xA9) == "\u00e9" and other.push(0xA8) == "\u00e8"


@pytest.mark.parametrize("token", [-1, 2**64, "a", None, 0.5])
def test_no_ids(token):
    with pytest.raises(ArgumentError, match="ids: found"):
        Detokenizer(BYTES).push(token)


def test_numpy_ids():
    import numpy as np
    assert decode(BYTES, np.array([104, 105], np.int32)) == "hi" and Detokenizer(BYTES).push(np.int64(104)) == "h"


def stop_slowly(stops, text):
    """Text before the stop string that ends first (of several, the longest), and whether there was one."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[:end - max(map(len, ending))], True
    return text, False


@settings(max_examples=1000, deadline=None)
@given(stops=st.lists(st.text("ab", min_size=1, max_size=6), max_size=4), text=st.text("ab", max_size=30),
       cuts=st.lists(st.integers(0, 30), max_size=8))
@example(stops=["abcd", "bc"], text="abc", cuts=[2])
@example(stops=["aab"], text="aaab", cuts=[1, 2, 3])
def test_borders_make_no_difference(stops, text, cuts):
    matcher = StopStrings(stops)
    cuts = [0, *sorted(c for c in cuts if c <= len(text)), len(text)]
    out, found = "", False
    for start, end in zip(cuts, cuts[1:]):
        assert not found
        more, found = matcher.push(text[start:end])
        out += more
        assert stop_slowly(stops, text)[0].startswith(out)         # nothing of a stop string comes out too early
        if found:
            break
    if not found:
        out += matcher.finish()
    assert (out, found) == stop_slowly(stops, text)
    if found:
        assert matcher.push("more") == ("", True) and matcher.finish() == ""


def test_only_what_may_begin_a_stop_string_is_held_back():
    matcher = StopStrings(["\n\n", "END"])
    assert matcher.push("hello\n") == ("hello", False)
    assert matcher.push("wor") == ("\nwor", False)
    assert matcher.push("E") == ("", False) and matcher.push("N") == ("", False) and matcher.push("x") == ("ENx", False)
    assert matcher.push("EN") == ("", False) and matcher.push("D more") == ("", True)


def test_no_stop_strings():
    assert StopStrings([]).push("text") == ("text", False)


def test_one_stop_string_as_text():
    assert StopStrings("ab").push("xabx") == ("x", True)


@pytest.mark.parametrize("stops", [[""], ["a", ""], [None], [3], [b"a"]])
def test_wrong_stop_strings(stops):
    with pytest.raises(ArgumentError, match="stop: found .*expected texts of at least one character"):
        StopStrings(stops)


def test_long_text_and_stop_string_take_linear_time():
    matcher = StopStrings(["a" * 10_000 + "b"])
    out, found = matcher.push("a" * 1_000_000)
    assert (len(out), found) == (990_000, False)
    assert matcher.push("b") == ("", True)
