"""skipstone demo."""
from __future__ import annotations

from command_line import skipstone


def test_json() -> None:
    done = skipstone("demo", "--rounds", "1", "--json")
    assert done.code == 0
    models = done.json["models"]
    assert [m["model"] for m in models] == ["tiny-qwen35", "tiny-gemma4"]
    for m in models:
        assert set(m) == {"model", "architecture", "equal", "tokens", "text", "tokens_per_pass", "acceptance",
                          "plain_tokens_per_second", "drafted_tokens_per_second"}
        assert m["equal"] is True
        assert m["tokens"] == 128 and isinstance(m["text"], str) and m["text"]
        assert 3 <= m["tokens_per_pass"] <= 5
        assert len(m["acceptance"]) == 4 and all(0 <= rate <= 1 for rate in m["acceptance"])
        # A draft counts only if all before it were right.
        assert m["acceptance"] == sorted(m["acceptance"], reverse=True)
        assert m["plain_tokens_per_second"] > 0 and m["drafted_tokens_per_second"] > 0
    assert "texts equal: yes" in done.err, "with --json the show goes to standard error"


def test_for_people() -> None:
    done = skipstone("demo", "--rounds", "1")
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert sum(line.startswith("texts equal: yes") for line in lines) == 2
    assert done.out.count("plain, one token a pass: pass 128") == 2
    assert sum(line.startswith("tokens/s: ") for line in lines) == 2


def test_ascii_output() -> None:
    done = skipstone("demo", "--rounds", "1", PYTHONIOENCODING="ascii")
    assert done.code == 0 and done.out.isascii() and done.out.count("texts equal: yes") == 2
