"""Coverage-guided fuzzing of the readers with atheris (pip install '.[fuzz]').

    python tests/fuzz/fuzz.py gguf|safetensors|tokenizer [FOLDER ...] [-max_total_time=SECONDS ...]

Folders hold inputs; new ones go to the first, by default to a temporary one beside the committed corpus. Options are libFuzzer's. What it
finds is written to crash-... in the current folder; `python tests/fuzz/fuzz.py gguf crash-...` runs it alone. In a build with
-DSKIPSTONE_FUZZ=ON the Cython modules' code counts as well as the Python code, with -DSKIPSTONE_SANITIZE=address,undefined memory is watched.
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from native_coverage import join  # noqa: E402

with atheris.instrument_imports(include=["skipstone.files", "skipstone.text", "skipstone.errors"]):
    from targets import NATIVE, TARGETS


def main() -> None:
    name, *rest = sys.argv[1:]
    own = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=40000", f"-dict={HERE / f'{name}.dict'}"]
    if all(option.startswith("-") for option in rest):
        rest += [tempfile.mkdtemp(prefix="skipstone-fuzz-"), str(HERE / "corpus" / name)]
    print(f"fuzzing {name}: {join(NATIVE)} of {len(NATIVE)} native modules tell what runs", flush=True)
    atheris.Setup([sys.argv[0], *own, *rest], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
