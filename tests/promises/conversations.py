"""Conversations that are written in sessions: extended, edited, forked, saved and loaded, alone and several at a time with some
cancelled. Every text must be the one that a fresh run of its whole prompt gives, without drafts.

As a program, at full size:  python tests/promises/conversations.py --conversations 100 --turns 8
"""
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import skipstone
from skipstone.decode.session import Session

SAYINGS = ["class Node:\n    def __init__(self, value):\n", "# Now the same with a loop.\n", "import os\nimport sys\n\n", "    def insert(self, key):\n",
           "    if value is None:\n        return\n", "\n\ndef main(argv):\n    parser = ", "    # TODO: errors\n", "for line in lines:\n    ", "\n\n\nx = [1, 2, 3]\n"]


class Fresh:
    """What single runs give: read at once, without drafts; remembered by prompt and options."""

    def __init__(self, model: skipstone.Model) -> None:
        self.model = model
        self.known: dict[Any, list[int]] = {}

    def __call__(self, ids: list[int], options: dict[str, Any]) -> list[int]:
        key = (tuple(ids), tuple(sorted(options.items())))
        if key not in self.known:
            self.known[key] = self.model.generate(ids, draft_tokens=0, **options).tokens
        return self.known[key]


@dataclass
class Conversation:
    """session holds what was read; ids: the text so far; before: the text before the last thing said."""

    session: Session
    ids: list[int]
    before: list[int]
    random: np.random.Generator

    def say(self, tokenizer: Any) -> list[int]:
        """The next prompt: the text and something new, now and then something else in place of the last, or longer."""
        if self.random.random() < 0.3:
            self.ids = self.before
        self.before = list(self.ids)
        sayings = [SAYINGS[i] for i in self.random.integers(0, len(SAYINGS), self.random.integers(1, 12))]
        return self.ids + tokenizer.encode("".join(sayings))

    def options(self, drafts: bool) -> dict[str, Any]:
        way = [dict(temperature=0.0), dict(temperature=0.8, top_p=0.95), dict(temperature=1.2, repeat_penalty=1.1)][self.random.integers(0, 3)]
        return dict(max_tokens=int(self.random.integers(1, 24)), seed=int(self.random.integers(0, 1000)), stop_at_eos=False, **way)

    def moved(self, folder: Path) -> None:
        """Now and then the session is a fork of itself, or comes back from a file."""
        chance = self.random.random()
        if chance < 0.2:
            original, self.session = self.session, self.session.fork()
            original.rollback(original.length // 2)            # what the original does is nothing to the fork
            original.forward([5, 6, 7], logits=None)
        elif chance < 0.4:
            self.session.save(folder / "conversation")
            self.session = self.session.model.load_session(folder / "conversation")


def started(model: skipstone.Model, seed: int) -> Conversation:
    random = np.random.default_rng(seed)
    ids = model.tokenizer.encode(SAYINGS[0], special=True)
    return Conversation(model.session(), ids, ids, random)


def drafts_of(conversation: Conversation, drafts: bool) -> Any:
    return [1, 4, 8, "auto"][conversation.random.integers(0, 4)] if drafts else 0


def alone(model: skipstone.Model, fresh: Fresh, seed: int, turns: int, drafts: bool, folder: Path) -> tuple[int, int, int]:
    """Texts compared, tokens of prompts read, tokens reused."""
    talk = started(model, seed)
    read = reused = 0
    for _ in range(turns):
        prompt, options = talk.say(model.tokenizer), talk.options(drafts)
        talk.moved(folder)
        result = talk.session.generate(prompt, draft_tokens=drafts_of(talk, drafts), **options)
        assert result.tokens == fresh(prompt, options), (seed, len(prompt), options)
        read, reused = read + result.stats.prompt_tokens, reused + result.stats.reused_tokens
        talk.ids = prompt + result.tokens
    return turns, read, reused


def together(model: skipstone.Model, fresh: Fresh, seeds: list[int], turns: int, drafts: bool, folder: Path) -> tuple[int, int, int]:
    """Texts of all of them in one batch, how many of them were cancelled on the way, tokens reused."""
    talks = [started(model, seed) for seed in seeds]
    random = np.random.default_rng(seeds[0])
    compared = cancelled = reused = 0
    batch = model.batch(limit=int(random.integers(2, 9)))
    left = {i: turns for i in range(len(talks))}
    running: dict[Any, tuple[int, list[int], dict[str, Any]]] = {}

    def begin(i: int) -> None:
        prompt, options = talks[i].say(model.tokenizer), talks[i].options(drafts)
        talks[i].moved(folder)
        text = batch.add(prompt, session=talks[i].session, draft_tokens=drafts_of(talks[i], drafts), **options)
        running[text] = (i, prompt, options)
        left[i] -= 1

    for i in left:
        begin(i)
    while len(batch):
        for text, piece in batch:
            i, prompt, options = running[text]
            if piece.finish_reason is None:
                if random.random() < 0.05:
                    text.cancel()
                continue
            expected = fresh(prompt, options)
            if piece.finish_reason == "cancelled":
                cancelled += 1
                assert text.tokens == expected[:len(text.tokens)] == text.result().tokens
            else:
                assert text.tokens == expected == text.result().tokens, (i, options)
            compared, reused = compared + 1, reused + text.result().stats.reused_tokens
            talks[i].ids = prompt + text.tokens
            if left[i]:
                begin(i)
    return compared, cancelled, reused


def main() -> int:
    from skipstone import bundled

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    for path in (bundled.QWEN35, bundled.GEMMA4):
        model = skipstone.load(path, threads=asked.threads)
        for drafts in (False, True):
            begun, fresh = time.perf_counter(), Fresh(model)
            with tempfile.TemporaryDirectory() as folder:
                sums = np.zeros(3, int)
                for seed in range(asked.seed, asked.seed + asked.conversations):
                    sums += alone(model, fresh, seed, asked.turns, drafts, Path(folder))
                print(f"{path.stem}, drafts {'on' if drafts else 'off'}, alone: {sums[0]} texts equal; prompts: {sums[1]} tokens read, {sums[2]} reused", flush=True)
                sums = np.zeros(3, int)
                for seed in range(asked.seed, asked.seed + asked.conversations, 8):
                    seeds = list(range(seed, min(seed + 8, asked.seed + asked.conversations)))
                    sums += together(model, fresh, seeds, asked.turns, drafts, Path(folder))
                print(f"{path.stem}, drafts {'on' if drafts else 'off'}, up to 8 at a time: {sums[0]} texts equal, {sums[1]} of them cancelled on the way, {sums[2]} tokens reused; "
                      f"{time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
