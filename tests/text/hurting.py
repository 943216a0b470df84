"""Text that hurts tokenizers: many scripts, joined emoji, marks that combine, runs of blanks, controls, marks of structure, and mixtures."""
from __future__ import annotations

import random

SCRIPTS = {
    "Latin": "\u00c5ngstr\u00f6m na\u00efve \u0130stanbul \ufb01n stra\u00dfe \u1e9e d\u017ez \u2126hm K\u212aelvin", "Greek": "\u0386\u03bd\u03b8\u03c1\u03c9\u03c0\u03bf\u03c2 \u1f04\u03bd\u03b8\u03c1\u03c9\u03c0\u03bf\u03c2 \u03c2\u03c3",
    "Cyrillic": "\u041f\u0440\u0438\u0432\u0435\u0442, \u0451\u0436 \u0439\u043e\u0433 \u0456\u0457\u0454", "Armenian": "\u0532\u0561\u0580\u0587 \u0541\u0565\u0566", "Georgian": "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1c92",
    "Hebrew": "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd", "Arabic": "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627 \u0644\u0627 \ufefb \u06f1\u06f2\u06f3 \u0661", "Syriac": "\u072b\u0720\u0721\u0710", "Thaana": "\u078b\u07a8\u0788\u07ac\u0780\u07a8",
    "Devanagari": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u0937 \u0958 \u0967\u0968", "Bengali": "\u09a8\u09ae\u09b8\u09cd\u0995\u09be\u09b0 \u09cb", "Gurmukhi": "\u0a38\u0a24 \u0a38\u0a4d\u0a30\u0a40", "Tamil": "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0bca",
    "Telugu": "\u0c28\u0c2e\u0c38\u0c4d\u0c15\u0c3e\u0c30\u0c02", "Sinhala": "\u0d86\u0dba\u0dd4\u0db6\u0ddd\u0dc0\u0db1\u0dca", "Thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e04\u0e23\u0e31\u0e1a \u0e19\u0e49\u0e33", "Lao": "\u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5",
    "Tibetan": "\u0f56\u0f40\u0fb2\u0f0b\u0f64\u0f72\u0f66\u0f0b \u0f43", "Myanmar": "\u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b", "Khmer": "\u179f\u17bd\u179f\u17d2\u178f\u17b8", "Ethiopic": "\u1230\u120b\u121d", "Cherokee": "\u13a3\u13cf\u13f9 \uab70",
    "Hangul": "\uc548\ub155 \u1112\u1161\u11ab\u1100\u1173\u11af \u3147\u314f", "Hiragana": "\u3053\u3093\u306b\u3061\u306f \u304c \u304b\u3099", "Katakana": "\u30ab\u30fc\u30c9 \uff76\uff9e", "Han": "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u8c48 \uf900 \U00020000\U0002f800",
    "Mathematical": "\U0001d504\U0001d7d8 \u222b\u2211 \u00bd\u00b2\u2460\u2167", "Gothic": "\U00010330\U00010348", "Cuneiform": "\U00012000", "Hieroglyphs": "\U00013000\U000131cb",
}
EMOJI = ["\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\u2764\ufe0f\u200d\U0001f525", "\U0001f1e9\U0001f1ea\U0001f1eb", "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
         "1\ufe0f\u20e3", "\U0001fae8", "\u200d\u200d", "\ufe0f", "\U0001f600" * 7]
COMBINED = ["e\u0301", "o\u0323\u0308", "o\u0308\u0323", "a" + "\u0301" * 30, "\u0301alone", " \u0301", "\n\u0301", "1\u0301", "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324", "\u0958\u212b\u2126\ufb01\ufdfa\u0344",
            "x\u0488", "\u1e9b\u0323", "\u0f73\u0f75\u0f81", "\u3099\u304b"]
BLANKS = [" ", "  ", "   ", " " * 7, " " * 16, " " * 31, " " * 63, " " * 500, "\t", "\t\t", "\t" * 40, " \t ", "\n", "\n\n", "\n" * 31, "\n" * 200, "\r\n", "\r\n\r\n", "\r", " \n", "\n ", "  \r\n  ",
          "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", "\u2060", "\u180e", "\x1c\x1f"]
CONTROLS = ["\0", "\0\0\0", "a\0b", "\x01\x02\x7f\x80\x9f", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000\U000f0000", "\xad", "\u202e\u202d\u2066"]
WORDS = ["hello", "Hello World", "don't I'LL we've THEY'RE \u2019s it's's", "x = y[1:2]", "def f(self, *args):\n    return {}\n", "1234567890", "3.14e-10", "12 345 6", "http://a.b/c?d=e&f#g", "a" * 300, "ab" * 150,
         "!?!?...---===***", "/* // # -- */", "\\n\\t\\u00e9", "{{ jinja }} {% x %}", "<b>x</b>", "camelCaseSNAKE_CASE", "0x1F600", "\u2581\u2581a\u2581", "\u0120a\u010a", "\u00c3\u00a9", "''\"\"``", "s t d m", "'s", "'S 't're've'm'll'd",
         "\u017f'\u017f", "\u0130\u0131", "<0x0A>", "<0x00><0xFF>", "[UNK] [PAD]", "<unused0><unused42>", "<table><tr>", "</s>", "<s>"]
MARKS = ["<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<|think|>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
         "<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_", "<|im_start", "im_end|>", "< bos>", "<BOS>", "<<bos>>", "<|im_start|", "<bos", "<|vision_start|>", "<|image_pad|>", "<image_soft_token>", "<start_of_image>"]

# Blanks and marks meet everywhere in real chats, so each pairing is there once.
PIECES = [*SCRIPTS.values(), *EMOJI, *COMBINED, *BLANKS, *CONTROLS, *WORDS, *MARKS]


def hurting(count: int, seed: int = 0) -> list[str]:
    """Every piece alone, then mixtures of 2 to 12 pieces, random letters of all planes, and pieces cut inside."""
    rng = random.Random(seed)
    texts = ["", *PIECES, *(w + m + b for m in MARKS for w, b in [("a", " b"), ("x ", "\n"), ("\n", "  y")])]
    while len(texts) < count:
        kind = rng.randrange(4)
        if kind == 0:
            texts.append("".join(letter(rng) for _ in range(rng.randrange(1, 60))))
        else:
            text = "".join(rng.choice(rng.choice((PIECES, BLANKS, MARKS, WORDS, COMBINED))) for _ in range(rng.randrange(2, 12)))
            texts.append(text[rng.randrange(len(text)):] if kind == 1 else text)
    return texts[:count]


def letter(rng: random.Random) -> str:
    while True:
        code = rng.randrange(rng.choice((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)
