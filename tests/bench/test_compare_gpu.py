"""compare_gpu.py: what it says where it cannot measure, what it makes of the engines' figures, and the engine that ends its passes with chosen tokens."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from skipstone import bundled

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)


@pytest.mark.parametrize("arguments, words", [(("--rounds", "0"), ("--rounds", "0")), (("--prompts", "512,many"), ("--prompts", "many")),
                                              (("--device", "cuda:77"), ("cuda:77", "skipstone devices"))])
def test_it_says_what_is_wrong(compare_gpu: ModuleType, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, str(compare_gpu.__file__), str(bundled.GEMMA4), *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2 and all(word in done.stderr for word in words) and "Traceback" not in done.stderr


def test_figures(compare_gpu: ModuleType, rounds: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Medians over the rounds, of which the first does not count."""
    fake = tmp_path / "fake.py"
    answer = {"prompt_100": 0.5, "prompt_200": 0.8, **{str(k): 0.001 * k for k in ROWS}}
    fake.write_text(f"""
import json, sys
print("ready", flush=True)
slow = 50
for line in sys.stdin:
    print(json.dumps({{name: value * slow for name, value in {answer!r}.items()}}), flush=True)
    slow = 1 if sys.argv[1] == "skipstone" else 2
""")
    monkeypatch.setattr(rounds, "__file__", str(fake))
    chosen = argparse.Namespace(device="cuda:0", context=16, prompts=[100, 200], rounds=3, native_library="libllama.so")
    found = compare_gpu.compare("model.gguf", chosen, 10_000_000, 2e10)
    assert found["skipstone"]["ms"]["4"] == 4 and found["native"]["ms"]["4"] == 8
    assert found["skipstone"]["share_of_copy"] == 0.5 and found["skipstone"]["t8"] == 8 and found["skipstone"]["t16"] == 16
    assert found["skipstone"]["prompt_tokens_s"] == {"100": 200, "200": 250} and found["native"]["prompt_tokens_s"]["200"] == 125
    compare_gpu.print_table(found)
    assert "native" in capsys.readouterr().out
    json.dumps(found)


def test_a_pass_ends_with_chosen_tokens(peers: ModuleType) -> None:
    """The engine of a card gives its program what decoding gives it; the processor's program takes the same."""
    engine = peers.SkipstoneOnCard(str(bundled.GEMMA4), "cpu")
    engine.decode(list(range(20, 60)), 0)
    assert engine.sequence.length == 40
    engine.decode([60, 61, 62], 40)
    assert engine.sequence.length == 43 and engine.back_to(40) and engine.sequence.length == 40
    chosen, _ = engine.model.program.run([(engine.sequence, np.array([60], np.int32))], want="choice", rows="all", threads=1)
    session = engine.model.session(draft=False)
    session.forward(list(range(20, 60)), logits=None)
    assert int(np.ravel(chosen)[0]) == int(session.forward([60]).argmax())
    engine.clear()
    assert engine.sequence.length == 0
