"""Several texts at once: one pass reads rows of all of them.

A token's bits depend on its own text alone, so each text is the one that it would be alone, whoever comes and goes beside it.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..errors import ArgumentError, OutOfMemory, SkipstoneError
from ..results import FinishReason, Piece, Result
from .length import Sharing
from .options import Options, OptionsDict, integer
from .session import PASS_ROWS, Session
from .stats import Stats
from .writer import CATCH_UP, Writer

if TYPE_CHECKING:
    from ..drafters.chains import Request
    from ..model import Model

WANTS = ("none", "choice", "logits")   # a pass gives all its texts what the most demanding of them wants


class Text:
    """One text of a batch. Made by `Batch.add`. error: what ended it, where its finish_reason is "error"."""

    def __init__(self, batch: Batch, start: Any, ids: np.ndarray, options: Options, session: Session | None) -> None:
        self.error: SkipstoneError | None = None
        self._batch, self._start, self._session = batch, start, session
        self._ids, self._options = ids, options
        self._writer: Writer | None = None   # once it takes part in passes
        self._cancelled = False              # before that
        self._closed = False                 # its last piece went out

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it is written or waits, then as Result's, or "error"."""
        return "error" if self.error else "cancelled" if self._cancelled else self._writer.finished if self._writer else None

    @property
    def tokens(self) -> list[int]:
        """The ids chosen so far."""
        return self._piece(0).tokens

    @property
    def text(self) -> str:
        """What can be released so far."""
        return self._piece(0).text

    def cancel(self) -> None:
        """Ends the text where it is; the others go on. Without effect once it has ended."""
        if self._writer:
            self._writer.cancel()
        else:
            self._cancelled = self.finish_reason is None

    def result(self) -> Result:
        """The text. ArgumentError while it is not finished; where an error ended it, that."""
        if self.error:
            raise self.error
        if self.finish_reason is None:
            raise ArgumentError("result: the text is not finished; iterate over the batch, or run() it, first")
        return Result.of([self._piece(0)])

    def _piece(self, start: int | None = None) -> Piece:
        """As Writer.piece."""
        reason = self.finish_reason
        if self._writer:
            return replace(self._writer.piece(start), finish_reason=reason, stats=self._writer.stats if reason else None)
        none: list[Any] | None = None if self._options.logprobs is None else []
        return Piece("", [], reason, Stats(seed=self._options.seed or 0, threads=self._batch.model.threads) if reason else None, none, none)


