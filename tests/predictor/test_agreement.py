"""The CPU engine's greedy output compared with llama.cpp's, on the same weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chassis.context import CallContext
from predictor.client import PredictorClient, PromptFormat
from predictor.tokenizer import TextTokenizer
from predictor.wire import GenerationRequest
from tests.fakes.llama_cpp import LlamaCpp

PASSAGE = (
    "The Norman dynasty had a major political, cultural and military impact on medieval Europe. In 1066 William, "
    "Duke of Normandy, conquered England at the battle of Hastings."
)
QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "What is 2 plus 2?",
    "Why is the sky blue?",
    f"Use this passage.\n{PASSAGE}\nQuestion: When was the battle of Hastings?",
    f"Use this passage.\n{PASSAGE}\nQuestion: Who conquered England?",
)
POSITIONS = 16

AGREEMENT = 0.9
"""Least share of positions at which both choose the same next token after the same text (llama.cpp's own answer).

Measured for SmolLM2-135M: 0.96 for its Q8_0 weights, whatever precision OpenVINO computes in (full: 0.95); 0.76 for its
Q4_1 weights, which OpenVINO GenAI reads wrongly. Engines differ in how they round activations, and a model this small
often has two continuations of nearly equal probability.
"""


async def test_both_choose_the_same_next_token(
    client: PredictorClient, prompts: PromptFormat, llm_folder: Path, llama_cpp: LlamaCpp
) -> None:
    tokenizer = TextTokenizer.load(llm_folder)
    same = asked = 0
    for question in QUESTIONS:
        prompt = prompts.render([{"role": "user", "content": question}])
        answer = await asyncio.to_thread(llama_cpp.greedy, prompt, POSITIONS)
        for n, expected in enumerate(answer):
            request = GenerationRequest(prompt + tokenizer.decode(answer[:n]), max_tokens=1, temperature=0)
            chosen = await client.generate(request, CallContext.start(60))
            same += chosen.text == tokenizer.decode([expected])
            asked += 1
    assert asked > 60
    assert same / asked >= AGREEMENT, f"{same} of {asked}"
