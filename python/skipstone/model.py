"""A loaded model: what generates, streams and makes sessions."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from .decode.batch import Batch, generate_several
from .decode.length import Acceptance, AutoLength, Costs, FixedLength, Length, SharedLength
from .decode.loop import pieces
from .decode.options import Options, OptionsDict
from .decode.session import Session, token_ids
from .errors import ArgumentError
from .results import ChatPiece, ChatPrompt, ChatResult, LoadStats, Piece, Result

if TYPE_CHECKING:
    from .drafters.base import Drafter
    from .placement.plan import Plan
    from .text.tokenizer import Tokenizer


class Model:
    """Made by `skipstone.load`. Texts of one model may be generated from several threads; a session belongs to one at a time.

    name: the file's or folder's. architecture: as the file names it. vocab_size: rows of the output head, the width of logits;
    hidden_width: of hidden states. context_length: most tokens of a text. config: the model's configuration as read from the
    file. tokenizer: encode(text, special=False) and decode(ids); None where the file has none. drafter: None where it has none.
    bytes: of weights that a pass reads. load_stats: what loading took. sampling: options that the model's files suggest, to be
    given as **model.sampling. plan: where the parts of the model are, None on the processor alone.
    """

    def __init__(self, *, path: Path, architecture: str, config: dict[str, Any], program: Any, bytes: int, context_length: int,
                 tokenizer: Tokenizer | None, drafter: Drafter | None, device: str, threads: int, kv_type: str,
                 load_stats: LoadStats | None = None, sampling: dict[str, Any] | None = None,
                 identify: Callable[[], str] | None = None, hidden_width: int | None = None, plan: Plan | None = None) -> None:
        self.path, self.name, self.architecture, self.config = path, path.stem if path.is_file() else path.name, architecture, config
        self.program, self.bytes = program, bytes
        self.vocab_size, self.hidden_width, self.context_length = int(program.vocabulary), hidden_width or int(program.hidden_width), context_length
        self.tokenizer, self.drafter = tokenizer, drafter
        self.device, self.threads, self.kv_type, self.load_stats = device, threads, kv_type, load_stats
        self.sampling = sampling or {}
        self.plan = plan
        self._identify = identify or (lambda: f"{self.architecture} {self.path}")
        at_once = drafter.at_once if drafter else None
        self._costs, self._shared_costs = Costs(at_once), Costs(at_once)   # of passes over one text, and over several
        self._acceptance = Acceptance(memory=0.995)

    def __repr__(self) -> str:
        drafter = self.drafter.name if self.drafter else "none"
        return f"<skipstone.Model {self.name}: {self.architecture}, {self.device}, {self.threads} threads, drafter {drafter}>"

    @cached_property
    def identity(self) -> str:
        """A hash of what the file says of the model, of its tensors' table and of samples of their data; sessions in files are bound to it."""
        return self._identify()

    def session(self, draft: bool = True) -> Session:
        """A new, empty session. draft=False: it will not draft, and spends nothing on being able to."""
        return Session(self, draft=draft)

    def load_session(self, path: str | os.PathLike[str]) -> Session:
        """The session that `Session.save` wrote to this file. FileError where it is damaged or belongs to another model or kv_type."""
        session = self.session()
        session.load(path)
        return session

    def batch(self, limit: int = 8) -> Batch:
        """A scheduler that writes several texts at once, `limit` of them in each pass; the others wait for their turn."""
        return Batch(self, limit)

    @overload
    def generate(self, prompt: str | Iterable[int], *, n: None = None, **options: Unpack[OptionsDict]) -> Result: ...
    @overload
    def generate(self, prompt: str | Iterable[int], *, n: int, **options: Unpack[OptionsDict]) -> list[Result]: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], *, n: None = None, **options: Unpack[OptionsDict]) -> list[Result]: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], *, n: int, **options: Unpack[OptionsDict]) -> list[list[Result]]: ...
    def generate(self, prompt: Any, *, n: int | None = None, **options: Unpack[OptionsDict]) -> Any:
        """The text after `prompt`: text, in which special tokens are recognised, or token ids, used as they are.

        Options, all by name, with their defaults: max_tokens=256, temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=1,
        presence_penalty=0, frequency_penalty=0, logit_bias=None, seed=None, stop=None, stop_at_eos=True, draft_tokens="auto",
        logprobs=None, json_schema=None, regex=None, grammar=None; `skipstone.decode.options.Options` says what they mean. The same
        seed gives the same text, whatever draft_tokens is.

        A list of prompts gives a list of results, written at once; each is what its prompt alone would give.
        n: so many texts of each prompt, as a list; the prompt is read once, and text i is that of `seed` + i (modulo 2^64) alone.
        ArgumentError names an option that is unknown or out of range, and a prompt that is empty or fills the context.
        """
        if n is None and not _several(prompt):
            return Result.of(self.stream(prompt, **options))
        return generate_several(self, list(prompt) if _several(prompt) else [prompt], n, options, nested=_several(prompt))

    def stream(self, prompt: str | Iterable[int], **options: Unpack[OptionsDict]) -> Iterator[Piece]:
        """As generate of one prompt, in pieces as they come; the last has finish_reason and stats. Arguments are checked at once."""
        chosen = self._options(options, self.drafter is not None)
        ids = self._prompt(prompt)
        drafts = self.drafter is not None and chosen.draft_tokens != 0
        return pieces(Session(self, draft=drafts, marks=1)._write(ids, chosen, self._length(chosen, drafts)))

    def _options(self, options: Mapping[str, Any], drafter: bool) -> Options:
        """The options, checked, also against what this model has."""
        chosen = Options.of(options, self.vocab_size)
        if chosen.stop and self.tokenizer is None:
            raise ArgumentError(f"stop: {self.name} has no tokenizer to find strings with; expected none")
        if chosen.draft_tokens not in ("auto", 0) and not drafter:
            raise ArgumentError(f"draft_tokens: {chosen.draft_tokens}, but {self.name} was loaded without a drafter; expected 0 or 'auto', "
                                "or load it with draft=..." if self.drafter is None else
                                f"draft_tokens: {chosen.draft_tokens}, but the session was made with draft=False; expected 0 or 'auto'")
        return chosen

    def _length(self, options: Options, drafter: bool) -> Length:
        drafts = options.draft_tokens if drafter else 0
        return AutoLength(self._costs, self._acceptance) if drafts == "auto" else FixedLength(drafts)

    def _shared_length(self, options: Options, drafter: bool) -> Length:
        """The same for a text of a batch."""
        drafts = options.draft_tokens if drafter else 0
        return SharedLength(self._acceptance) if drafts == "auto" else FixedLength(drafts)

    def chat(self, messages: str | Sequence[Mapping[str, Any] | ChatResult], tools: Iterable[Mapping[str, Any]] | None = None,
             enable_thinking: bool | None = None, *, template_variables: Mapping[str, Any] | None = None, chat_template: str | None = None,
             session: Session | None = None, **options: Unpack[OptionsDict]) -> ChatResult:
        """The answer to a conversation, by the chat template of the model's file.

        messages            dicts with role ("system", "user", "assistant", "tool") and content (a text, or a list of
                            {"type": "text", "text": ...}); an answer's `message`, or the answer itself, may stand among them.
                            A text alone is one user message. What a message says never becomes a special token.
        tools               functions the model may call: {"name", "description", "parameters": a JSON schema}, also inside
                            {"type": "function", "function": ...}
        enable_thinking     whether the model reasons first, where its template knows that; None: as the template has it
        template_variables  other variables of the template, such as {"preserve_thinking": True}
        chat_template       another template (Jinja, as transformers reads it) in place of the file's
        session             one of this model's that is kept between calls: what a prompt has in common with the one before it
                            is not read again. The answer is the same with and without
        options             as for generate; max_tokens is 2048 if not given

        The result has text, reasoning, tool_calls and message. Templates run apart, with half a second and 64 MiB. ArgumentError
        for what is wrong with the messages, and where the template refuses them; FileError for what is wrong with the template.
        """
        return ChatResult.of(self.chat_stream(messages, tools, enable_thinking, template_variables=template_variables, chat_template=chat_template,
                                              session=session, **options))

    def chat_stream(self, messages: str | Sequence[Mapping[str, Any] | ChatResult], tools: Iterable[Mapping[str, Any]] | None = None,
                    enable_thinking: bool | None = None, *, template_variables: Mapping[str, Any] | None = None, chat_template: str | None = None,
                    session: Session | None = None, **options: Unpack[OptionsDict]) -> Iterator[ChatPiece]:
        """As chat, in pieces as they come; the last piece has finish_reason and stats. Arguments are checked at once."""
        from .chat.conversation import chat_pieces

        return chat_pieces(self, messages, tools, enable_thinking, template_variables=template_variables, chat_template=chat_template,
                           session=session, **options)

    def chat_prompt(self, messages: str | Sequence[Mapping[str, Any] | ChatResult], tools: Iterable[Mapping[str, Any]] | None = None,
                    enable_thinking: bool | None = None, *, template_variables: Mapping[str, Any] | None = None,
                    chat_template: str | None = None) -> ChatPrompt:
        """What chat lets the model read: `.text`, rendered up to where the answer begins, and `.ids`, its tokens, for generate and
        sessions. Arguments and errors as for chat."""
        from .chat.conversation import chat_prompt

        return chat_prompt(self, messages, tools, enable_thinking, template_variables, chat_template)

    def _prompt(self, prompt: str | Iterable[int]) -> np.ndarray:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ArgumentError(f"prompt: text, but {self.name} has no tokenizer; expected token ids")
            prompt = self.tokenizer.encode_prompt(prompt)
        ids = token_ids("prompt", prompt, self.vocab_size)
        if not len(ids):
            raise ArgumentError("prompt: empty; expected at least one token")
        if len(ids) >= self.context_length:
            raise ArgumentError(f"prompt: {len(ids)} tokens; expected fewer than the context of {self.context_length}")
        return ids


def _several(prompt: Any) -> bool:
    """Whether this is a list of prompts."""
    return isinstance(prompt, list | tuple) and bool(prompt) and (isinstance(prompt[0], str | list | tuple) or getattr(prompt[0], "ndim", 0) == 1)
