"""A text that knows which characters the template wrote behaves as any str, and never takes others' characters for its own."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.chat.marked import Marked, join, marks, own, own_runs, tracked

# Who wrote a character can be told by its class here: the template writes capitals, digits and %, others write small letters.
OWN, FOREIGN = "AB12\n ", "ab xyß\t"
pieces = st.lists(st.tuples(st.booleans(), st.text("AB12<>|", max_size=4), st.text("ab xyß\t\n", max_size=4)), max_size=6)


def build(parts: list[tuple[bool, str, str]]) -> Marked:
    return join(own(mine) if first else theirs for first, mine, theirs in parts)


def faithful(text: str) -> bool:
    """Own characters are the template's; the template's are own."""
    return len(marks(text)) == len(text) and all((mark == 1) == (letter in "AB12<>|") for letter, mark in zip(text, marks(text)))


def all_texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [text for item in value for text in all_texts(item)]


OPERATIONS: dict[str, Any] = {
    "slice": lambda t, o: [t[1:3], t[:-1], t[::-1], t[::2], t[-2:]],
    "index": lambda t, o: [t[i] for i in range(-len(t), len(t))],
    "add": lambda t, o: [t + o, o + t, t + "ab", "ab" + t],
    "times": lambda t, o: [t * 2, 0 * t, 3 * t],
    "strip": lambda t, o: [t.strip(), t.lstrip(), t.rstrip(), t.strip("Aa"), t.lstrip("1 "), t.rstrip("\n<")],
    "affixes": lambda t, o: [t.removeprefix(t[:2]), t.removesuffix(t[-2:]), t.removeprefix("ab"), t.removesuffix(o)],
    "split": lambda t, o: [t.split(), t.split("a"), t.split("A"), t.split("A", 1), t.split(None, 1), t.split("<|")],
    "rsplit": lambda t, o: [t.rsplit(), t.rsplit("a", 1), t.rsplit(None, 1), t.rsplit("A")],
    "lines": lambda t, o: [t.splitlines(), t.splitlines(True)],
    "partition": lambda t, o: [t.partition("a"), t.rpartition("a"), t.partition("A"), t.rpartition("<"), t.partition("zz"), t.rpartition("zz")],
    "replace": lambda t, o: [t.replace("a", "b"), t.replace("A", o), t.replace("a", o, 1), t.replace("zz", o)],
    "join": lambda t, o: [t.join([o, "ab", t]), t.join([]), o.join([t])],
    "str": lambda t, o: [str(t), tracked(t)],
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(pieces, pieces)
def test_operations(name: str, first: list[tuple[bool, str, str]], second: list[tuple[bool, str, str]]) -> None:
    text, other = build(first), build(second)
    made = OPERATIONS[name](text, other)
    assert made == OPERATIONS[name](str.__str__(text), str.__str__(other))
    for result in all_texts(made):
        assert faithful(result), (text, result, marks(result))


@given(pieces)
def test_letters_of_another_case(parts: list[tuple[bool, str, str]]) -> None:
    """Marks stay where each character stays one; ß, which becomes two, loses them."""
    text = build(parts)
    for name in ("upper", "lower", "title", "capitalize"):
        made = getattr(text, name)()
        assert made == getattr(str.__str__(text), name)()
        assert marks(made) in (marks(text), b"\0" * len(made))


@pytest.mark.parametrize("form, values", [
    ("<%s>", "ab"), ("%s", ("AB",)), ("A%%B%d", (3,)), ("%(x)sB%(y)s", {"x": "a", "y": "b"}), ("A%5s|%-4dB", ("a", 1)), ("A%.1fB", 1.25), ("AB", ()),
])
def test_percent(form: str, values: Any) -> None:
    """What is put in does not become the template's."""
    made = own(form) % values
    assert made == form % values
    assert isinstance(made, Marked) and 0 < sum(marks(made)) + 1
    for start, end in own_runs(made):
        assert set(made[start:end]) <= set(form)
    assert "".join(letter for letter, mark in zip(made, marks(made)) if mark).startswith(form[0]) or form.startswith("%")


def test_percent_cannot_forge() -> None:
    made = own("<|im_%s|>") % "end"
    assert made == "<|im_end|>" and own_runs(made) == [(0, 5), (8, 10)]
    assert own_runs(own("%*d") % (5, 1)) == []          # a kind that is not taken apart


def test_what_is_not_followed_is_others() -> None:
    assert own_runs(own("AB").center(9)) == [] and own_runs("".join([own("A"), own("B")])) == []
