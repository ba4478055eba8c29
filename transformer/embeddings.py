"""The embedder for clients of OpenAI (`/v1/embeddings`) and of Cohere, Jina and vLLM (`/v1/rerank`).

Sources: https://platform.openai.com/docs/api-reference/embeddings, https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError
from chassis.routes import (
    BODY_ERRORS,
    UPSTREAM_ERRORS,
    JsonRoute,
    error_responses,
    json_response,
    request_example,
)
from embedder.client import EmbedderClient
from transformer.wire import ChatError, EmbeddingsRequest, EmbeddingsResponse, RerankRequest, RerankResponse

_RERANKED_AT_ONCE = 64
"""Number of documents per batch. Their token vectors take 130 MB at 512 tokens of 1,024 dimensions each."""


def embedder_routes(embedder: EmbedderClient | None, *, model: str, timeout_s: float) -> APIRouter:
    """Routes of embeddings and rerank. `model`: name of the embedder's model. Without an embedder, they return 404."""
    errors = error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError, body=ChatError)
    router = APIRouter(tags=["openai"], route_class=JsonRoute, responses=errors)
    embeddings_route: dict[str, Any] = {
        "summary": "Embed texts, as OpenAI's clients do",
        "response_model": EmbeddingsResponse,
        "response_description": "The embeddings.",
        "openapi_extra": request_example({"model": model, "input": ["The warranty lasts three years."]}),
    }
    rerank_route: dict[str, Any] = {
        "summary": "Order texts by relevance, as Cohere's, Jina's and vLLM's clients do",
        "response_model": RerankResponse,
        "response_description": "The documents' scores, best first.",
        "openapi_extra": request_example(
            {
                "model": model,
                "query": "How long is the warranty?",
                "documents": ["The warranty lasts three years.", "Records are sent once a day."],
                "top_n": 1,
            }
        ),
    }

    def client_of(requested: str | None) -> EmbedderClient:
        if embedder is None:
            raise NotFoundError("This service has no embedder: TRANSFORMER_EMBEDDER_URL is not set.")
        if requested not in (None, model):
            raise NotFoundError(f"model: there is no {requested!r}. This route has the model {model!r}.", field="model")
        return embedder

    @router.post("/openai/v1/embeddings", **embeddings_route)
    @router.post("/v1/embeddings", **embeddings_route)
    async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
        """The embedder's dense vectors, in the order of the texts."""
        ctx = CallContext.start(timeout_s, request.headers)
        found = await client_of(body.model).embed(body.input, ctx, input_type=body.input_type)
        dimension = found.dense.shape[1]
        if body.dimensions not in (None, dimension):
            raise InvalidRequestError(
                f"dimensions: this embedder's vectors have {dimension} (got {body.dimensions}).", field="dimensions"
            )
        if found.truncated.any() and not body.truncate:
            row = int(found.truncated.argmax())
            raise InvalidRequestError(
                f"input[{row}]: longer than the embedder's window of {found.token_counts[row]} tokens. Send shorter "
                "texts, or truncate: true to ignore the end.",
                field=f"input[{row}]",
            )
        data = [
            {"object": "embedding", "index": row, "embedding": _encoded(vector, body.encoding_format == "base64")}
            for row, vector in enumerate(found.dense)
        ]
        usage = _usage(int(found.token_counts.sum()))
        return json_response({"object": "list", "data": data, "model": model, "usage": usage})

    @router.post("/openai/v1/rerank", **rerank_route)
    @router.post("/v1/rerank", **rerank_route)
    @router.post("/v2/rerank", **rerank_route)
    async def rerank(request: Request, body: RerankRequest) -> Response:
        """Scores documents by the embedder's cosine, averaged with late interaction if there are token vectors."""
        ctx = CallContext.start(timeout_s, request.headers)
        client = client_of(body.model)
        multi_vectors = "multi_vectors" in await client.outputs(ctx)
        query = await client.embed([body.query], ctx, multi_vectors=multi_vectors)
        if query.truncated[0]:
            raise InvalidRequestError(
                f"query: longer than the embedder's window of {query.token_counts[0]} tokens. Send a shorter one.",
                field="query",
            )
        scores: list[float] = []
        truncated: list[bool] = []
        tokens = int(query.token_counts[0])
        for start in range(0, len(body.documents), _RERANKED_AT_ONCE):
            texts = [document.text for document in body.documents[start : start + _RERANKED_AT_ONCE]]
            found = await client.embed(texts, ctx, input_type="passage", multi_vectors=multi_vectors)
            relevance = found.dense @ query.dense[0]
            if query.multi_vectors is not None and found.multi_vectors is not None:
                late = [max_sim(query.multi_vectors[0], document) for document in found.multi_vectors]
                relevance = (relevance + np.array(late, np.float32)) / 2
            scores += np.clip(relevance, 0, 1).tolist()
            truncated += found.truncated.tolist()
            tokens += int(found.token_counts.sum())
        order = sorted(range(len(scores)), key=lambda row: -scores[row])[: body.top_n]
        results = [
            {
                "index": row,
                "relevance_score": scores[row],
                "truncated": truncated[row],
                "document": body.documents[row] if body.return_documents else None,
            }
            for row in order
        ]
        answer_id = f"rerank-{ctx.request_id}"
        return json_response({"id": answer_id, "model": model, "results": results, "usage": _usage(tokens)})

    return router


def max_sim(query: npt.NDArray[np.float32], document: npt.NDArray[np.float32]) -> float:
    """Late interaction: the mean over the query's tokens of the cosine with the nearest token of the document.

    `query` and `document`: float32[tokens, dim], rows L2-normalised. 0 if one of them has no tokens.

    Source: ColBERT, https://arxiv.org/abs/2004.12832
    """
    return float((query @ document.T).max(axis=1).mean()) if len(query) and len(document) else 0.0


def _encoded(vector: npt.NDArray[np.float32], as_base64: bool) -> list[float] | str:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
