"""A deterministic LLM for stand-ins of servers. It knows one answer, tells stories, and repeats emoji."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONTEXT_TOKENS = 1024
_WORDS = ("upon", "time", "fox", "lived", "near", "old", "mill", "dreamed", "sea", "every", "night", "and", "the", "a")


@dataclass(frozen=True)
class Reply:
    pieces: list[str]
    """The text of each token; the last is cut at a stop string."""
    reason: Literal["stop", "length"]
    prompt_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def count(text: str) -> int:
    """Number of tokens: words, with the spaces before them."""
    return len(re.findall(r"\s*\S+", text))


def reply(
    prompt: str, *, max_tokens: int, temperature: float = 1.0, seed: int | None = None, stop: Sequence[str] = ()
) -> Reply:
    """An answer. Sampled ones depend on the seed, if there is one."""
    if "France" in prompt:
        text = "The capital of France is the city of Paris."
    elif "emoji" in prompt:
        text = "🙂🦊 🙃🦉"
    else:
        words = random.Random(f"{seed if temperature else 0} {prompt}")  # noqa: S311
        text = " ".join(words.choice(_WORDS) for _ in range(max_tokens + 1))
    tokens = re.findall(r"\s*\S+", text)
    reason: Literal["stop", "length"] = "length" if len(tokens) > max_tokens else "stop"
    text = "".join(tokens[:max_tokens])
    cuts = [at for each in stop if (at := text.find(each)) >= 0]
    if cuts:
        text, reason = text[: min(cuts)], "stop"
    return Reply(re.findall(r"\s*\S+|\s+$", text), reason, count(prompt))
