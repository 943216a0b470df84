"""A loaded model: what generates, streams and makes sessions."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .decode.length import Acceptance, AutoLength, Costs, FixedLength
from .decode.loop import decode
from .decode.options import Options, OptionsDict
from .decode.session import Session, token_ids
from .errors import ArgumentError
from .results import LoadStats, Piece, Result

if TYPE_CHECKING:
    from .drafters.base import Drafter
    from .text.tokenizer import Tokenizer


class Model:
    """Made by `skipstone.load`. Texts of one model may be generated from several threads; a session belongs to one at a time.

    name: the file's or folder's. architecture: as the file names it. vocab_size: rows of the output head, the width of logits;
    hidden_width: of hidden states. context_length: most tokens of a text. config: the model's configuration as read from the
    file. tokenizer: encode(text, special=False) and decode(ids); None where the file has none. drafter: None where it has none.
    bytes: of weights that a pass reads. load_stats: what loading took.
    """

    def __init__(self, *, path: Path, architecture: str, config: dict[str, Any], program: Any, bytes: int, context_length: int,
                 tokenizer: Tokenizer | None, drafter: Drafter | None, device: str, threads: int, kv_type: str,
                 load_stats: LoadStats | None = None) -> None:
        self.path, self.name, self.architecture, self.config = path, path.stem if path.is_file() else path.name, architecture, config
        self.program, self.bytes = program, bytes
        self.vocab_size, self.hidden_width, self.context_length = int(program.vocabulary), int(program.hidden_width), context_length
        self.tokenizer, self.drafter = tokenizer, drafter
        self.device, self.threads, self.kv_type, self.load_stats = device, threads, kv_type, load_stats
        self._costs = Costs()
        self._acceptance = Acceptance(memory=0.995)

    def __repr__(self) -> str:
        drafter = self.drafter.name if self.drafter else "none"
        return f"<skipstone.Model {self.name}: {self.architecture}, {self.device}, {self.threads} threads, drafter {drafter}>"

    def session(self, draft: bool = True) -> Session:
        """A new, empty session. draft=False: it will not draft, and spends nothing on being able to."""
        return Session(self, draft=draft)

    def generate(self, prompt: str | Iterable[int], **options: Unpack[OptionsDict]) -> Result:
        """The text after `prompt`: text, in which special tokens are recognised, or token ids, used as they are.

        Options, all by name, with their defaults: max_tokens=256, temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=1,
        presence_penalty=0, frequency_penalty=0, logit_bias=None, seed=None, stop=None, stop_at_eos=True, draft_tokens="auto";
        `skipstone.decode.options.Options` says what they mean. The same seed gives the same text, whatever draft_tokens is.
        ArgumentError names an option that is unknown or out of range, and a prompt that is empty or fills the context.
        """
        pieces = list(self.stream(prompt, **options))
        last = pieces[-1]
        assert last.finish_reason is not None and last.stats is not None
        return Result("".join(p.text for p in pieces), [t for p in pieces for t in p.tokens], last.finish_reason, last.stats)

    def stream(self, prompt: str | Iterable[int], **options: Unpack[OptionsDict]) -> Iterator[Piece]:
        """As generate, in pieces as they come; the last piece has finish_reason and stats. Arguments are checked at once."""
        chosen = Options.of(options, self.vocab_size)
        ids = self._prompt(prompt)
        if chosen.stop and self.tokenizer is None:
            raise ArgumentError(f"stop: {self.name} has no tokenizer to find strings with; expected none")
        if chosen.draft_tokens not in ("auto", 0) and self.drafter is None:
            raise ArgumentError(f"draft_tokens: {chosen.draft_tokens}, but {self.name} was loaded without a drafter; expected 0 or 'auto', "
                                "or load it with draft=...")
        drafts = chosen.draft_tokens if self.drafter else 0
        length = AutoLength(self._costs, self._acceptance) if drafts == "auto" else FixedLength(drafts)
        return decode(self.session(draft=drafts != 0), ids, chosen, self.tokenizer, length)

    def _prompt(self, prompt: str | Iterable[int]) -> np.ndarray:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ArgumentError(f"prompt: text, but {self.name} has no tokenizer; expected token ids")
            prompt = self.tokenizer.encode(prompt, special=True)
        ids = token_ids("prompt", prompt, self.vocab_size)
        if not len(ids):
            raise ArgumentError("prompt: empty; expected at least one token")
        if len(ids) >= self.context_length:
            raise ArgumentError(f"prompt: {len(ids)} tokens; expected fewer than the context of {self.context_length}")
        return ids