class Batch:
    """Writes several texts at once. Made by `model.batch()`.

        batch = model.batch()
        texts = [batch.add(prompt, max_tokens=64) for prompt in prompts]
        for text, piece in batch:            # pass by pass; texts may be added and cancelled on the way
            ...

    limit: texts in one pass. A text that is added takes part from the next pass on, or waits until there is room. Each has its own
    options; with draft_tokens="auto" the drafts go where they are likeliest to be accepted. After an exception from outside
    (KeyboardInterrupt) the batch can be iterated on: nothing is lost and no text changes. An error that concerns one text ends that one.
    A batch belongs to one thread at a time.
    """

    def __init__(self, model: Model, limit: int = 8) -> None:
        self.model, self._limit = model, integer("limit", limit, 1, 1024)
        self._texts: list[Text] = []          # that are not closed, in the order in which they came
        self._out: deque[tuple[Text, Piece]] = deque()
        self._sharing = Sharing(model._shared_costs)

    def __len__(self) -> int:
        """Texts that are not finished."""
        return sum(text.finish_reason is None for text in self._texts)

    def add(self, prompt: str | Iterable[int], session: Session | None = None, **options: Unpack[OptionsDict]) -> Text:
        """A text after `prompt`, with the options of `Model.generate`. Arguments are checked at once.

        session: one that the text is written in, as `Session.generate` does; two texts of one session are written one after the other.
        """
        model = self.model
        if session is not None and (not isinstance(session, Session) or session.model is not model):
            raise ArgumentError("session: found one of another model; expected a session of the batch's model")
        chosen = model._options(options, model.drafter is not None if session is None else session._drafter is not None)
        ids = model._prompt(prompt)
        drafts = chosen.draft_tokens != 0 and model.drafter is not None
        return self._add(ids, chosen, session, lambda: Session(model, draft=drafts, marks=1) if session is None else session)

    def _add(self, ids: np.ndarray, options: Options, session: Session | None, start: Any) -> Text:
        options.constraint(self.model.vocab_size, self.model.tokenizer)   # a grammar that cannot be followed is refused now
        text = Text(self, start, ids, options, session)
        self._texts.append(text)
        return text

    def run(self) -> list[Text]:
        """Writes all texts to their ends, and returns those that ended."""
        return [text for text, piece in self if piece.finish_reason]

    def __iter__(self) -> Iterator[tuple[Text, Piece]]:
        """(text, piece) as they come, until no text is left."""
        while self._out or self._texts:
            while self._out:
                item = self._out[0]
                del self._out[0]   # no call in between: an interrupt loses nothing
                yield item
            self.step()

    def step(self) -> None:
        """One pass over prompts that are not read yet, and one over the texts that are written; what comes out waits for the iterator."""
        self._admit()
        self._read([t for t in self._active() if t._writer and t._writer.reading])
        self._write([t for t in self._active() if t._writer and not t._writer.reading])
        for text in self._texts:
            self._give(text)
        self._texts = [text for text in self._texts if not text._closed]

    def _active(self) -> list[Text]:
        return [text for text in self._texts if text._writer and text.finish_reason is None]

    def _admit(self) -> None:
        for text in self._texts:
            active = self._active()
            if len(active) == self._limit:
                return
            if text._writer or text.finish_reason or (text._session is not None and any(text._session is other._session for other in active)):
                continue
            try:
                session = text._start()
                text._writer = session._write(text._ids, text._options, self.model._shared_length(text._options, session._drafter is not None))
            except SkipstoneError as error:
                text.error = error

    def _give(self, text: Text) -> None:
        """What came of the text goes out."""
        reason = text.finish_reason
        if text._closed or not (reason or (text._writer and text._writer.news)):
            return
        piece = text._piece()
        given = len(piece.tokens)
        # No call among these lines, so that no interrupt comes between them.
        self._out += [(text, piece)]
        text._closed = reason is not None
        if text._writer:
            text._writer.given += given

    def _read(self, texts: list[Text]) -> None:
        """A pass over up to 512 of the prompts' tokens, the texts that came first first."""
        left, before = PASS_ROWS, time.perf_counter()
        parts = []
        for text in texts:
            if left > 0 and text._writer:
                parts.append((text, text._writer.prepare(0, left)))
                left -= len(parts[-1][1])
        for writer, _ in self._pass(parts, "last"):
            writer.stats.prompt_seconds += time.perf_counter() - before

    def _write(self, texts: list[Text]) -> None:
        """A pass over the texts' newest tokens and their drafts."""
        writers = [t._writer for t in texts if t._writer]
        if not writers:
            return
        contexts = [w.session.length for w in writers]
        self._sharing.give(contexts, [w.length for w in writers], [w.most_drafts for w in writers])
        started = time.perf_counter()
        behind = [w.session._drafter.behind(c) if w.session._drafter else 0 for w, c in zip(writers, contexts)]
        requests = {id(w): w.request(w.length.next(c, w.most_drafts)) for w, c in zip(writers, contexts)}
        drafts = self._draft([w for w in writers if requests[id(w)]], requests)
        parts = [(text, w.rows(drafts.get(id(w), []))) for text, w in zip(texts, writers)]
        between = time.perf_counter()
        done = self._pass(parts, "all")
        after = time.perf_counter()
        usual = all(rows <= CATCH_UP for rows, w in zip(behind, writers) if requests[id(w)])
        if done:
            self._sharing.record(max(contexts), sum(rows for _, rows in done), after - between, max(map(len, drafts.values()), default=0),
                                 between - started if usual else None)
        at = {id(w): context for w, context in zip(writers, contexts)}
        for writer, _ in done:
            writer.count(at[id(writer)], after - between, between - started, usual)
            writer.stats.decode_seconds += after - started

    def _draft(self, writers: list[Writer], requests: Mapping[int, Request | None]) -> dict[int, list[int]]:
        """Drafts for these writers, by id: chains of all of them together."""
        if not writers or self.model.drafter is None:
            return {}
        try:
            for writer in writers:
                writer.session._inform()
            drafted = self.model.drafter.draft_several([request for w in writers if (request := requests[id(w)])])
        except SkipstoneError:
            return {}   # no text depends on its drafts; whose error it was, it shows in the pass
        return {id(w): drafts for w, drafts in zip(writers, drafted)}

    def _pass(self, parts: list[tuple[Text, np.ndarray]], rows: str) -> list[tuple[Writer, int]]:
        """Runs a pass over the parts and hands out what comes of it; the writers that took part, with their numbers of rows."""
        if not parts:
            return []
        writers = {id(text): text._writer for text, _ in parts if text._writer}
        want = max((w.wants for w in writers.values()), key=WANTS.index)
        try:
            for writer in writers.values():
                writer.session._settle()
            result, hidden = self.model.program.run([(text._writer.session._sequence, tokens) for text, tokens in parts],   # type: ignore[union-attr]
                                                     want=want, rows=rows, threads=self.model.threads,
                                                     **(parts[0][0]._writer.session._least if rows == "last" and len(parts) == 1 else {}))   # type: ignore[union-attr]
        except OutOfMemory as error:
            if len(parts) == 1:
                parts[0][0].error = error
                return []
            return [done for part in parts for done in self._pass([part], rows)]   # whoever has no room ends, the others go on
        done, at = [], 0
        for place, (text, tokens) in enumerate(parts):
            writer = writers[id(text)]
            own = None if result is None else result[place:place + 1] if rows == "last" else result[at:at + len(tokens)]
            try:
                writer.accept(tokens, own, hidden[at:at + len(tokens)])   # of one part maybe the last row alone
                done.append((writer, len(tokens)))
            except SkipstoneError as error:
                text.error = error
            at += len(tokens)
        return done


