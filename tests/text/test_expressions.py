"""Regular expressions of tokenizers: those in use are read, those that can take forever are refused."""
from __future__ import annotations

import pytest
import tokenizers

from skipstone.text.expressions import too_slow
from skipstone.text.from_gguf import WORDS

IN_USE = [
    *WORDS.values(),
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", r"\p{N}{1,3}", r"\d", r"\s+$", "[^[a-c]]+", "[]]+x", r"a{,3}b{2}c{3,}", r"(?<!a)b++c*?", r"\x{1F600}+\u00e9",
]
SLOW = ["(a|a)*b", "(a*)*b", "(a+)+$", "((a{1,50}){1,50}){1,50}b", "(?:a?){60}a{60}", "(?=a*a*a*a*b)", "a*a*a*a*b", "(?i:a+){2,}", r"(a)\1", r"(?<n>a)\k<n>", r"\g<0>", "a{1,9}+", "a**", "a+{2}",
        "(?x)(a+) +", "(?~abc)", "(?(1)a|b)", "(?#)a", "(?<name>a)", "[a](b)*", "[]](b)*", r"\](b)+", r"[\]](b)+", "[[a]](b)+", "a\\"]


@pytest.mark.parametrize("expression", IN_USE)
def test_those_in_use(expression):
    assert too_slow(expression) == ""
    splitting = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    for letter in ("a", " ", "\n", "\u00e9", "a1 ", "'", "\u65e5"):
        splitting.pre_tokenize_str(letter * 1000 + "!")


@pytest.mark.parametrize("expression", SLOW)
def test_those_that_may_take_forever(expression):
    assert too_slow(expression)
