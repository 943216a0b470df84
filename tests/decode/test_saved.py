"""Sessions in files: what comes back is what was saved, to the bit, and nothing else is taken."""
from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import VOCABULARY, drafters, model, target

from skipstone.decode.saved import DIGEST, MAGIC
from skipstone.errors import ArgumentError, DeviceError, FileError

PROGRAM = target(11)
TEXT = np.random.default_rng(11).integers(0, VOCABULARY, 900).tolist()
START = struct.Struct("<17sII")


def small(drafter: str | None = "mtp", **more: Any) -> Any:
    return model(PROGRAM, drafters(11)[drafter] if drafter else None, **more)


@pytest.mark.parametrize("drafter", [None, "mtp", "assistant", "dflash", "ngram"])
@pytest.mark.parametrize("length", [0, 1, 2, 31, 32, 33, 255, 256, 257, 640])
def test_a_loaded_session_goes_on_to_the_bit(tmp_path: Path, drafter: str | None, length: int) -> None:
    m = small(drafter)
    session = m.session()
    session.forward(TEXT[:length], logits=None)
    if drafter and length:
        session.draft(3, TEXT[length])        # leaves the drafter in the middle of things
    session.save(tmp_path / "s")
    loaded = m.load_session(tmp_path / "s")
    assert loaded.tokens == TEXT[:length] == session.tokens
    assert loaded._sequence.points == session._sequence.points
    if drafter and length:
        assert loaded.draft(5, TEXT[length]) == session.draft(5, TEXT[length])
    more = TEXT[length:length + 40]
    assert np.array_equal(loaded.forward(more, logits="all"), session.forward(more, logits="all"))
    for back in (length + 20, length // 2, 0):
        for s in (session, loaded):
            s.rollback(back)
        assert np.array_equal(loaded.forward(TEXT[back:back + 5], logits="all"), session.forward(TEXT[back:back + 5], logits="all"))


def test_marks_are_saved_so_that_an_edit_reads_little_again(tmp_path: Path) -> None:
    m = small()
    session = m.session()
    for end in (200, 420, 700):
        session.generate(TEXT[:end], max_tokens=3, stop_at_eos=False)
    session.save(tmp_path / "s")
    loaded = m.load_session(tmp_path / "s")
    results = [s.generate(TEXT[:430] + [3, 4, 5], max_tokens=9, stop_at_eos=False) for s in (session, loaded, m.session())]
    assert len({tuple(r.tokens) for r in results}) == 1
    assert [r.stats.prompt_tokens for r in results] == [results[0].stats.prompt_tokens] * 2 + [433]
    assert results[0].stats.prompt_tokens < 50 and results[0].stats.reused_tokens + results[0].stats.prompt_tokens == 433


def test_another_drafter_or_none_finds_its_way(tmp_path: Path) -> None:
    for drafter in ("mtp", "assistant", None):
        session = small(drafter).session()
        session.forward(TEXT[:100], logits=None)
        session.save(tmp_path / str(drafter))
    for saved in ("mtp", "assistant", "None"):
        for drafter in ("mtp", "assistant", None):
            m = small(drafter)
            m.drafter and setattr(m.drafter, "identity", drafter)     # else all small drafters are the same file's
            loaded, fresh = m.load_session(tmp_path / saved), m.session()
            assert fresh.generate(TEXT[:120], max_tokens=8).tokens == loaded.generate(TEXT[:120], max_tokens=8).tokens
            if drafter:
                assert fresh.draft(4, 7) == loaded.draft(4, 7)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "s"
    session = small().session()
    session.generate(TEXT[:50], max_tokens=5, stop_at_eos=False)
    session.save(path)
    return path.read_bytes()


def refused(tmp_path: Path, data: bytes, m: Any = None) -> str:
    """Loading the bytes raises FileError and leaves the session as it was; the message."""
    (tmp_path / "bad").write_bytes(data)
    session = (m or small()).session()
    session.forward(TEXT[:7], logits=None)
    with pytest.raises(FileError) as found:
        session.load(tmp_path / "bad")
    assert session.tokens == TEXT[:7] and session.forward([1]).shape == (1, VOCABULARY)
    assert "bad" in str(found.value)
    return str(found.value)


def test_a_file_that_was_cut_or_grew_is_refused(tmp_path: Path, file: bytes) -> None:
    cuts = [*range(0, 600, 7), *range(600, len(file), max(1, len(file) // 150)), len(file) - 1]
    for cut in cuts:
        refused(tmp_path, file[:cut])
    refused(tmp_path, file + b"x")


def test_a_changed_byte_anywhere_is_refused(tmp_path: Path, file: bytes) -> None:
    random = np.random.default_rng(1)
    for at in [*range(0, 60), *random.integers(60, len(file), 200).tolist()]:
        changed = bytearray(file)
        changed[at] ^= 1 << int(random.integers(0, 8))
        refused(tmp_path, bytes(changed))


def lied(file: bytes, **changes: Any) -> bytes:
    """The file with other values in its header, and a checksum that fits."""
    import hashlib

    magic, version, size = START.unpack(file[:START.size])
    header = json.loads(file[START.size:START.size + size])
    drafter = changes.pop("in_drafter", {})
    header.update(changes)
    if drafter:
        header["drafter"].update(drafter)
    described = json.dumps(header).encode()
    data = START.pack(magic, version, len(described)) + described + file[START.size + size:-DIGEST]
    return data + hashlib.sha256(data).digest()


def test_lies_in_the_header_are_refused(tmp_path: Path, file: bytes) -> None:
    small().session().load(_written(tmp_path / "true", lied(file)))
    numbers = (-1, 0, 1, 49, 2**31, 2**63, 10**30, 1.5, True, None, "x", [], {})
    for value in numbers:
        refused(tmp_path, lied(file, tokens=value))
        refused(tmp_path, lied(file, in_drafter={"bytes": value}))
        refused(tmp_path, lied(file, in_drafter={"paired": value}))
        if value != 1:
            refused(tmp_path, lied(file, in_drafter={"waiting": value}))
    points = ([], [[54]], [[54, 33]], [[54, -1]], [[2**62, 0]], [[54, 0]] * 65, [[54, 2], [54, 2]], [[60, 0], [54, 4]], [[54, 2**40]], None, "x", 3, [[54, "x"]])
    for value in points:
        refused(tmp_path, lied(file, points=value))
        refused(tmp_path, lied(file, in_drafter={"points": value}))
    for value in (None, 1, "another", []):
        assert "belongs" in refused(tmp_path, lied(file, identity=value))
        assert "kv_type" in refused(tmp_path, lied(file, kv_type=value))
    refused(tmp_path, lied(file, drafter=[1]))
    refused(tmp_path, lied(file, drafter=None))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_other_files_are_refused(tmp_path: Path, file: bytes) -> None:
    for data in (b"", b"GGUF" + bytes(100), MAGIC, START.pack(MAGIC, 1, 2**32 - 1), START.pack(MAGIC, 1, 2) + b"[]", START.pack(MAGIC, 1, 2) + b"{}",
                 START.pack(MAGIC, 1, 200_000) + b"[" * 200_000):
        refused(tmp_path, data)
    assert "version" in refused(tmp_path, START.pack(MAGIC, 2, 2) + b"{}")


def test_another_model_and_kv_type_and_a_smaller_context_are_refused(tmp_path: Path, file: bytes) -> None:
    other = small()
    other._identify = lambda: "another"
    assert "belongs" in refused(tmp_path, file, other)
    other = small()
    other.kv_type = "f32"
    assert "kv_type" in refused(tmp_path, file, other)
    assert "tokens" in refused(tmp_path, file, small(context=53))


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, file: bytes) -> None:
    import hashlib

    size = START.unpack(file[:START.size])[2]
    at = START.size + size
    for value in (VOCABULARY, -1, 2**31 - 1):
        data = file[:at] + struct.pack("<i", value) + file[at + 4:-DIGEST]
        assert "vocabulary" in refused(tmp_path, data + hashlib.sha256(data).digest())


def test_writing_is_one_step(tmp_path: Path, file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    session = small().session()
    session.forward(TEXT[:30], logits=None)
    target_file = _written(tmp_path / "s", file)

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(ArgumentError, match="No space left"):
            session.save(target_file)
    assert target_file.read_bytes() == file and os.listdir(tmp_path) == ["s"]
    session.save(target_file)
    assert small().load_session(target_file).tokens == TEXT[:30]
    for path in (tmp_path, tmp_path / "none" / "s", 3, "", b"x"):
        with pytest.raises(ArgumentError, match="path"):
            session.save(path)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileError):
            session.load(path)


def test_a_card_says_that_it_cannot(tmp_path: Path) -> None:
    class Card:
        vocabulary, hidden_width = PROGRAM.vocabulary, PROGRAM.hidden_width
        sequence, run = PROGRAM.sequence, PROGRAM.run
    session = model(Card()).session()
    with pytest.raises(DeviceError, match="device"):
        session.save(tmp_path / "s")
    with pytest.raises(DeviceError, match="device"):
        session.load(tmp_path / "s")
