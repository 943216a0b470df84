"""One file from the hub into the cache of `huggingface_hub`, going on where an earlier download was ended.

The library goes on within a call, but begins anew in the next process. So large files are downloaded here, with its own functions,
to a name that stays the same; once whole they become what the library finds in its cache.
"""
from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ..errors import FileError
from .messages import shown

LARGE = 1 << 23         # bytes
_BLOB = re.compile(r"[0-9A-Za-z-]{8,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(hub: Any, repo: str, file: str) -> Path:
    """Where the file lies in the cache. Raises what the library raises, and OSError."""
    _large(hub, repo, file)
    return Path(hub.hf_hub_download(repo, file))


def _large(hub: Any, repo: str, file: str) -> None:
    """Puts a large file that is not there yet where the library keeps contents by their hash."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hub.hf_hub_url(repo, file)
    about = hub.get_hf_file_metadata(url)
    if not about.etag or not about.size or about.size < LARGE or not _BLOB.fullmatch(about.etag):
        return
    folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    whole, part = folder / about.etag, folder / f"{about.etag}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / f"{about.etag}.lock"):
        if whole.exists():
            return
        headers = build_hf_headers()
        if urlparse(about.location).netloc != urlparse(url).netloc:
            headers.pop("authorization", None)              # another server keeps the content and must not see the token
        with open(part, "ab") as stream:
            start = stream.tell()
            if start > about.size:
                stream.truncate(0)
                start = 0
            if start < about.size:
                http_get(about.location, stream, resume_size=start, headers=headers, expected_size=about.size, displayed_filename=Path(file).name)
        if start and _SHA256.fullmatch(about.etag) and _sha256(part) != about.etag:
            os.remove(part)
            raise FileError(f"{shown(file)}: what was downloaded before and now do not fit together; both were removed, try again")
        os.replace(part, whole)
    (folder / f"{about.etag}.lock").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
