"""skipstone kernels. What it measures is not tested, only that it measures."""
from __future__ import annotations

import pytest
from command_line import assert_one_line_error, skipstone

SMALL = ("--rounds", "1", "--shape", "64x256,16x512", "--rows", "1,3")


def test_json() -> None:
    done = skipstone("kernels", *SMALL, "--types", "q4_k,F32", "--threads", "1,2", "--json")
    assert done.code == 0 and done.err == ""
    figures = done.json["kernels"]
    assert [(f["type"], f["shape"], f["threads"]) for f in figures] == [(t, s, n) for t in ("Q4_K", "F32") for s in ([64, 256], [16, 512]) for n in (1, 2)]
    assert [f["bytes"] for f in figures[::4]] == [64 * 144, 64 * 256 * 4] and done.json["machine"]["threads"] == 2
    for figure in figures:
        assert list(figure["rows"]) == ["1", "3"] and figure["read_bytes_per_second"] > 0
        one, three = figure["rows"]["1"], figure["rows"]["3"]
        assert one["relative"] == 1 and three["relative"] == pytest.approx(three["ms"] / one["ms"])
        assert three["gmacs_per_second"] == pytest.approx(3 * figure["shape"][0] * figure["shape"][1] / three["ms"] / 1e6)
        assert one["share_of_read_bandwidth"] == pytest.approx(figure["bytes"] / one["ms"] * 1e3 / figure["read_bytes_per_second"], rel=1e-3)


def test_for_people() -> None:
    done = skipstone("kernels", *SMALL, "--types", "Q8_0")
    assert done.code == 0 and done.err == ""
    for word in ("Q8_0", "64 x 256", "GB/s", "share", "GMAC/s", "t(k)/t(1)", "read loop"):
        assert word in done.out


@pytest.mark.parametrize("options, words", [
    (("--types", "Q9"), ("--types", "Q9", "Q4_K")), (("--rows", "0"), ("--rows", "0")), (("--rows", "1,x"), ("--rows", "1,x")),
    (("--shape", "64"), ("--shape", "64")), (("--shape", "64x100"), ("--shape", "Q4_K", "256")), (("--threads", "-1"), ("--threads", "-1")),
])
def test_wrong_values(options: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line_error(skipstone("kernels", *options), *words)
