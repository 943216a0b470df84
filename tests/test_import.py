"""What `import skipstone` costs, and that everything it promises is there."""
from __future__ import annotations

import subprocess
import sys

import skipstone


def test_import_brings_nothing_heavy() -> None:
    code = "import sys; import skipstone; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "torch", "transformers", "tokenizers", "jinja2", "typer", "rich", "safetensors"} & set(loaded)


def test_every_name_is_there() -> None:
    assert set(skipstone.__all__) == set(dir(skipstone))
    for name in skipstone.__all__:
        assert getattr(skipstone, name) is not None
    try:
        skipstone.nothing  # noqa: B018
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("a name that does not exist was found")
