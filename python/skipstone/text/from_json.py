"""The tokenizer of a safetensors folder: tokenizer.json, tokenizer_config.json, and the ids in the model's own files.

tokenizer.json is read here and built anew from the few parts that language models use, not handed to the library: its
other parts can blow a letter up to gigabytes, pad to any length, or panic.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from ..errors import FileError
from ..files import ModelFile
from ..files.mapping import read_json, read_whole
from ..files.messages import shown, shown_value
from . import markers
from ._vocabulary import ALPHABET, byte_level_pieces, check_merges
from .expressions import too_slow
from .vocabulary import BYTE_TOKEN, Added, Vocabulary, library_errors

TOKENIZER_LIMIT = 64 << 20          # bytes; Gemma's has 33 MB
TOKENIZER_VALUES = 3_000_000        # Gemma's has 1.9 million
CONFIG_LIMIT = 16 << 20
TEMPLATE_LIMIT = 1 << 20
STEPS_LIMIT = 4                     # of a sequence of normalizers; each may make a text a few times longer
TEXT_LIMIT = 4                      # letters that a normalizer puts in the place of others
REGEX_LIMIT = 4096
FILE = "tokenizer.json"
BEHAVIORS = {"Removed": "removed", "Isolated": "isolated", "MergedWithPrevious": "merged_with_previous", "MergedWithNext": "merged_with_next",
             "Contiguous": "contiguous"}


def read_vocabulary(model_file: ModelFile) -> Vocabulary | None:
    """None where the folder has no tokenizer.json. Raises FileError."""
    folder = model_file.path if model_file.path.is_dir() else model_file.path.parent
    if not (folder / FILE).exists():
        return None
    vocabulary, ids = _Reader(read_json(folder / FILE, TOKENIZER_LIMIT, TOKENIZER_VALUES), model_file).vocabulary()
    notes = read_json(folder / "tokenizer_config.json", CONFIG_LIMIT) if (folder / "tokenizer_config.json").exists() else {}
    _describe(vocabulary, ids, notes, model_file)
    vocabulary.chat_template = _template(folder, notes)
    return vocabulary


def read_ends(model_file: ModelFile) -> Vocabulary | None:
    """As read_vocabulary, but only what begins and ends a text, and the template: without the merges, which take most of the time."""
    folder = model_file.path if model_file.path.is_dir() else model_file.path.parent
    if not (folder / FILE).exists():
        return None
    reader = _Reader(read_json(folder / FILE, TOKENIZER_LIMIT, TOKENIZER_VALUES), model_file)
    reader.read_tokens(_get(_get(reader.tree, "model", dict, {}), "vocab", dict, {}, "model"))
    reader.read_added(_get(reader.tree, "added_tokens", list, []))
    ids = reader.ids | {token.content: i for i, token in reader.added.items()}
    special = {i: token.content for i, token in reader.added.items() if token.special and token.content not in markers.VISIBLE}
    notes = read_json(folder / "tokenizer_config.json", CONFIG_LIMIT) if (folder / "tokenizer_config.json").exists() else {}
    vocabulary = Vocabulary(FILE, models.BPE(), None, None, [b""] * (max(ids.values()) + 1), [], special)
    _describe(vocabulary, ids, notes, model_file)
    vocabulary.spelled = {i: token for token, i in ids.items()}
    vocabulary.chat_template = _template(folder, notes)
    return vocabulary


def _wrong(what: str, found: Any, expected: str, file: str = FILE) -> FileError:
    return FileError(f"{file}: {what} is {shown_value(found)}; expected {expected}")


def _get(node: dict[str, Any], key: str, kind: type, default: Any, what: str = "", file: str = FILE) -> Any:
    """node[key] if it has that type; the default where it is missing or null."""
    value = node.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise _wrong(f"{what}.{key}" if what else key, value, f"a value of type {kind.__name__}", file)
    return value


def _type(node: Any, what: str) -> str:
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise _wrong(what, node, "an object with a type")
    return node["type"]


def _steps(node: Any, key: str, what: str) -> list[dict[str, Any]]:
    """The members of a sequence, or the only step, or none. Each is an object with a type."""
    if node is None:
        return []
    if _type(node, what) != "Sequence":
        return [node]
    steps = _get(node, key, list, [], what)
    if len(steps) > STEPS_LIMIT:
        raise _wrong(f"{what}.{key}", f"a list of {len(steps)}", f"at most {STEPS_LIMIT} steps")
    for step in steps:
        _type(step, f"{what}.{key}")
    return steps


class _Reader:
    def __init__(self, tree: dict[str, Any], model_file: ModelFile) -> None:
        self.tree = tree
        self.rows = _rows(model_file.config)
        self.architecture = model_file.architecture

    def vocabulary(self) -> tuple[Vocabulary, dict[str, int]]:
        """The vocabulary, and ids by token."""
        model = _get(self.tree, "model", dict, {})
        if model.get("type", "BPE") != "BPE":
            raise _wrong("model.type", model["type"], "'BPE': Skipstone knows no other tokenizer")
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if _get(model, key, str, "", "model"):
                raise _wrong(f"model.{key}", model[key], "none")
        self.read_tokens(_get(model, "vocab", dict, {}, "model"))
        self.read_added(_get(self.tree, "added_tokens", list, []))
        special = {token.content for token in self.added.values() if token.special}
        merges = check_merges(_get(model, "merges", list, [], "model"), self.ids, special, f"{FILE}: model.merges")
        options = {key: _get(model, key, bool, False, "model") for key in ("byte_fallback", "fuse_unk", "ignore_merges")}
        unknown = options["unk_token"] = _get(model, "unk_token", str, None, "model")
        if unknown is not None and unknown not in self.ids:
            raise _wrong("model.unk_token", unknown, "a token of the vocabulary")

        byte_level = self.byte_level()
        pieces = self.pieces(byte_level, options["byte_fallback"], unknown)
        normalizer, splitting = self.normalizer(), self.splitting()
        with library_errors(FILE):
            built = models.BPE(self.ids, merges, **options)
        added, spelled = [], {}
        for i, token in sorted(self.added.items()):
            text = token.content
            content = not token.special and not markers.is_marker(text) and not (text == "</s>" and self.architecture.startswith("gemma3"))
            added.append(Added(i, token, content))
            hidden = token.special and text not in markers.VISIBLE
            pieces[i] = b"" if hidden else text.encode() if byte_level else text.replace("\u2581", " ").encode()
            if hidden:
                spelled[i] = text
        vocabulary = Vocabulary(FILE, built, normalizer, splitting, pieces, added, spelled)
        ids = self.ids | {token.content: i for i, token in self.added.items()}
        vocabulary.bos_id = self.start(ids)
        vocabulary.add_bos = vocabulary.bos_id is not None
        return vocabulary, ids

    def read_tokens(self, vocab: dict[str, Any]) -> None:
        """Sets ids: id by token."""
        if not vocab:
            raise _wrong("model.vocab", vocab, "tokens")
        limit = self.rows if self.rows is not None else 4 * len(vocab) + 1024
        for token, i in vocab.items():
            if type(i) is not int or not 0 <= i < limit:
                raise FileError(f"{FILE}: token {shown_value(token)} has id {shown_value(i)}; expected ids below {limit}, the model's vocabulary")
        if len(set(vocab.values())) != len(vocab):
            raise FileError(f"{FILE}: {len(vocab)} tokens share {len(set(vocab.values()))} ids; expected an id for each")
        self.ids, self.limit = vocab, limit

    def read_added(self, entries: list[Any]) -> None:
        """Sets added: tokens that are found before merging, by id."""
        self.added: dict[int, AddedToken] = {}
        contents = set()
        taken = {i: token for token, i in self.ids.items()}
        for entry in entries:
            if not isinstance(entry, dict):
                raise _wrong("an entry of added_tokens", entry, "an object")
            text, i = entry.get("content"), entry.get("id")
            what = f"the added token {shown_value(text)}"
            if not isinstance(text, str) or type(i) is not int or i < 0:
                raise _wrong("an entry of added_tokens", entry, "content and id")
            if not text or i >= self.limit and self.rows is not None:
                continue            # Gemma 3 has a token for images that its text models have no row for
            if i >= self.limit or self.ids.get(text, i) != i or taken.get(i, text) != text or i in self.added or text in contents:
                raise FileError(f"{FILE}: {what} has id {i}; expected an id of its own, below {self.limit}, the same as in the vocabulary")
            flags = {key: _get(entry, key, bool, key == "normalized" and not entry.get("special"), what)
                     for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            self.added[i] = AddedToken(text, **flags)
            contents.add(text)

    def normalizer(self) -> Any:
        """What happens to the text before everything else: Unicode forms, and the sign for a space."""
        made: list[Any] = []
        for step in _steps(self.tree.get("normalizer"), "normalizers", "normalizer"):
            kind = step["type"]
            if kind in ("NFC", "NFD", "NFKC", "NFKD"):
                made.append(getattr(normalizers, kind)())
                continue
            new = _get(step, "content" if kind == "Replace" else "prepend", str, "", "normalizer")
            if kind == "Prepend" and 0 < len(new) <= TEXT_LIMIT:
                made.append(normalizers.Prepend(new))
            elif kind == "Replace" and len(new) <= TEXT_LIMIT:
                made.append(normalizers.Replace(self.pattern(step, "normalizer", regex=False), new))
            else:
                raise _wrong("normalizer", step, "NFC, NFD, NFKC, NFKD, Replace or Prepend with a few letters")
        return normalizers.Sequence(made) if made else None

    def splitting(self) -> Any:
        """How the text is cut into words, inside which merges happen."""
        made: list[Any] = []
        for step in _steps(self.tree.get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
            behavior = BEHAVIORS.get(_get(step, "behavior", str, "", "pre_tokenizer"))
            if step["type"] == "Split" and behavior:
                invert = _get(step, "invert", bool, False, "pre_tokenizer")
                with library_errors(f"{FILE}: pre_tokenizer"):
                    made.append(pre_tokenizers.Split(self.pattern(step, "pre_tokenizer", regex=True), behavior, invert))
            elif step["type"] == "ByteLevel":
                prefix, words = (_get(step, key, bool, True, "pre_tokenizer") for key in ("add_prefix_space", "use_regex"))
                made.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=words))
            else:
                raise _wrong("pre_tokenizer", step, "Split or ByteLevel")
        return pre_tokenizers.Sequence(made) if made else None

    def pattern(self, step: dict[str, Any], what: str, regex: bool) -> Any:
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and len(pattern) == 1:
            (kind, text), = pattern.items()
            if kind == "String" and isinstance(text, str) and text:
                return text
            if regex and kind == "Regex" and isinstance(text, str) and 0 < len(text) <= REGEX_LIMIT:
                problem = too_slow(text)
                if problem:
                    raise _wrong(f"{what}.pattern", text, f"an expression that is fast on every text; this has {problem}")
                return Regex(text)
        raise _wrong(f"{what}.pattern", pattern, "a text" + (f" or a regular expression of at most {REGEX_LIMIT} letters" if regex else ""))

    def byte_level(self) -> bool:
        """Whether tokens are written in GPT-2's byte alphabet; the decoder and the pre-tokenizer must agree on that."""
        steps = _steps(self.tree.get("decoder"), "decoders", "decoder")
        kinds = [step["type"] for step in steps]
        for step in steps:
            space = step.get("pattern") == {"String": "\u2581"} and step.get("content") == " "
            if step["type"] not in ("ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip") or step["type"] == "Replace" and not space:
                raise _wrong("decoder", step, "ByteLevel, or Replace of U+2581 by a space, ByteFallback, Fuse and Strip")
        encoded = any(step["type"] == "ByteLevel" for step in _steps(self.tree.get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"))
        if ("ByteLevel" in kinds) != encoded:
            raise _wrong("decoder", kinds, f"ByteLevel {'too' if encoded else 'in neither'}, as pre_tokenizer has it")
        return encoded

    def pieces(self, byte_level: bool, byte_fallback: bool, unknown: str | None) -> list[bytes]:
        """The bytes of each token. Refuses a vocabulary that could not write every text."""
        highest = max(max(self.ids.values()), max(self.added, default=0))
        tokens = [""] * (highest + 1)
        for token, i in self.ids.items():
            tokens[i] = token
        if byte_level:
            missing = [letter for letter in ALPHABET if letter not in self.ids]
            if missing:
                raise FileError(f"{FILE}: the vocabulary lacks {len(missing)} of the 256 letters for bytes, {ascii(missing[0])} first; expected all")
            return byte_level_pieces(tokens)
        if unknown is None and not (byte_fallback and all(f"<0x{byte:02X}>" in self.ids for byte in range(256))):
            raise FileError(f"{FILE}: the vocabulary has neither all 256 byte tokens nor an unknown token; expected one of both")
        pieces = [token.replace("\u2581", " ").encode() for token in tokens]
        if byte_fallback:
            for i, token in enumerate(tokens):
                match = BYTE_TOKEN.fullmatch(token) if token.startswith("<0x") else None
                if match:
                    pieces[i] = bytes((int(match[1], 16),))
        return pieces

    def start(self, ids: dict[str, int]) -> int | None:
        """The token that the file's own recipe puts before a text."""
        for step in _steps(self.tree.get("post_processor"), "processors", "post_processor"):
            if step["type"] == "TemplateProcessing":
                recipe = _get(step, "single", list, [], "post_processor")
                first = recipe[0].get("SpecialToken") if recipe and isinstance(recipe[0], dict) else None
                if isinstance(first, dict):
                    name = first.get("id")
                    if not isinstance(name, str) or name not in ids:
                        raise _wrong("post_processor.single", first, "a token of the vocabulary")
                    return ids[name]
        return None


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def _rows(config: dict[str, Any]) -> int | None:
    """Rows of the embedding: no id may reach beyond."""
    for where in _text_config(config), config:
        rows = where.get("vocab_size")
        if rows is not None:
            if type(rows) is not int or rows < 1:
                raise _wrong("vocab_size", rows, "a number from 1 on", "config.json")
            return rows
    return None


def _describe(vocabulary: Vocabulary, ids: dict[str, int], notes: dict[str, Any], model_file: ModelFile) -> None:
    """Beginning and end of text: the union of what tokenizer_config.json, config.json and generation_config.json say."""
    limit = _rows(model_file.config) or len(vocabulary.pieces)
    nested = _text_config(model_file.config)
    for file, keys in ("config.json", model_file.config), ("config.json", nested), ("generation_config.json", model_file.generation_config):
        vocabulary.eos_ids.update(_ids(keys, "eos_token_id", file, limit))
        vocabulary.suppressed.update(_ids(keys, "suppress_tokens", file, limit))
    control = set(vocabulary.spelled.values())
    vocabulary.eos_id = _named(notes, "eos_token", ids)
    ends = [vocabulary.eos_id] + [ids[text] for text in markers.ENDS if text in control]
    if model_file.architecture.startswith("gemma4") and "<|tool_response>" in ids:
        ends.append(ids["<|tool_response>"])        # here the tool answers, not the model
    vocabulary.eos_ids.update(i for i in ends if i is not None)

    starts = [_named(notes, "bos_token", ids), vocabulary.bos_id]
    starts += _ids(nested, "bos_token_id", "config.json", limit) + _ids(model_file.config, "bos_token_id", "config.json", limit)
    vocabulary.bos_id = next((i for i in starts if i is not None), None)
    vocabulary.add_bos = _get(notes, "add_bos_token", bool, vocabulary.add_bos, file="tokenizer_config.json")


def _ids(keys: dict[str, Any], key: str, file: str, limit: int) -> list[int]:
    """A token id, a list of them, or null."""
    value = keys.get(key)
    values = [] if value is None else value if isinstance(value, list) else [value]
    for i in values:
        if type(i) is not int or not (0 <= i < limit or i == -1):
            raise _wrong(key, value, f"token ids below {limit}", file)
    return [i for i in values if i >= 0]


def _named(notes: dict[str, Any], key: str, ids: dict[str, int]) -> int | None:
    """The id of a token given by its text, as {"content": text} or as text."""
    value = notes.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str) or value not in ids:
        raise _wrong(key, value, "a token of the vocabulary", "tokenizer_config.json")
    return ids[value]


def _template(folder: Path, notes: dict[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, else a text, or a list of named ones, in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_whole(path, TEMPLATE_LIMIT).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{path.name}: the file is not UTF-8 (byte {error.start}); expected UTF-8 text") from None
    template = notes.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise _wrong("chat_template", template, "a text", "tokenizer_config.json")
    if template is not None:
        template.encode()       # refuses half a surrogate pair, which JSON can spell
    return template
