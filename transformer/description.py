"""What `/openapi.json` tells of the transformer, beside its types."""

from __future__ import annotations

from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse

from chassis.errors import NotFoundError
from chassis.openapi import Description, Operation
from transformer.wire import (
    Answer,
    ChatCompletion,
    ChatCompletionChunk,
    ChatError,
    ChatRequest,
    EndEvent,
    GenerateRequest,
    Indexes,
    ModelCard,
    ModelList,
    ModelsOfBoth,
    PredictRequest,
    PredictResponse,
    SourcesEvent,
    TextEvent,
)
from vectorstore.wire import StoredDocument

_QUESTION = "How long is the warranty?"

_CHAT = Operation(
    summary="Ask as OpenAI's clients do",
    text="An answer to the last message; the messages before it are its history. With `stream`, server-sent events.",
    tag="openai",
    request=ChatRequest,
    request_example={"model": "rag", "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 100},
    answer=ChatCompletion,
    events=[ChatCompletionChunk],
)

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
        "POST /v2/models/{model_name}/generate": Operation(
            summary="Ask, Triton's generate extension",
            text="The whole answer at once.",
            tag="ask",
            request=GenerateRequest,
            request_example={"text_input": _QUESTION, "max_tokens": 100},
            answer=Answer,
        ),
        "POST /v2/models/{model_name}/generate_stream": Operation(
            summary="Ask, and see the answer as it is made",
            text=(
                "Server-sent events: the sources, then pieces of the answer, then the end with usage, timings and the "
                "checked citations. What fails once the stream has begun is its last event: an error's body."
            ),
            tag="ask",
            request=GenerateRequest,
            request_example={
                "text_input": "And how can I extend it?",
                "history": [
                    {"role": "user", "content": _QUESTION},
                    {"role": "assistant", "content": "Three years."},
                ],
            },
            events=[SourcesEvent, TextEvent, EndEvent],
        ),
        "POST /openai/v1/chat/completions": _CHAT,
        "POST /v1/chat/completions": _CHAT,
        "GET /openai/v1/models": Operation(
            summary="The models, as OpenAI lists them", tag="openai", answer=ModelList, errors=[]
        ),
        "GET /openai/v1/models/{model_name}": Operation(
            summary="A model", tag="openai", answer=ModelCard, errors=[NotFoundError]
        ),
        "GET /v1/models": Operation(
            summary="The models, as KServe and OpenAI list them", tag="openai", answer=ModelsOfBoth, errors=[]
        ),
        "GET /v1/indexes": Operation(
            summary="What can be asked",
            text="The indexes that are served, with questions to begin with.",
            answer=Indexes,
        ),
        "GET /v1/documents/{document_id}": Operation(
            summary="A stored document, whole",
            text="Spans of passages and of quotes count the characters (Unicode code points) of its `text`.",
            answer=StoredDocument,
            parameters={
                "document_id": "`document_id` of a source, passage or quote.",
                "version": "Version of the index, as `index_version` tells it; the one that is served where absent.",
                "collection": "Index that it is from; the default one where absent.",
            },
        ),
    },
    error_bodies={"/openai/v1": ChatError, "/v1/chat": ChatError},
)