def generate_several(model: Model, prompts: list[Any], n: int | None, options: Mapping[str, Any], nested: bool) -> Any:
    """What Model.generate returns for a list of prompts or n texts of each."""
    n = None if n is None else integer("n", n, 1, 4096)
    chosen = model._options(options, model.drafter is not None)
    ids = [model._prompt(prompt) for prompt in prompts]
    batch = Batch(model)
    texts: list[list[Text]] = []
    for prompt in ids:
        shared = Shared(model, prompt, n or 1, draft=chosen.draft_tokens != 0)
        texts.append([batch._add(prompt, chosen.with_seed(i), None, shared.take) for i in range(n or 1)])
    batch.run()
    results = [[text.result() for text in of_prompt] for of_prompt in texts]
    if n is None:
        return [one for one, in results]
    return results if nested else results[0]


class Shared:
    """Sessions of one prompt for several texts: it is read once, and each gets a fork."""

    def __init__(self, model: Model, ids: np.ndarray, texts: int, draft: bool) -> None:
        self._model, self._ids, self._texts, self._draft = model, ids, texts, draft and model.drafter is not None
        self._session: Session | None = None

    def take(self) -> Session:
        if self._texts == 1 or len(self._ids) == 1:
            return Session(self._model, draft=self._draft, marks=1)
        if self._session is None:
            session = Session(self._model, draft=self._draft, marks=1)
            session._read(self._ids[:-1])
            self._session = session
        return self._session.fork()
