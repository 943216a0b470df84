"""Promise 3: every instruction set that runs here gives the same bits, in every type of cache."""
from __future__ import annotations

import os
import subprocess
import sys

from bundled import FOLDER, NAMES

from skipstone import _native

# Prompt, few rows, drafts, and a digest of what came out.
PROGRAM = """
import hashlib, sys, skipstone
digest = hashlib.sha256()
for path in sys.argv[1:]:
    for kv_type in ("f16", "q8_0", "q4_0"):
        session = skipstone.load(path, kv_type=kv_type, threads=2).session()
        for rows in ([7 * i % 4000 + 10 for i in range(270)], [11], [12, 13, 14], list(range(100, 140))):
            digest.update(session.forward(rows, logits="all").tobytes())
            digest.update(str(session.draft(4, 25)).encode())
print(digest.hexdigest())
"""


def test_the_same_bits() -> None:
    models = [str(FOLDER / f"{name}.gguf") for name in NAMES]
    digests = {
        isa: subprocess.run([sys.executable, "-c", PROGRAM, *models], env={**os.environ, "SKIPSTONE_ISA": isa}, capture_output=True, text=True, check=True).stdout
        for isa in _native.isas()
    }
    assert len(digests) >= 1 and all(len(d.strip()) == 64 for d in digests.values()) and len(set(digests.values())) == 1, digests
