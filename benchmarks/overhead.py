"""The transformer's overhead on the time to first token, and the time of retrieval, on a running graph.

Per question, sequentially and with a warm prefix cache: time to first token through the transformer, time of the same
search on the vectorstore, time to first token of the same prompt on the predictor. Overhead: the first minus the
others.
"""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import numpy as np
from rich.progress import track

from benchmarks.document import Options
from benchmarks.processes import graph, llm_folder
from chassis.context import CallContext
from evaluation.markdown import table
from kserve_rag.local.graph import GraphState
from predictor.client import PredictorClient, PromptFormat
from predictor.wire import GenerationRequest
from transformer.prompt import PromptBuilder
from transformer.settings import TransformerSettings
from transformer.templates import PromptTemplate
from vectorstore.client import VectorstoreClient
from vectorstore.wire import SearchInstance

TITLE = "Overhead and retrieval"
QUESTIONS = (
    "What is an index version?",
    "How is a deadline passed on between services?",
    "What does the transformer do when no passage supports an answer?",
    "Which headers are forwarded to the upstreams?",
    "How are passages ordered in the prompt?",
    "Why does OpenVINO run the embedder?",
    "What happens when a client leaves?",
    "Which document formats can be ingested?",
    "Where does a wire schema belong?",
    "How do I start the graph with my own documents?",
)
ROUNDS = 10
NUM_DOCS = 2
MAX_TOKENS = 4


def measure(options: Options) -> list[str]:
    """The table."""
    return asyncio.run(_measure(graph(), 1 if options.quick else ROUNDS))


async def _measure(state: GraphState, rounds: int) -> list[str]:
    settings = TransformerSettings()
    template = PromptFormat.load(llm_folder(state.llm))
    prompts = PromptBuilder(
        template,
        window=template.context_tokens or 2048,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_history_tokens=settings.max_history_tokens,
        template=PromptTemplate(system=settings.system_prompt, instruction=settings.instruction),
        plain_system_prompt=settings.plain_system_prompt,
    )
    vectorstore = VectorstoreClient(state.services["vectorstore"].url)
    predictor = PredictorClient(state.services["predictor"].url, prompt_format=template)
    whole, retrieval, direct = [], [], []
    async with httpx.AsyncClient(base_url=state.services["transformer"].url, timeout=60) as client:
        for round_number in track(range(rounds + 1), description="overhead"):
            for question in QUESTIONS:
                ctx = CallContext.start(60)
                began = time.perf_counter()
                (prediction,) = await vectorstore.search([SearchInstance(input=question, num_docs=NUM_DOCS)], ctx)
                found = time.perf_counter()
                prompt = prompts.build(question, passages=prediction.passages, max_tokens=MAX_TOKENS)
                request = GenerationRequest(prompt.messages, MAX_TOKENS, temperature=0.0, stop=prompts.stop)
                sent = time.perf_counter()
                async for _ in predictor.stream(request, ctx):
                    first = time.perf_counter()
                    break
                through = await _first_token_s(client, question)
                if round_number > 0:  # the first fills the prefix cache
                    retrieval.append(found - began)
                    direct.append(first - sent)
                    whole.append(through)
    await asyncio.gather(vectorstore.aclose(), predictor.aclose())
    rows = {
        "time to first token through the transformer": np.array(whole),
        "retrieval, asked directly": np.array(retrieval),
        "time to first token of the same prompt, asked directly": np.array(direct),
        "overhead: the first minus the sum of the others": np.array(whole) - retrieval - direct,
    }
    quantiles = {"p50 ms": 0.5, "p90 ms": 0.9}
    return [
        table(
            [
                {"": name, **{title: f"{np.quantile(times, share) * 1000:.1f}" for title, share in quantiles.items()}}
                for name, times in rows.items()
            ]
        )
    ]


async def _first_token_s(client: httpx.AsyncClient, question: str) -> float:
    # `auto` holds back a sentence until it is complete and checked, which is no overhead of the services.
    body = {
        "text_input": question,
        "num_docs": NUM_DOCS,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "answers": "write",
    }
    sent = time.perf_counter()
    async with client.stream("POST", "/v2/models/rag/generate_stream", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data:") and "text_output" in json.loads(line[5:]):
                return time.perf_counter() - sent
    raise SystemExit(f"The transformer sent no text for {question!r}.")
