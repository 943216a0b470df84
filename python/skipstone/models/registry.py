"""Which description builds which file, by the architecture that the file names."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import ModelError
from . import dflash, gemma3, gemma4, gemma4_assistant, orthrus, qwen3, qwen35, qwen35_mtp
from .network import DrafterNetwork, MakeProgram, Network
from .weights import MakeWeight

if TYPE_CHECKING:
    from ..files import ModelFile

TARGETS: tuple[ModuleType, ...] = (gemma3, gemma4, qwen3, qwen35)
DRAFTERS: tuple[ModuleType, ...] = (gemma4_assistant, dflash)

# Well known, but not run: refused with the reason rather than as unknown.
REFUSED = {
    "Qwen3.8-Flash-Next is another architecture than Qwen3.5": ("qwen4exp", "qwen4_exp"),
    "Gemma 3n is another architecture than Gemma 3 and 4": ("gemma3n", "gemma3n_text"),
    "diffusion models cannot be run": ("diffusion_gemma", "diffusion-gemma"),
    "embedding models cannot be run": ("gemma-embedding", "gemma_embedding"),
    "this is ik_llama.cpp's form of a Gemma 4 assistant; use a gemma4-assistant file": ("gemma4_mtp",),
    "of block drafters DFlash, DFlash2 and Orthrus can be run": ("dspark", "gemma4-dflash-draft", "eagle3"),
}

# Parts of class names in config.json that make another thing of a known model_type.
OTHER_CLASSES = {
    "DFlash": "of block drafters DFlash, DFlash2 and Orthrus can be run",
    "DSpark": "of block drafters DFlash, DFlash2 and Orthrus can be run",
    "Eagle": "of drafters Gemma 4's assistants, MTP heads, DFlash, DFlash2 and Orthrus can be run",
    "Classification": "classifiers cannot be run",
    "Reward": "reward models cannot be run",
    "Embedding": "embedding models cannot be run",
}


def build_network(
    file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None, taps: tuple[int, ...] = ()
) -> Network:
    """The model in `file`. ModelError names what Skipstone cannot run, and every key or tensor that is missing or wrong.

    make_weight and program stand in for _native.Weight and _native.Program. taps: layers that its drafter reads, see `taps`.
    """
    description = find(file, TARGETS)
    if description is None:
        if find(file, DRAFTERS) is not None:
            raise ModelError(
                f"{file.name}: architecture {file.architecture!r}{as_class(file)} is a drafter's; expected a model. "
                "Load the model that it was made for and give this file as its drafter"
            )
        raise unknown(file)
    network: Network = description.build(file, make_weight, program, taps)
    return network


def build_drafter(
    target: Network,
    target_file: ModelFile,
    drafter_file: ModelFile | None = None,
    make_weight: MakeWeight | None = None,
    program: MakeProgram | None = None,
) -> DrafterNetwork | None:
    """The drafter in `drafter_file`, or without one that in the target's own file, None where it has none.

    It shares the target's embedding table and, but for an assistant, its output matrix. ModelError where it does not fit the target.
    """
    if drafter_file is None or (target.weights is not None and drafter_file.path == target_file.path):
        if target.weights is not None:
            return orthrus.build(target, target_file, program)
        if target.family != "qwen35" or not qwen35_mtp.present(target_file):
            return None
        return qwen35_mtp.build(target, target_file, make_weight, program)
    description = find(drafter_file, DRAFTERS)
    if description is not None:
        drafter: DrafterNetwork = description.build(target, drafter_file, make_weight, program)
        return drafter
    if find(drafter_file, TARGETS) is None:
        raise unknown(drafter_file)
    if not qwen35_mtp.present(drafter_file):
        raise ModelError(
            f"{drafter_file.name}: holds no drafter (architecture {drafter_file.architecture!r} without an MTP head); "
            "expected a Gemma 4 assistant, a DFlash drafter or a file with an MTP head"
        )
    if target.family != "qwen35" or find(drafter_file, TARGETS) is not qwen35:
        raise ModelError(
            f"{drafter_file.name}: an MTP head of architecture {drafter_file.architecture!r}; "
            f"the target {target.name} is of architecture {target.architecture}"
        )
    return qwen35_mtp.build(target, drafter_file, make_weight, program)


def has_own_drafter(file: ModelFile) -> bool:
    """Does the target's own file hold a drafter?"""
    return qwen35_mtp.present(file) or any(name.endswith(qwen3.SECOND) for name in file.tensors)


def taps(drafter_file: ModelFile) -> tuple[int, ...]:
    """The target's layers whose outputs this drafter reads: build_network's taps."""
    return dflash.taps_of(drafter_file) if find(drafter_file, DRAFTERS) is dflash else ()


def find(file: ModelFile, descriptions: tuple[ModuleType, ...]) -> ModuleType | None:
    """By the GGUF architecture or config.json's model_type; where that says nothing known, by the class in config.json."""
    cls = class_name(file)
    if file.format != "gguf" and cls in dflash.CLASSES:  # which say that they are of type qwen3
        return dflash if dflash in descriptions else None
    if any(part in cls for part in OTHER_CLASSES):
        return None
    for module in descriptions:
        if file.architecture in (module.GGUF if file.format == "gguf" else module.CONFIG):
            return module
    if any(file.architecture in names for names in REFUSED.values()):
        return None
    return next((m for m in descriptions if cls in m.CLASSES), None)


def class_name(file: ModelFile) -> str:
    """The class that config.json names, "" where it names none."""
    classes = file.config.get("architectures")
    return classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""


def as_class(file: ModelFile) -> str:
    return f" as class {shorten(cls)}" if (cls := class_name(file)) else ""


def unknown(file: ModelFile) -> ModelError:
    known = ", ".join(sorted({n for m in (*TARGETS, *DRAFTERS) for n in (m.GGUF if file.format == "gguf" else m.CONFIG)}))
    because = next((f": {reason}" for reason, names in REFUSED.items() if file.architecture in names), "")
    shown, cls = shorten(file.architecture), class_name(file)
    if not because:
        because = next((f" as class {shorten(cls)}: {reason}" for part, reason in OTHER_CLASSES.items() if part in cls), "")
    return ModelError(f"{file.name}: architecture {shown} cannot be run{because}; expected one of {known}")


def shorten(name: str) -> str:
    return repr(name) if len(name) <= 64 else repr(name[:61] + "...")
