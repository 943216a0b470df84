"""The decode loop of one text: draft, verify in one pass, accept, commit. Writer says what the steps are."""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..results import Piece
from .length import Length
from .options import Options
from .session import Session
from .writer import CATCH_UP, Writer


def decode(session: Session, prompt: np.ndarray, options: Options, tokenizer: Any, length: Length) -> Iterator[Piece]:
    """The text after the session's text and `prompt` (int32, not empty), in pieces; the last has the reason why it ended and the stats.

    Between pieces, and when the iterator is closed, the session holds what was read: all but the newest token. The prompt must
    leave room in the context.
    """
    return pieces(Writer(session, prompt, options, tokenizer, length, options.constraint(session.model.vocab_size, tokenizer)))


def pieces(writer: Writer) -> Iterator[Piece]:
    """The writer's text, alone, pass by pass."""
    while not writer.finished:
        _read(writer) if writer.reading else _write(writer)
        if writer.news and not writer.finished:
            piece = writer.piece()
            writer.given += len(piece.tokens)
            yield piece
    yield writer.piece()


def _read(writer: Writer) -> None:
    """A pass over some of the prompt."""
    before = time.perf_counter()
    rows = writer.prepare(0)
    writer.accept(rows, *writer.session._run(rows, writer.wants, "last"))
    writer.stats.prompt_seconds += time.perf_counter() - before


def _write(writer: Writer) -> None:
    """A pass over the newest token and drafts after it."""
    session = writer.session
    context, before = session.length, time.perf_counter()
    drafts = writer.length.next(context, writer.most_drafts)
    behind = session._drafter.behind(context) if drafts and session._drafter else 0
    rows = writer.prepare(drafts)
    between = time.perf_counter()
    writer.accept(rows, *session._run(rows, writer.wants, "all"))
    writer.count(context, time.perf_counter() - between, between - before, usual=behind <= CATCH_UP)
    writer.stats.decode_seconds += time.perf_counter() - before
