"""Split GGUF models: found from any part, and every way in which parts do not fit is named."""
from __future__ import annotations

import pytest
from file_builder import Gguf

from skipstone.errors import FileError
from skipstone.files import open_model


def part(number, count=3, total=3, name=None, **split):
    keys = [("general.architecture", "str", "small"), ("general.name", "str", f"part {number}")]
    numbers = {"no": number - 1, "count": count, "tensors.count": total, **split}
    keys += [(f"split.{key}", "i32" if key == "tensors.count" else "u16", value) for key, value in numbers.items() if value is not None]
    return Gguf(keys, [(name or f"tensor {number}", [4], "F32", 16)]).build()


@pytest.fixture
def parts(tmp_path):
    paths = [tmp_path / f"big-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        path.write_bytes(part(number))
    return paths


def test_opens_from_any_part_and_from_the_folder(parts):
    for path in [*parts, parts[0].parent]:
        model = open_model(path)
        assert model.path == parts[0] and model.metadata["general.name"] == "part 1"
        assert {n: t.source for n, t in model.tensors.items()} == {f"tensor {n}": p.name for n, p in enumerate(parts, 1)}


def test_a_missing_part_is_named(parts):
    parts[1].unlink()
    with pytest.raises(FileError, match="1 of 3 parts are missing beside it, the first is big-00002-of-00003.gguf"):
        open_model(parts[0])


def test_a_renamed_part(parts, tmp_path):
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(FileError, match="renamed.gguf: key split.count says 3 parts; expected a file name that ends in -00001-of-00003.gguf"):
        open_model(tmp_path / "renamed.gguf")


@pytest.mark.parametrize(("lie", "message"), [
    (dict(no=2), "key split.no is 2; expected 1"),
    (dict(no=65535), "key split.no is 65535; expected 1"),
    (dict(count=4), "key split.count is 4; expected 3"),
    (dict(no=None), "key split.no is missing"),
    (dict(count=None), "key split.count is missing"),
    (dict(name="tensor 1"), "tensor tensor 1 is also in big-00001-of-00003.gguf"),
])
def test_a_part_that_does_not_fit(parts, lie, message):
    parts[1].write_bytes(part(2, **lie))
    with pytest.raises(FileError, match=f"big-00002-of-00003.gguf: {message}"):
        open_model(parts[0])


@pytest.mark.parametrize(("total", "message"),
                         [(4, "key split.tensors.count is 4; found 3"), (-1, "split.tensors.count is -1"), (None, "split.tensors.count is missing")])
def test_total(parts, total, message):
    parts[0].write_bytes(part(1, total=total))
    with pytest.raises(FileError, match=message):
        open_model(parts[2])


def test_a_damaged_part(parts):
    parts[2].write_bytes(part(3)[:-20])
    with pytest.raises(FileError, match="big-00003-of-00003.gguf: tensor tensor 3"):
        open_model(parts[0])


def test_a_name_like_a_part_without_the_keys(tmp_path):
    path = tmp_path / "x-00001-of-00002.gguf"
    path.write_bytes(part(1, count=None, no=None, total=None))
    assert open_model(path).path == path


def test_split_count_of_a_wrong_type(tmp_path):
    path = tmp_path / "x-00001-of-00002.gguf"
    path.write_bytes(Gguf([("general.architecture", "str", "a"), ("split.count", "str", "2")]).build())
    with pytest.raises(FileError, match="key split.count is '2'; expected a number"):
        open_model(path)
