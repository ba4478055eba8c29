"""How the predictor on CPUs streams under load, what it does for clients that left, and which requests it refuses.

Clients ask Triton directly, without a pause, for 60 tokens after a short prompt that no other request has. A piece is
an event with new text. "First token" is the time until it arrives, as a share of the time until the answer is complete
(medians). Then 200 clients ask for 300 tokens each and leave without reading; the tokens made afterwards are counted.
Then 400 clients ask at once for 200 tokens each, within 60 s. Last, 64 clients ask without a pause, half of them for 12
tokens and half for 150.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.document import Options
from benchmarks.processes import llm_folder
from chassis.context import CallContext
from chassis.errors import BusyError, ServiceError
from evaluation.markdown import table
from kserve_rag.local.triton import ensure_triton_environment, package_folder
from kserve_rag.settings import Settings
from predictor.client import PredictorClient
from predictor.wire import GenerationRequest
from tests.processes import Triton, triton

TITLE = "Streaming under load"
LIBRARIES = ("aiohttp",)
CLIENTS = (1, 8, 32, 64)
TOKENS = 60
DEADLINE_S = 60.0
PROMPT_FORMAT = "{}. Once upon a time there was a small fox who lived in a forest with"
_MADE = "predictor_completion_tokens_total"

_numbers = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """One answer, or the reason why there is none."""

    pieces: int
    first_s: float
    total_s: float
    tokens: int
    error: ServiceError | None


async def ask(client: PredictorClient, tokens: int) -> Outcome:
    """Ask once."""
    request = GenerationRequest(PROMPT_FORMAT.format(next(_numbers)), tokens, temperature=0)
    pieces, made, error = [], 0, None
    asked = time.monotonic()
    try:
        async with contextlib.aclosing(client.stream(request, CallContext.start(DEADLINE_S))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    pieces.append(time.monotonic())
                made = chunk.completion_tokens or made
    except ServiceError as failure:
        error = failure
    ended = time.monotonic()
    return Outcome(len(pieces), (pieces[0] if pieces else ended) - asked, ended - asked, made, error)


async def ask_without_a_pause(server: Triton, lengths: Sequence[int], seconds: float) -> tuple[list[Outcome], float]:
    """The outcomes of a client per length, and the seconds that they took."""
    client = PredictorClient(server.url)
    begin = time.monotonic()

    async def ask_in_a_row(tokens: int) -> list[Outcome]:
        outcomes = []
        while time.monotonic() < begin + seconds:
            outcomes.append(await ask(client, tokens))
            if isinstance(outcomes[-1].error, BusyError):
                await asyncio.sleep(outcomes[-1].error.retry_after_s or 1)
        return outcomes

    rounds = await asyncio.gather(*map(ask_in_a_row, lengths))
    taken = time.monotonic() - begin
    await client.aclose()
    return [outcome for outcomes in rounds for outcome in outcomes], taken


async def streaming(server: Triton, clients: int, seconds: float) -> dict[str, str]:
    """The row of a number of clients."""
    outcomes, taken = await ask_without_a_pause(server, [TOKENS] * clients, seconds)
    answers = [outcome for outcome in outcomes if outcome.error is None and outcome.tokens == TOKENS]
    return {
        "clients": str(clients),
        "answers": str(len(answers)),
        "refused": str(sum(isinstance(outcome.error, BusyError) for outcome in outcomes)),
        "pieces, median": f"{statistics.median(answer.pieces for answer in answers):.0f}",
        "fewest": str(min(answer.pieces for answer in answers)),
        "first token": f"{statistics.median(answer.first_s / answer.total_s for answer in answers):.0%}",
        "tokens/s": f"{sum(answer.tokens for answer in answers) / taken:.0f}",
    }


async def abandoned(server: Triton, clients: int) -> dict[str, str]:
    """Tokens made after clients have left."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /v2/models/tensorrt_llm/generate_stream HTTP/1.1\r\nhost: predictor\r\ncontent-type: application/json"

    async def send() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        prompt = PROMPT_FORMAT.format(next(_numbers))
        body = json.dumps({"text_input": prompt, "streaming": True, "sampling_param_max_tokens": 300})
        writer.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        return writer

    before = server.metric(_MADE)
    writers = await asyncio.gather(*(send() for _ in range(clients)))
    while server.metric(_MADE) < before + 300:  # noqa: ASYNC110 - the metrics cannot be awaited
        await asyncio.sleep(0.05)
    for writer in writers:
        writer.close()
    left, made = time.monotonic(), server.metric(_MADE)
    while server.metric("predictor_running_requests") + server.metric("predictor_waiting_requests"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return {
        "clients that left": str(clients),
        "tokens made afterwards": f"{server.metric(_MADE) - made:.0f}",
        "seconds": f"{time.monotonic() - left:.1f}",
    }


async def burst(server: Triton, clients: int) -> dict[str, str]:
    """Outcomes of many requests at once."""
    client = PredictorClient(server.url)
    outcomes = await asyncio.gather(*(ask(client, 200) for _ in range(clients)))
    await client.aclose()
    answered = sum(outcome.error is None for outcome in outcomes)
    refused = [outcome.total_s for outcome in outcomes if isinstance(outcome.error, BusyError)]
    return {
        "at once": str(clients),
        "answered": str(answered),
        "refused with 429": str(len(refused)),
        "slowest refusal s": f"{max(refused, default=0):.1f}",
        "late or failed": str(clients - answered - len(refused)),
    }


async def mixed(server: Triton, seconds: float) -> list[dict[str, str]]:
    """Short answers beside long ones."""
    outcomes, _ = await ask_without_a_pause(server, [12, 150] * 32, seconds)
    rows = []
    for tokens in (12, 150):
        times = [outcome.total_s for outcome in outcomes if outcome.error is None and outcome.tokens == tokens]
        rows.append(
            {"tokens": str(tokens), "answers": str(len(times)), "median s": f"{statistics.median(times or [0]):.1f}"}
        )
    return rows


def measure(options: Options) -> list[str]:
    """The tables."""
    environment = ensure_triton_environment(Settings().envs)
    repository = package_folder("predictor") / "model_repository"
    divisor = 10 if options.quick else 1
    with (
        tempfile.TemporaryDirectory() as folder,
        triton(environment, repository, "tensorrt_llm", Path(folder), PREDICTOR_MODEL_DIR=str(llm_folder())) as server,
    ):
        asyncio.run(streaming(server, 1, 1))  # warms up
        streams = [asyncio.run(streaming(server, clients, options.seconds)) for clients in CLIENTS]
        left = asyncio.run(abandoned(server, 200 // divisor))
        full = asyncio.run(burst(server, 400 // divisor))
        short_and_long = asyncio.run(mixed(server, options.seconds))
    return [table(streams), table([left]), table([full]), table(short_and_long)]
