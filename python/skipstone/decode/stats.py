"""The figures of one generation."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache


@cache
def read_bandwidth(threads: int) -> float:
    """What a plain read loop of `threads` threads gets out of this machine's memory, in bytes a second; measured once a process."""
    from .. import _native

    return float(_native.read_bandwidth(threads)) * 1e9


@dataclass
class Stats:
    """Figures of one generation. Times are seconds in which Skipstone worked; what the caller does between pieces is not in them.

    The prompt's passes choose the first token, every later pass (`passes`) one token more than the drafts that it accepts.
    """

    prompt_tokens: int = 0               # of the prompt that were read
    reused_tokens: int = 0               # of the prompt that the session held already
    prompt_seconds: float = 0.0
    tokens: int = 0                      # generated, the first included
    passes: int = 0                      # of the model, after the prompt
    decode_seconds: float = 0.0          # from the first token to the last, drafting included
    draft_seconds: float = 0.0           # the drafter's part of it
    drafted: list[int] = field(default_factory=list)    # by draft position: how often a token was drafted there
    accepted: list[int] = field(default_factory=list)   # and how often it was accepted
    forced: int = 0                      # tokens that a grammar left no choice about and that were read along
    bytes_read: int = 0                  # of weights, by the decode passes and the drafts
    threads: int = 1
    seed: int = 0                        # that the noise was drawn with; chosen at random where none was given

    @property
    def prompt_tokens_per_second(self) -> float:
        """Tokens of the prompt read a second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding: the first token belongs to the prompt."""
        return max(0, self.tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0

    decode_tokens_per_second = tokens_per_second

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written by a pass on the average; the first token belongs to the prompt."""
        return max(0, self.tokens - 1) / self.passes if self.passes else 0.0

    @property
    def acceptance(self) -> list[float]:
        """By draft position: accepted / drafted. A draft is accepted only if all before it were."""
        return [a / d if d else 0.0 for a, d in zip(self.accepted, self.drafted)]

    @property
    def acceptance_rate(self) -> float:
        """Accepted drafts of all drafts."""
        return sum(self.accepted) / sum(self.drafted) if sum(self.drafted) else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes of weights read a second while decoding."""
        return self.bytes_read / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def bandwidth_share(self) -> float:
        """`bandwidth` as a share of what a plain read loop of as many threads gets here. Weights that fit the caches can exceed 1."""
        return self.bandwidth / read_bandwidth(self.threads) if self.bandwidth else 0.0

    def record(self, drafted: int, accepted: int) -> None:
        """Counts one pass that verified `drafted` drafts, of which the first `accepted` were right."""
        self.passes += 1
        for counts, n in ((self.drafted, drafted), (self.accepted, accepted)):
            counts.extend([0] * (drafted - len(counts)))
            for position in range(n):
                counts[position] += 1

    def __str__(self) -> str:
        said = (f"{self.tokens} tokens, {self.tokens_per_second:.1f} tokens/s in {self.passes} passes "
                f"({self.tokens_per_pass:.2f} a pass); prompt {self.prompt_tokens} tokens, {self.prompt_tokens_per_second:.0f} tokens/s")
        if self.drafted:
            said += "; accepted by position " + " ".join(f"{rate:.2f}" for rate in self.acceptance)
        return said
