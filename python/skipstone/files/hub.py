"""Models by their names on the Hugging Face hub: org/repo or org/repo:QUANT, through `huggingface_hub` and its cache.

What is in the cache is used without the network. A download that was interrupted goes on where it stopped.
"""
from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ArgumentError, FileError, SkipstoneError
from .download import fetch
from .mapping import read_json
from .messages import shown

_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}?)(?::([\w.-]{1,64}))?", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|F16|F32|MXFP4\w*|NVFP4\w*))$", re.IGNORECASE)
_DRAFTER = re.compile(r"^mtp-|[-._](?:assistant|mtp)(?:[-._]|$)", re.IGNORECASE)
_BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors.index.json")
INDEX = "model.safetensors.index.json"
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)

# What is taken where no quantization is named: the usual compromise first.
PREFERRED = ("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_K_L", "Q5_K_M", "Q4_0", "IQ4_XS", "Q6_K", "Q8_0", "BF16", "F16")


@dataclass(frozen=True)
class HubName:
    """repo: org/name. quantization: what stands after the colon, or None."""

    repo: str
    quantization: str | None

    def __str__(self) -> str:
        return self.repo + (f":{self.quantization}" if self.quantization else "")


@dataclass(frozen=True)
class Choice:
    """What a repository offers under one name. files: the model's, the first of several first; drafters: files of its drafter."""

    quantization: str | None
    files: tuple[str, ...]
    drafters: tuple[str, ...] = ()


def hub_name(text: str | os.PathLike[str]) -> HubName | None:
    """The name, where `text` is one: of the form org/repo[:QUANT], and no path that exists or ends as model files do."""
    if not isinstance(text, str) or text.endswith((".gguf", ".safetensors")):
        return None
    match = _NAME.fullmatch(text)
    if match is None or os.path.exists(text) or os.path.isdir(text.partition("/")[0]):
        return None
    return HubName(match[1], match[2])


def resolve(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A path as it is; for a name of the hub where its files lie, downloaded if they are not there yet."""
    name = hub_name(path)
    return path if name is None else find(name) or pull(name)


def find(name: HubName) -> Path | None:
    """Where the model lies in the cache, whole; None where it does not. Asks nobody."""
    hub = _library(name)
    store = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"
    try:
        commit = (store / "refs" / "main").read_text(encoding="ascii").strip()
        folder = store / "snapshots" / commit
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        chosen = choose(files, name)
    except (OSError, ValueError):
        return None
    if chosen.files[0].endswith(".gguf"):
        return folder / chosen.files[0] if _whole(chosen.files) else None
    if INDEX in files:
        parts = read_json(folder / INDEX, 64 << 20).get("weight_map")
        if not isinstance(parts, dict) or not set(map(str, parts.values())) <= set(files):
            return None
    return folder if "tokenizer.json" in files else None


def pull(name: HubName) -> Path:
    """Downloads what of the model is not there yet, and says where it lies. ArgumentError, FileError."""
    hub = _library(name)
    try:
        chosen = choose([file for file, _ in listed(name)], name)
        paths = [fetch(hub, name.repo, file) for file in (*chosen.files, *chosen.drafters)]
    except OSError as error:
        if error.errno not in STORAGE:                      # some network errors are OSErrors too
            raise _told(name, hub, error) from None
        raise FileError(f"{name}: the files cannot be stored ({shown(error)}); expected room in {hub.constants.HF_HUB_CACHE}. "
                        "HF_HOME can name another place") from None
    except SkipstoneError:
        raise
    except Exception as error:                              # the library's own, and those of the network library below it
        raise _told(name, hub, error) from None
    return paths[0] if chosen.files[0].endswith(".gguf") else paths[chosen.files.index("config.json")].parent


def listed(name: HubName) -> list[tuple[str, int]]:
    """(file, bytes) of everything in the repository, as the hub says now."""
    hub = _library(name)
    try:
        info = hub.HfApi().model_info(name.repo, files_metadata=True)
    except Exception as error:
        raise _told(name, hub, error) from None
    return [(file.rfilename, int(file.size or 0)) for file in info.siblings or []]


def choices(files: Iterable[str]) -> list[Choice]:
    """What a repository with these files offers: each quantization, or its safetensors."""
    files = sorted(files)
    models: dict[str, list[str]] = {}
    drafters: dict[str, list[str]] = {}
    for file in files:
        stem = PurePosixPath(file).stem
        if not file.endswith(".gguf") or "mmproj" in stem.lower() or "imatrix" in stem.lower():
            continue
        group = _PART.sub("", file.removesuffix(".gguf"))
        (drafters if _DRAFTER.search(stem) else models).setdefault(group, []).append(file)
    if not models:
        models, drafters = drafters, {}                     # a repository of drafters alone
    made = []
    for group, parts in models.items():
        quantization = _quantization(group)
        fitting = [found for other, found in drafters.items() if _quantization(other) == quantization] or list(drafters.values())[:1]
        made.append(Choice(quantization, tuple(parts), tuple(fitting[0]) if fitting else ()))
    weights = [file for file in files if file.endswith(".safetensors") and "/" not in file and file.startswith("model")]
    if not made and weights and "config.json" in files:
        made.append(Choice(None, tuple(weights + [file for file in _BESIDE if file in files])))
    return made


def choose(files: Iterable[str], name: HubName) -> Choice:
    """The one that is meant. ArgumentError names what there is."""
    offered = choices(files)
    if not offered:
        raise ArgumentError(f"{name}: the repository holds no model; expected .gguf files, or config.json with model*.safetensors")
    known = {choice.quantization.upper(): choice for choice in reversed(offered) if choice.quantization}
    if name.quantization is not None:
        found = known.get(name.quantization.upper()) or known.get(f"UD-{name.quantization.upper()}")
        if found is None:
            there = ", ".join(sorted(known)) or "safetensors only, which need no name after the colon"
            raise ArgumentError(f"{name}: there is no {name.quantization}; expected one of: {there}")
        return found
    return next((known[q] for q in PREFERRED if q in known), offered[0])


def _quantization(group: str) -> str | None:
    match = _QUANTIZATION.search(group) or _QUANTIZATION.search(group.rpartition("/")[0])
    return match[1] if match else None


def _whole(files: tuple[str, ...]) -> bool:
    part = _PART.search(files[0].removesuffix(".gguf"))
    return part is None or len(files) == int(part[2])


def _library(name: HubName) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise ArgumentError(f"{name}: there is no such file or folder, and names of the hub need huggingface_hub; "
                            "pip install 'skipstone[hub]'") from None
    return huggingface_hub


def _told(name: HubName, hub: Any, error: Exception) -> ArgumentError | FileError:
    """The library's error in one sentence with what to do."""
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        return ArgumentError(f"{name}: its owner wants a licence accepted first; do so at {hub.constants.ENDPOINT}/{name.repo}, then log in with 'hf auth login'")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ArgumentError(f"{name}: there is no such file or folder, nor such a repository at {hub.constants.ENDPOINT}; check the spelling. "
                             "A private one needs 'hf auth login'")
    if isinstance(error, errors.HFValidationError):
        return ArgumentError(f"{name}: no name that the hub knows ({shown(error, 200)}); expected org/repo or org/repo:QUANT")
    return FileError(f"{name}: it is not in the cache, and {hub.constants.ENDPOINT} cannot be reached ({type(error).__name__}: {shown(error, 200)}); "
                     "check the network and try again: what was downloaded is kept")
