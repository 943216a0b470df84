"""compare_cpu.py and picture.py as a user runs them: with this package alone, with peers that do not come up, and with engines that answer as they like."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from skipstone import bundled

BENCH = Path(__file__).resolve().parents[2] / "bench"
ROWS = [str(k) for k in (1, 2, 3, 4, 5, 6, 8, 12, 16)]
QUICK = ("--rounds", "1", "--context", "16", "--prompt-tokens", "32")


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH / name), *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results of a comparison without peers, and what it printed."""
    output = tmp_path_factory.mktemp("results") / "out.json"
    done = script("compare_cpu.py", bundled.GEMMA4, *QUICK, "--threads", "1,2", "--engines", "skipstone", "--output", output, "--plot", output.with_name("plot.svg"))
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_results(written: tuple[Path, str]) -> None:
    output, said = written
    document = json.loads(output.read_text())
    assert document["file"] == Path(bundled.GEMMA4).name and document["context"] == 16 and document["prompt_tokens"] == 32 and document["bytes_row"] > 1e6
    assert document["machine"]["cpu"] and document["machine"]["isa"] and [run["threads"] for run in document["runs"]] == [1, 2]
    for run in document["runs"]:
        low, middle, high = run["read_loop_GBs"]
        assert 0 < low <= middle <= high and run["load"] >= 0
        engine = run["engines"]["skipstone"]
        assert list(engine["ms"]) == ROWS and all(ms > 0 for ms in engine["ms"].values())
        assert engine["tokens_s"] == pytest.approx(1e3 / engine["ms"]["1"], rel=0.01) and engine["t8"] == pytest.approx(engine["ms"]["8"] / engine["ms"]["1"], rel=0.02)
        assert engine["share"] == pytest.approx(document["bytes_row"] / engine["ms"]["1"] / 1e6 / middle, abs=0.01) and engine["prompt_tokens_s"] > 0
    for word in ("1 threads", "2 threads", "read loop", "load", "skipstone", "t(8)", "prompt/s"):
        assert word in said
    assert ElementTree.parse(output.with_name("plot.svg")).getroot().tag.endswith("svg")


def test_picture(written: tuple[Path, str], tmp_path: Path) -> None:
    output, _ = written
    done = script("picture.py", output, "--threads", 1, "--output", tmp_path / "one.svg")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg") and "1 thread" in text and "Skipstone" in text
    wrong = script("picture.py", output, "--threads", 7)
    assert wrong.returncode == 2 and "--threads: 7" in wrong.stderr and "1, 2" in wrong.stderr


def test_results_that_are_kept_can_be_drawn(peers: ModuleType) -> None:
    from skipstone.cli.plot import svg

    drawn = 0
    for path in sorted((BENCH / "results").glob("*.json")):
        document = json.loads(path.read_text())
        if not all("engines" in run for run in document.get("runs", [{}])) or "bytes_row" not in document:
            continue                                                # of another script
        for run in document["runs"]:
            assert ElementTree.fromstring(svg(peers.picture(document, run))).tag.endswith("svg")
            drawn += 1
    assert drawn >= 2


def test_a_peer_that_does_not_come_up_is_left_out(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = script("compare_cpu.py", bundled.GEMMA4, *QUICK, "--threads", "1", "--engines", "skipstone,native", "--native-library", tmp_path / "libllama.so", "--output", output)
    assert done.returncode == 0
    assert "native: left out:" in done.stderr and "libllama.so" in done.stderr
    assert set(json.loads(output.read_text())["runs"][0]["engines"]) == {"skipstone"}


def test_an_engine_that_gives_up(compare_cpu: ModuleType, rounds: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the middle of its rounds: the others' figures stand."""
    fake = tmp_path / "fake.py"
    answer = json.dumps({"prompt_100": 0.5, **{k: 0.01 * int(k) for k in ROWS}})
    fake.write_text(f"""
import sys
print("a library's greeting")
print("ready", flush=True)
rounds = 0
for line in sys.stdin:
    rounds += 1
    if sys.argv[1] == "ik" and rounds == 2:
        sys.exit("out of luck")
    print('{answer}', flush=True)
""")
    monkeypatch.setattr(rounds, "__file__", str(fake))
    chosen = argparse.Namespace(engines=["skipstone", "llama", "ik"], rounds=3, context=16, prompt_tokens=100, native_library=None)
    run = compare_cpu.compare("model.gguf", 1, chosen, 10_000_000)
    assert set(run["engines"]) == {"skipstone", "llama"} and "ik: left out: out of luck" in capfd.readouterr().err
    engine = run["engines"]["llama"]
    assert engine["ms"]["4"] == 40 and engine["t4"] == 4 and engine["t8"] == 8 and engine["tokens_s"] == 100 and engine["prompt_tokens_s"] == 200
    assert engine["share"] == pytest.approx(1 / run["read_loop_GBs"][1], abs=0.01)


@pytest.mark.parametrize("arguments, words", [
    (("--engines", "skipstone,vllm"), ("--engines", "vllm", "skipstone, llama, ik, native")),
    (("--threads", "two"), ("--threads", "two")),
    (("--threads", "0"), ("--threads", "0")),
    (("--rounds", "0"), ("--rounds", "0")),
    (("--context", "0"), ("--context", "0")),
    (("--engines", "native",), ("native", "--native-library")),
])
def test_mistakes(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = script("compare_cpu.py", bundled.GEMMA4, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("model, word", [("nowhere.gguf", "nowhere.gguf"), ("random:qwen9-1b", "qwen9-1b")])
def test_a_model_that_is_not_there(model: str, word: str) -> None:
    done = script("compare_cpu.py", model, "--engines", "skipstone")
    assert done.returncode == 2 and "Traceback" not in done.stderr and word in done.stderr
