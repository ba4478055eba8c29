"""Time to first token in the course of a conversation, on a running graph.

Five questions in a row, each with the `turns` of the answer before; several conversations, one after the other. Each
has a system message of its own, so that its first prompt shares nothing with earlier ones. A prompt begins with the
whole prompt of the turn before: "repeated" is that prompt's share of the tokens, which a prefix cache need not compute
again. The answer to it is repeated too, and not counted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.document import Options
from benchmarks.restart import graph
from evaluation.markdown import table

TITLE = "Conversations"
CONVERSATIONS = 12
QUESTIONS = (
    "How do I delete a document?",
    "Do earlier versions of the index still hold it?",
    "How do I roll back to the previous version?",
    "When is an index version rejected?",
    "What does the status command show about it?",
)
_UNTIL_FIRST_TOKEN = ("condense", "retrieval", "prompt", "first_token")


@dataclass(frozen=True)
class Asked:
    """One question of a conversation."""

    first_token_ms: float
    prompt_tokens: int


def converse(client: httpx.Client, number: int) -> list[Asked]:
    """Ask all questions in one conversation."""
    asked, turns = [], None
    for question in QUESTIONS:
        messages = [
            {"role": "system", "content": f"Conversation {number}."},
            {"role": "user", "content": question},
        ]
        body: dict[str, Any] = {"model": "rag", "messages": messages, "turns": turns}
        body |= {"answers": "write", "refuse": False, "max_tokens": 48, "temperature": 0}
        answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
        replayed = answer["replayed"] or {"turns": 0, "left_out": 0, "incomplete": 0}
        if replayed != {"turns": len(asked), "left_out": 0, "incomplete": 0}:
            raise RuntimeError(f"The conversation is not whole: {replayed}.")
        timings = answer["timings"]
        waited = sum(timings.get(lap, 0.0) for lap in _UNTIL_FIRST_TOKEN)
        asked.append(Asked(waited, answer["usage"]["prompt_tokens"]))
        turns = answer["turns"]
    return asked


def measure(options: Options) -> list[str]:
    """The table: medians over the conversations."""
    with graph() as (_, state), httpx.Client(base_url=state.services["transformer"].url, timeout=120) as client:
        converse(client, 0)  # warms up
        conversations = [converse(client, number) for number in range(1, 1 + (3 if options.quick else CONVERSATIONS))]
    rows = []
    for turn in range(len(QUESTIONS)):
        sizes = [asked[turn].prompt_tokens for asked in conversations]
        repeated = [
            asked[turn - 1].prompt_tokens / asked[turn].prompt_tokens if turn else 0.0 for asked in conversations
        ]
        ratios = [asked[turn].first_token_ms / asked[0].first_token_ms for asked in conversations]
        rows.append(
            {
                "turn": str(turn + 1),
                "prompt tokens": f"{statistics.median(sizes):.0f}",
                "repeated": f"{statistics.median(repeated):.0%}",
                "first token ms": f"{statistics.median(asked[turn].first_token_ms for asked in conversations):.0f}",
                "first token, times turn 1": f"{statistics.median(ratios):.2f}",
            }
        )
    return [table(rows)]
