"""Documentation of the transformer's KServe routes for `/openapi.json`."""

from __future__ import annotations

from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse

from chassis.openapi import Description, Operation
from transformer.wire import ChatError, ModelsOfBoth, PredictRequest, PredictResponse

_QUESTION = "How long is the warranty?"

DESCRIPTION = Description(
    title="kserve-rag: the transformer",
    text=(
        "Questions are answered from private documents, with sources, over KServe's v1 and v2 protocols, Triton's "
        "generate extension and OpenAI's chat completions.\n\n"
        "Every route takes `Authorization`, which is passed on to the services behind this one, `x-request-id`, which "
        "every answer repeats, `traceparent`, and `x-request-timeout-ms`, the milliseconds that the caller waits. A "
        "503 has `Retry-After`. gRPC, the same as v2, has a port of its own."
    ),
    tags={
        "ask": "Questions, one or many, in any of the protocols.",
        "openai": "For OpenAI's clients, and what speaks to them.",
        "documents": "What there is to ask, and the documents that answers quote.",
        "readiness": "Whether the service lives and can answer.",
    },
    operations={
        "POST /v1/models/{model_name}:predict": Operation(
            summary="Ask, KServe's v1",
            text="Answers every question, all at once, in their order.",
            tag="ask",
            request=PredictRequest,
            request_example={"instances": [{"input": _QUESTION, "max_tokens": 100, "num_docs": 3}]},
            answer=PredictResponse,
        ),
        "POST /v2/models/{model_name}/infer": Operation(
            summary="Ask with tensors, KServe's v2",
            text=(
                "The tensor `input`, BYTES [n, 1], has the questions; parameters are tensors of [1] for all of them or "
                "[n, 1]. `GET /v2/models/{model_name}` lists the tensors. Binary tensors are taken as well."
            ),
            tag="ask",
            request=InferenceRequest,
            request_example={
                "inputs": [
                    {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [_QUESTION]},
                    {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [100]},
                ]
            },
            answer=InferenceResponse,
        ),
        "GET /v1/models": Operation(
            summary="The models, as KServe and OpenAI list them", tag="openai", answer=ModelsOfBoth, errors=[]
        ),
    },
    error_bodies={"/openai/v1": ChatError, "/v1/chat": ChatError},
)
