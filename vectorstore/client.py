"""Client of the vectorstore."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from chassis import tracing
from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError, ServiceError
from chassis.http import HttpUpstream
from vectorstore.wire import Passage, Prediction, SearchInstance, SearchRequest, SearchResponse, ServedIndexes

if TYPE_CHECKING:
    from chassis.identity import Signer

RETRIEVAL = tracing.SpanType(
    "retrieval",
    "client",
    "Queries sent to the vectorstore.",
    ("gen_ai.operation.name", "kserve_rag.queries", "kserve_rag.passages"),
)

__all__ = ["VectorstoreClient", "merged"]

_INSTANCE = re.compile(r"^instances\[\d+\]\.")


class VectorstoreClient:
    """Client of a vectorstore. Safe for concurrent calls.

    Calls raise `chassis.errors`: unreachable or no index (503), deadline exceeded (504), invalid response (502),
    invalid request (400).
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str = "vectorstore",
        verify: bool = True,
        forward_authorization: bool = False,
        signer: Signer | None = None,
    ) -> None:
        """A client of the vectorstore at `base_url`.

        `forward_authorization`: whether it gets the callers' Authorization header. `signer`: signs the callers for it.
        """
        self._upstream = HttpUpstream(
            base_url, name="vectorstore", verify=verify, forward_authorization=forward_authorization, signer=signer
        )
        self._model = quote(model, safe="")

    async def search(self, instances: Sequence[SearchInstance], ctx: CallContext) -> list[Prediction]:
        """The prediction for each instance, in their order."""
        with ctx.span(RETRIEVAL) as span:
            predictions = await self._search(instances, span.ctx)
            span.set("gen_ai.operation.name", "retrieval")
            span.set("kserve_rag.queries", len(instances))
            span.set("kserve_rag.passages", sum(len(prediction.passages) for prediction in predictions))
        return predictions

    async def _search(self, instances: Sequence[SearchInstance], ctx: CallContext) -> list[Prediction]:
        asked = SearchRequest.model_construct(instances=list(instances), response_shape="passages")
        body = asked.model_dump_json(exclude_none=True).encode()
        try:
            answer, _ = await self._upstream.post_bytes(
                f"/v1/models/{self._model}:predict", body, {"content-type": "application/json"}, ctx
            )
        except InvalidRequestError as error:
            # Remove `instances[i].`: the caller knows the fields of its instance, but not the request.
            reason, field = (_INSTANCE.sub("", text or "") for text in (error.upstream_reason, error.field))
            raise InvalidRequestError(reason or error.message, field=field or None) from error
        try:
            predictions = SearchResponse.model_validate_json(answer).predictions
        except ValidationError as error:
            raise BadUpstreamError("The vectorstore's response is not a list of predictions.") from error
        if len(predictions) != len(instances):
            raise BadUpstreamError(f"The vectorstore sent {len(predictions)} predictions for {len(instances)} queries.")
        return predictions

    async def document(
        self, document_id: str, ctx: CallContext, *, version: str | None = None, collection: str | None = None
    ) -> dict[str, Any]:
        """The fields of a `wire.StoredDocument`. Raises NotFoundError if it does not exist."""
        asked = urlencode([(k, v) for k, v in (("version", version), ("collection", collection)) if v is not None])
        query = f"?{asked}" if asked else ""
        stored = await self._upstream.get_json(f"/v1/documents/{quote(document_id, safe='')}{query}", ctx)
        if not isinstance(stored, dict) or "text" not in stored:
            raise BadUpstreamError("The vectorstore's response is not a document.")
        return stored

    async def indexes(self, ctx: CallContext) -> ServedIndexes:
        """The served versions, and their problems if they have any."""
        try:
            return ServedIndexes.model_validate_json(await self._upstream.get_bytes("/v1/indexes", ctx))
        except ValidationError as error:
            raise BadUpstreamError("The vectorstore's response is not a list of indexes.") from error

    async def not_ready_reason(self, ctx: CallContext) -> str | None:
        """Why the vectorstore cannot answer now; None if it can."""
        try:
            answer = await self._upstream.get_json(f"/v2/models/{self._model}/ready", ctx)
        except ServiceError as error:
            return error.message
        ready = isinstance(answer, dict) and answer.get("ready") is True
        return None if ready else "The vectorstore does not report that it is ready."

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()


def merged(predictions: Sequence[Prediction], num_docs: int) -> Prediction:
    """Merges the results of several phrasings of one query. Each passage occurs once, with its best score.

    Args:
        predictions: at least one.
        num_docs: maximum number of passages in the result.
    """
    first = predictions[0]
    if len(predictions) == 1:
        return first.model_copy(update={"passages": first.passages[:num_docs]})
    best: dict[tuple[str, str], Passage] = {}
    for prediction in predictions:
        for passage in prediction.passages:
            key = (passage.collection, passage.chunk_id)
            if key not in best or best[key].score < passage.score:
                best[key] = passage
    ranked = sorted(best.items(), key=lambda item: (-item[1].score, item[0]))
    return first.model_copy(
        update={
            "passages": [passage for _, passage in ranked[:num_docs]],
            "sentence_similarity": {
                chunk: values for other in reversed(predictions) for chunk, values in other.sentence_similarity.items()
            },
            "query_tokens": sum(prediction.query_tokens for prediction in predictions),
            "query_truncated": any(prediction.query_truncated for prediction in predictions),
        }
    )
