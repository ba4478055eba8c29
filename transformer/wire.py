"""Requests and responses of the transformer, on every protocol.

| route | request | response |
|---|---|---|
| `POST /v1/models/{m}:predict` | `PredictRequest` | `PredictResponse`, one prediction per instance |
| `POST /v2/models/{m}/infer`, gRPC `ModelInfer` | tensors, see `INPUT_TENSORS` | tensors, see `OUTPUT_TENSORS` |
| `POST /v2/models/{m}/generate` | `GenerateRequest` | `Answer` |
| `POST /v2/models/{m}/generate_stream` | `GenerateRequest` | events: `SourcesEvent`, `TextEvent` …, `EndEvent` |
| `POST /openai/v1/chat/completions`, `/v1/chat/completions` | `ChatRequest` | OpenAI's fields and an answer's fields |
| `POST /openai/v1/completions`, `/v1/completions` | `CompletionRequest` | `Completion`; events: `CompletionChunk` … |
| `POST /openai/v1/responses`, `/v1/responses` | `ResponsesRequest` | `ResponsesResult`; events: `ResponsesEvents` |
| `POST /openai/v1/embeddings`, `/v1/embeddings` | `EmbeddingsRequest` | `EmbeddingsResponse` |
| `POST /openai/v1/rerank`, `/v1/rerank`, `/v2/rerank` | `RerankRequest` | `RerankResponse` |
| `POST /generate`, `/generate_stream` (`TRANSFORMER_DROP_IN`) | `TakeoffRequest` | Takeoff's |
| `POST /model` (`TRANSFORMER_DROP_IN`) | `CmlRequest` | `CmlResponse` |
| `GET /v1/indexes` | | `Indexes` |
| `GET /v1/documents/{id}` | | `StoredDocument` |
| `GET /v1/templates` | | `TemplateList` |

Three classes hold the fields of an answer: `SourceFields`, `RetrievalFields` and `OutcomeFields`. Every protocol
derives its shape from them, so a new field is declared once, here, and set once, where it is computed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from chassis.validation import Whole
from vectorstore.wire import MAX_COLLECTIONS, MAX_NEIGHBOURS, MAX_NUM_DOCS, Described, Passage, Span

MAX_INSTANCES = 32
MAX_QUESTION_CHARS = 100_000
MAX_TEXT_CHARS = 1_000_000
MAX_MESSAGES = 256
MAX_TURNS_CHARS = 65_536
MAX_TEXTS = 2048
MAX_RERANKED = 1000


_Question = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARS)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_MaxTokens = Annotated[int, Field(ge=0, le=131_072), Whole]
_Temperature = Annotated[float, Field(ge=0, le=2)]
_TopK = Annotated[int, Field(ge=0, le=1000), Whole]
_TopP = Annotated[float, Field(ge=0, le=1)]
_Stops = Annotated[list[_Stop], Field(max_length=8)]

# Requests


class Message(Described):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]


class OptionalSampling(Described):
    """Sampling parameters without a default here."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    seed: Annotated[int, Field(ge=0, le=2**63 - 1), Whole] | None = None
    """Makes a sampled answer reproducible."""
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    """Above 1, tokens of the prompt and of the answer so far become less likely, if the predictor's model supports
    it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Subtracted from the logits of tokens that the answer already has."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Subtracted once per occurrence."""


class SamplingParameters(OptionalSampling):
    """How the LLM samples the answer. Zeros mean zero; absent parameters are the service's settings."""

    max_tokens: _MaxTokens | None = None
    """Maximum number of tokens of the answer. 0: retrieve passages and generate nothing."""
    temperature: _Temperature | None = None
    """0: always the most likely token."""
    top_k: _TopK | None = None
    """0: all tokens are considered."""
    top_p: _TopP | None = None
    """0: always the most likely token."""
    stop: _Stops = Field(default_factory=list)
    """Texts that end the answer. They are not part of it."""


CitationMode = Literal["off", "label"]
"""Whether an answer is checked: `label` gives each sentence its quotes or labels it unsupported."""

AnswerMode = Literal["quote", "write", "auto"]
"""How questions are answered from documents. `quote`: with the sentences of the sources that answer, verbatim, without
the LLM. `write`: the LLM writes, and every sentence is shown. `auto`: the LLM writes, and only the sentences that the
sources support are shown; if there are none, or the LLM only repeats itself, the answer is a quote."""


class GroundingParameters(Described):
    """Where the answer comes from: answer mode, retrieval, refusal and citations."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    answers: AnswerMode | None = None
    """`quote`: answer with sentences of the sources, without the LLM; `write`: with the LLM's text; `auto`: with the
    LLM's sentences that the sources support, else with a quote. Default: the service's setting. Without documents,
    always `write`."""
    num_docs: Annotated[int, Field(ge=0, le=MAX_NUM_DOCS), Whole] | None = None
    """Number of passages to retrieve. Default: the service's setting; 0 retrieves none."""
    retrieval: bool = True
    """False: answer without documents."""
    context: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] | None = None
    """Replaces retrieved passages. Only blanks mean no documents; empty counts as absent."""
    filters: dict[str, Any] | None = None
    """Chroma's `where` language over document metadata: `{"lang": "en"}`, `{"year": {"$gte": 2023}}`."""
    collections: Annotated[list[str], Field(min_length=1, max_length=MAX_COLLECTIONS)] | None = None
    """Indexes to search. Default: the vectorstore's default index."""
    neighbours: Annotated[int, Field(ge=0, le=MAX_NEIGHBOURS), Whole] = 0
    """Chunks before and after each passage to join to it."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Penalty of a passage for repeating a better one."""
    refuse: bool | None = None
    """Whether to refuse a question that the passages probably do not answer. Default: the service's setting. False: the
    model answers from whatever was found."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Answerability below which the question is refused. Default: that of the index's calibration, or of the
    service."""
    template: Annotated[str, StringConstraints(max_length=128)] | None = None
    """Name of the prompt template, one of `GET /v1/templates`. Default: the model's."""
    citations: CitationMode | None = None
    """Whether to check the answer against its sources. Default: the service's setting. `off` turns `auto` into
    `write`."""
    turns: Annotated[str, StringConstraints(max_length=MAX_TURNS_CHARS)] | None = None
    """`turns` of the previous answer, unchanged: continues its conversation. Earlier messages are not needed; if there
    are any, they must be those of that conversation."""


class ModelChoice(Described):
    """The model that answers."""

    model: Annotated[str, StringConstraints(max_length=128)] | None = None
    """Name of the model that answers, one of `GET /v1/models`. Default: the service's own."""


class Instance(ModelChoice, GroundingParameters, SamplingParameters):
    """One question of a v1 request."""

    input: _Question


class PredictRequest(Described):
    """The v1 body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_INSTANCES)]


class GenerateRequest(ModelChoice, GroundingParameters, SamplingParameters):
    """The body of `generate` and `generate_stream`."""

    id: str | None = None
    text_input: _Question
    history: Annotated[list[Message], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list)
    """Earlier turns, oldest first."""

    @model_validator(mode="before")
    @classmethod
    def _parameters_at_top(cls, body: Any) -> Any:
        """The generate extension allows parameters at the top level or under `parameters`."""
        if isinstance(body, dict) and isinstance(body.get("parameters"), dict):
            body = {**body["parameters"], **{k: v for k, v in body.items() if k != "parameters"}}
        return body


# Answers


class Source(Passage):
    """A passage that the model was shown."""

    number: int
    """Its number in the prompt, from 1: `[number]` in an answer refers to it."""


class CutPassage(Described):
    """A passage that was retrieved but is not in the prompt."""

    chunk_id: str
    document_id: str
    reason: Literal["token_budget", "no_support", "not_answered"]
    """It did not fit the prompt, it has too little support, or the question was refused."""


class Topic(Described):
    """A subject that the documents do cover."""

    title: str
    heading: str = ""
    """The innermost heading, if it differs from the title."""
    url: str | None = None
    document_id: str


class Quote(Described):
    """A span of a source, verbatim."""

    number: int
    """Number of the source."""
    document_id: str
    chunk_id: str
    index_version: str
    span: Span
    """`document_text[span.start:span.end] == text`, always."""
    text: str
    sha256: str
    """SHA-256 of the text in UTF-8, in hexadecimal digits."""
    support: float
    """How far the quote states what the sentence states, 0 … 1."""


Verdict = Literal["supported", "unsupported", "no_claim"]


class Statement(Described):
    """A sentence of an answer and the quotes that support it."""

    span: Span
    """In `Citations.text`. The statements together cover all of it."""
    verdict: Verdict
    """`no_claim`: the sentence states nothing to verify, like "Yes." or "These are the steps:"."""
    support: float
    """0 … 1; 0 if the sentence is unsupported or claims nothing."""
    quotes: list[Quote]
    """Best first. Every `[n]` in the sentence has one with that number."""


class Markers(Described):
    """Counts of the source numbers that the model wrote, like `[2]`, by the result of the check."""

    kept: int = 0
    mended: int = 0
    """Wrong, and replaced by the number of the source that supports the sentence."""
    dropped: int = 0


class Withheld(Described):
    """A sentence that the LLM wrote and the answer leaves out."""

    text: str
    verdict: Verdict
    reason: Literal["unsupported", "no_claim", "repetition"]
    """`unsupported`: no source supports it. `no_claim`: it claims nothing or does not answer, and no shown sentence
    follows it. `repetition`: it repeats earlier text."""


class Citations(Described):
    """An answer checked against its sources, sentence by sentence."""

    text: str
    """The answer after the check: the model's own words, as streamed, unless `kind` says otherwise."""
    kind: Literal["model", "mended", "quote"]
    """The author of the text: the model; the model, with source numbers corrected or removed; or the documents."""
    statements: list[Statement]
    markers: Markers
    withheld: list[Withheld] = Field(default_factory=list)
    """Sentences that the mode `auto` did not show."""
    dropped: list[Any] = Field(default_factory=list)
    """Always empty: a source's text is the stored text. Kept for clients of earlier versions."""


class PromptTokensDetails(Described):
    """Tokens of the prompt, as OpenAI divides them."""

    cached_tokens: int
    """Tokens that the LLM's server had in its prefix cache; it computed the others."""


class Usage(Described):
    """Tokens of the LLM."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None
    """None if the LLM's server does not report them."""


class Replayed(Described):
    """Earlier turns of a conversation in the prompt of a question."""

    turns: int
    left_out: int
    """Oldest turns that did not fit."""
    incomplete: int
    """Turns in the prompt without the text that they were answered from: passages that are no longer stored, a
    `context`, or everything, if only the messages are known."""


FinishReason = Literal["stop", "length", "cancelled", "repetition"]
"""`length`: at `max_tokens`; `cancelled`: by the LLM's server; `repetition`: the LLM began to repeat itself."""


AnsweredBy = Literal["llm", "quote"]


class SourceFields(Described):
    """Fields of an answer that are in the first event of a stream and, final, in the last."""

    sources: list[Source]
    """In the order of their numbers. Empty if the answer is a refusal or used no documents."""
    timings: dict[str, float]
    """Milliseconds: `condense`, `embed`, `search`, `retrieval` (the call to the vectorstore), `prompt`, `first_token`,
    `generation`, `citations`, `total`."""


class RetrievalFields(Described):
    """Fields of an answer that are known before the LLM starts."""

    index_version: str | None
    cut: list[CutPassage]
    query: str | None
    """The text that was searched for: the question, or in a conversation the standalone question condensed from it."""
    answerability: float | None = None
    """How likely the passages found answer the question, 0 … 1. None if nothing was searched for."""
    replayed: Replayed | None = None
    """The earlier turns in the prompt. None if there are none, or the LLM is not called."""


class OutcomeFields(Described):
    """Fields of an answer that are known when it is complete."""

    refused: bool
    """The documents support no answer, and the text says so."""
    answered_by: AnsweredBy | None = None
    """`quote`: the text is sentences of the sources, verbatim. None for a refusal, and if `max_tokens` is 0."""
    topics: list[Topic] = Field(default_factory=list)
    """For a refusal: subjects of the documents nearest to the question, nearest first."""
    citations: Citations | None = None
    """The check of the answer against its sources. None if there are no sources, or the check is off."""
    turns: str | None = None
    """The conversation so far, signed. Send it with the next question. None if there is no text, or it is too long."""


class Answer(SourceFields, RetrievalFields, OutcomeFields):
    """An attributed answer."""

    id: str
    model_name: str
    text_output: str
    finish_reason: FinishReason
    usage: Usage


class PredictResponse(Described):
    """The v1 response, in the order of the instances."""

    predictions: list[Answer]


class SourcesEvent(SourceFields, RetrievalFields):
    """The first event of a stream."""

    id: str
    model_name: str


class TextEvent(Described):
    """A piece of the answer."""

    text_output: str


class EndEvent(SourceFields, OutcomeFields):
    """The last event of a stream. Its `sources` are final: empty if the answer became a refusal.

    `citations.text` is the final answer: with `answers: write`, the check may have corrected source numbers in the
    pieces sent before.
    """

    text_output: str = ""
    finish_reason: FinishReason
    usage: Usage


class Index(Described):
    """An index that is being served."""

    name: str
    """Value for `collections`."""
    version: str
    documents: int
    chunks: int
    embedder: str
    """Fingerprint of the embedder that made its vectors."""
    examples: list[str]
    """Questions that its documents answer, at most 8; empty if the documents suggest none."""
    reason: str | None = None
    """Why it cannot be searched now, or why a newer version was rejected."""


class Indexes(Described):
    """The indexes that can be asked."""

    default: str
    """Name of the index that is searched if a question names none."""
    indexes: list[Index]
    """The default index comes first."""
    reason: str | None
    """Why the default index is missing; else None."""


# Tensors of v2 and gRPC: name → (datatype, shape; n questions). A parameter is [1] for all questions or [n, 1].

_DATATYPES = {"integer": "INT32", "number": "FP32", "boolean": "BOOL"}


def tensor_datatypes(kind: type[BaseModel]) -> dict[str, str]:
    """Datatype of each field as a tensor. Texts are BYTES, and so are objects and lists, as JSON."""
    datatypes = {}
    for name, schema in kind.model_json_schema(mode="serialization")["properties"].items():
        declared = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
        large = declared.get("maximum", 0) > 2**31
        datatypes[name] = "UINT64" if large else _DATATYPES.get(declared.get("type"), "BYTES")
    return datatypes


INPUT_TENSORS = {
    name: (datatype, [-1, 1])
    for name, datatype in {"input": "BYTES", **tensor_datatypes(Instance)}.items()
    if name != "stop"
}
"""Every field of `Instance` except `stop`. `filters` and `collections` are JSON."""

_OUTPUT_ORDER = (
    "text_output",
    "sources",
    "finish_reason",
    "refused",
    "prompt_tokens",
    "completion_tokens",
    "index_version",
    "timings",
    "answerability",
    "topics",
    "citations",
    "answered_by",
)
"""Clients may read outputs by position: new ones follow these."""

NOT_TENSORS = frozenset({"id", "model_name", "usage", "total_tokens", "cut", "query"})
"""Fields of an answer and of its usage that v2 does not return as tensors."""

_OUTPUTS = {**tensor_datatypes(Usage), **tensor_datatypes(Answer)}
OUTPUT_TENSORS = {
    name: (_OUTPUTS[name], [-1, 1]) for name in dict.fromkeys((*_OUTPUT_ORDER, *_OUTPUTS)) if name not in NOT_TENSORS
}
"""Every field of `Answer` except `NOT_TENSORS`. Numbers that are None, like `answerability` without a search, are
-1."""


# OpenAI chat completions


def _require_empty(value: Any) -> Any:
    """Accepts null, [] and {}, which some clients send for every field."""
    if value not in (None, [], {}):
        raise PydanticCustomError("unsupported", "not supported here: leave it out")
    return value


_EMPTY = [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]
_Unsupported = Annotated[Any, AfterValidator(_require_empty), WithJsonSchema({"anyOf": _EMPTY})]
_Ignored = dict[str, Any] | None


class TextPart(Described):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str
    cache_control: _Ignored = None


def _content_kind(content: Any) -> str:
    # The blanks keep these tags out of the paths of errors.
    return "a list" if isinstance(content, list) else "a text" if content is not None else "no text"


class ChatMessage(Described):
    """A message as OpenAI's clients send it, and as they send an answer back. Fields after `name` change nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS), Tag("a text")]
        | Annotated[list[TextPart], Field(max_length=64), Tag("a list")]
        | Annotated[None, Tag("no text")],
        Discriminator(_content_kind),
    ]
    """Null only for the assistant."""
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    cache_control: _Ignored = None
    provider_specific_fields: _Ignored = None
    parsed: _Unsupported = None
    audio: _Unsupported = None
    function_call: _Unsupported = None
    tool_calls: _Unsupported = None

    @field_validator("content")
    @classmethod
    def _null_only_for_the_assistant(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticKnownError("string_type")
        return content

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Described):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = False
    """Whether a last chunk has the usage. The other chunks then have `usage: null`."""
    include_obfuscation: bool | None = False


class IgnoredOptions(Described):
    """OpenAI's fields that have no effect here. Values that would have to change the answer are errors."""

    tools: _Unsupported = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Literal[0] | None = None
    store: Literal[False] | None = None
    """Nothing is stored."""
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class IgnoredChatOptions(IgnoredOptions):
    """Further fields of chat completions without effect here."""

    functions: _Unsupported = None
    logit_bias: _Unsupported = None
    audio: _Unsupported = None
    prediction: _Unsupported = None
    web_search_options: _Unsupported = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    logprobs: Literal[False] | None = None
    n: Annotated[int, Field(ge=1, le=1), Whole] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class ChatRequest(IgnoredChatOptions, GroundingParameters, OptionalSampling):
    """OpenAI's chat completion request, plus grounding parameters (`answers`, `num_docs`, `filters` …)."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: _MaxTokens | None = None
    max_completion_tokens: _MaxTokens | None = None
    """OpenAI's newer name of `max_tokens`. If both are given, they must be equal."""
    temperature: _Temperature | None = None
    top_k: _TopK | None = None
    top_p: _TopP | None = None
    stop: _Stop | _Stops | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class ChatAnswer(Described):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None
    """Always None. If the documents support no answer, `refused` is true."""


class ChatChoice(Described):
    """The one answer."""

    index: Literal[0]
    message: ChatAnswer
    finish_reason: FinishReason
    logprobs: None


class ChatCompletion(SourceFields, RetrievalFields, OutcomeFields):
    """OpenAI's chat completion, attributed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    """Unix time in seconds."""
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Described):
    """A piece of the assistant's message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Described):
    """A piece of the one answer."""

    index: Literal[0]
    delta: ChatDelta
    finish_reason: FinishReason | None
    logprobs: None


class ChatCompletionChunk(Described):
    """An event of a stream; the line `data: [DONE]` follows the last one."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    """Unix time in seconds."""
    model: str
    choices: list[ChatChunkChoice]
    """Empty in the chunk of `stream_options.include_usage`, which is the last."""
    usage: Usage | None = None


class ChatSourcesChunk(ChatCompletionChunk, SourceFields, RetrievalFields):
    """The first event of a stream, with the fields of `SourcesEvent`."""


class ChatEndChunk(ChatCompletionChunk, SourceFields, OutcomeFields):
    """The event with the `finish_reason`, with the fields of `EndEvent`."""


class TemplateCard(Described):
    """A prompt template."""

    name: str
    """Value of `template` in requests."""
    description: str
    languages: list[str]
    """Languages of its texts, ISO 639; empty if it does not say."""


class TemplateList(Described):
    """The prompt templates of the service."""

    templates: list[TemplateCard]


class Defaults(Described):
    """Parameters of a question that sets none. None: the default of the LLM's server."""

    answers: AnswerMode
    num_docs: int
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None


class ModelCard(Described):
    """A model, as OpenAI describes it, and its defaults."""

    id: str
    object: Literal["model"]
    created: int
    """Unix time in seconds."""
    owned_by: str
    display_name: str
    """Name for people."""
    defaults: Defaults


class ModelCardAndReadiness(ModelCard):
    """OpenAI's card of a model with KServe's readiness."""

    name: str
    ready: Literal[True]
    """If the model is not ready, the response is a 503 with the reason."""


class ModelList(Described):
    """The models of the service."""

    object: Literal["list"]
    data: list[ModelCard]


class ModelListAndNames(ModelList):
    """OpenAI's list of models with KServe's v1 list of names."""

    models: list[str]


class ChatErrorDetail(Described):
    """The fault of the request or of the service."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """The faulty field of the request, like `messages`."""
    code: str


class ChatError(Described):
    """An error in OpenAI's shape."""

    error: ChatErrorDetail


# OpenAI's text completions


def _as_list(value: Any) -> Any:
    """A single text as a list of one."""
    if isinstance(value, list) and value and isinstance(value[0], (int, list)):
        raise PydanticCustomError("tokens", "token ids are not supported here: send texts")
    return [value] if isinstance(value, str) else value


_ONE_OR_MANY = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


class CompletionRequest(GroundingParameters, OptionalSampling):
    """OpenAI's completion request, plus grounding parameters. Each prompt is a question about the documents."""

    model: str
    prompt: Annotated[
        list[_Question], Field(min_length=1, max_length=MAX_INSTANCES), BeforeValidator(_as_list), _ONE_OR_MANY
    ]
    """One question, or several; a stream answers one."""
    max_tokens: _MaxTokens | None = None
    temperature: _Temperature | None = None
    top_k: _TopK | None = None
    top_p: _TopP | None = None
    stop: _Stop | _Stops | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1), Whole] | None = None
    best_of: Annotated[int, Field(ge=1, le=1), Whole] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    logprobs: None = None
    logit_bias: _Unsupported = None
    user: str | None = None


class CompletionPiece(Described):
    """A piece of an answer."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: None


class CompletionSourcesPiece(CompletionPiece, SourceFields, RetrievalFields):
    """The first piece of a stream, without text."""


class CompletionEndPiece(CompletionPiece, SourceFields, OutcomeFields):
    """The last piece of a stream, without text."""


class CompletionChoice(CompletionPiece, SourceFields, RetrievalFields, OutcomeFields):
    """The answer to the prompt with this index."""

    finish_reason: FinishReason


class _CompletionEnvelope(Described):
    id: str
    object: Literal["text_completion"]
    created: int
    """Unix time in seconds."""
    model: str


class Completion(_CompletionEnvelope):
    """OpenAI's completion. Each choice has the fields of an answer."""

    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_CompletionEnvelope):
    """An event of a stream; the line `data: [DONE]` follows the last one."""

    choices: list[CompletionSourcesPiece | CompletionEndPiece | CompletionPiece]
    """Empty in the chunk of `stream_options.include_usage`, which is the last."""
    usage: Usage | None = None


# OpenAI's responses


def _not_stored(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError("not_stored", "responses are not stored: send the earlier messages as input")
    return value


def _as_message(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponsesPart(Described):
    """A part of a message's content. Fields after `text` change nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ResponsesMessage(Described):
    """A message as OpenAI's clients send it, and as they send an answer back. Fields after `content` change nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS), Tag("a text")]
        | Annotated[list[ResponsesPart], Field(max_length=64), Tag("a list")],
        Discriminator(_content_kind),
    ]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    def as_chat(self) -> ChatMessage:
        """The same message of a chat."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage.model_construct(role=self.role, content=text)


class ResponsesText(Described):
    """OpenAI's `text`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: dict[Literal["type"], Literal["text"]] | None = None
    verbosity: str | None = None


class ResponsesStreamOptions(Described):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_obfuscation: bool | None = False


class ResponsesRequest(IgnoredOptions, GroundingParameters, OptionalSampling):
    """OpenAI's request of a response, plus grounding parameters. The fields after `stream` have no effect."""

    model: str
    input: Annotated[
        list[ResponsesMessage],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(_as_message, json_schema_input_type=str | list[ResponsesMessage]),
    ]
    """The question, or a conversation that ends with it."""
    instructions: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] | None = None
    max_output_tokens: _MaxTokens | None = None
    temperature: _Temperature | None = None
    top_k: _TopK | None = None
    top_p: _TopP | None = None
    stream: bool | None = False
    stream_options: ResponsesStreamOptions | None = None
    previous_response_id: Annotated[Any, AfterValidator(_not_stored), WithJsonSchema({"type": "null"})] = None
    conversation: Annotated[Any, AfterValidator(_not_stored), WithJsonSchema({"type": "null"})] = None
    background: Literal[False] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None
    text: ResponsesText | None = None
    max_tool_calls: int | None = None
    prompt: _Unsupported = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: _Ignored = None


class UrlCitation(Described):
    """A source with a URL that supports a sentence."""

    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    """First character of the sentence in the text."""
    end_index: int


class FileCitation(Described):
    """A source without a URL that supports a sentence."""

    type: Literal["file_citation"]
    file_id: str
    """`document_id` of the source."""
    filename: str
    """Its title."""
    index: int
    """End of the sentence in the text."""


class ResponsesOutputText(Described):
    """The answer's text, with a citation for each source of a supported sentence."""

    type: Literal["output_text"]
    text: str
    annotations: list[UrlCitation | FileCitation]
    logprobs: list[Any]


class ResponsesOutput(Described):
    """The answer as a message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[ResponsesOutputText]


class InputTokensDetails(Described):
    """Tokens of the prompt, as OpenAI divides them."""

    cached_tokens: int
    cache_write_tokens: int
    """Always 0."""


class OutputTokensDetails(Described):
    """Tokens of the answer, as OpenAI divides them."""

    reasoning_tokens: int
    """Always 0."""


class ResponsesUsage(Described):
    """Tokens of the LLM."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Described):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class _Responses(Described):
    """Fields of OpenAI's response."""

    id: str
    object: Literal["response"]
    created_at: int
    """Unix time in seconds."""
    status: Literal["in_progress", "completed", "incomplete"]
    """`incomplete`: at `max_output_tokens`."""
    error: None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[ResponsesOutput]
    usage: ResponsesUsage | None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    metadata: dict[str, str]
    background: Literal[False]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, None]
    store: Literal[False]
    text: dict[str, dict[str, str]]
    tool_choice: Literal["none", "auto"]
    tools: list[Any]
    truncation: Literal["auto", "disabled"]


class ResponsesStart(_Responses, SourceFields, RetrievalFields):
    """OpenAI's response before its text."""


class ResponsesResult(ResponsesStart, OutcomeFields):
    """OpenAI's response, attributed."""

    finish_reason: FinishReason


class _ResponsesEvent(Described):
    type: str
    sequence_number: int


class ResponsesStartEvent(_ResponsesEvent):
    """The first events of a stream."""

    type: Literal["response.created", "response.in_progress"]
    response: ResponsesStart


class ResponsesEndEvent(_ResponsesEvent):
    """The last event of a stream."""

    type: Literal["response.completed", "response.incomplete"]
    response: ResponsesResult


class ResponsesItemEvent(_ResponsesEvent):
    """The message begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: ResponsesOutput


class _ResponsesTextEvent(_ResponsesEvent):
    item_id: str
    output_index: int
    content_index: int


class ResponsesPartEvent(_ResponsesTextEvent):
    """The text of the message begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: ResponsesOutputText


class ResponsesDeltaEvent(_ResponsesTextEvent):
    """A piece of the text."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[Any]


class ResponsesCitationEvent(_ResponsesTextEvent):
    """A citation of the text, which is complete."""

    type: Literal["response.output_text.annotation.added"]
    annotation_index: int
    annotation: UrlCitation | FileCitation


class ResponsesTextEvent(_ResponsesTextEvent):
    """The whole text. With `answers: write`, source numbers may differ from those of the pieces."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[Any]


class ResponsesErrorEvent(_ResponsesEvent):
    """The stream failed."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


ResponsesEvents = (
    ResponsesStartEvent
    | ResponsesEndEvent
    | ResponsesItemEvent
    | ResponsesPartEvent
    | ResponsesDeltaEvent
    | ResponsesCitationEvent
    | ResponsesTextEvent
    | ResponsesErrorEvent
)


# OpenAI's embeddings, and rerank as Cohere, Jina and vLLM have it

_Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]


class EmbeddingsRequest(Described):
    """OpenAI's request of embeddings."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    """The embedder's model."""
    input: Annotated[list[_Text], Field(min_length=1, max_length=MAX_TEXTS), BeforeValidator(_as_list), _ONE_OR_MANY]
    """One text, or several."""
    encoding_format: Literal["float", "base64"] | None = None
    """`base64`: the little-endian float32 values."""
    dimensions: int | None = None
    """The embedder's own number, if any."""
    user: str | None = None
    input_type: Literal["query", "passage"] = "passage"
    """Whether the texts are queries or passages, for embedders that tell them apart."""
    truncate: bool = False
    """Whether to ignore the end of a text that is longer than the embedder's window. False: it is an error."""


class EmbeddingsUsage(Described):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Described):
    """The embedding of one text, of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(Described):
    """The embeddings, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class RerankDocument(Described):
    """A document's text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: _Text


def _as_document(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class RerankRequest(Described):
    """Texts to put in order of relevance to a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    """The embedder's model."""
    query: _Question
    documents: Annotated[
        list[Annotated[RerankDocument, BeforeValidator(_as_document, json_schema_input_type=str | RerankDocument)]],
        Field(min_length=1, max_length=MAX_RERANKED),
    ]
    top_n: Annotated[int, Field(ge=1), Whole] | None = None
    """Maximum number of results. All documents if absent."""
    return_documents: bool = False
    """Whether results have the documents' texts."""


class RerankResult(Described):
    """A document's relevance."""

    index: int
    """Position of the document in the request."""
    relevance_score: float
    """0 … 1: the similarity of the embedder's vectors."""
    truncated: bool
    """The document is longer than the embedder's window: its end did not count."""
    document: RerankDocument | None = None


class RerankResponse(Described):
    """The documents in order of relevance, best first; equal ones in the order of the request."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EmbeddingsUsage


# Requests of earlier LLM servers' clients

DropIn = Literal["takeoff", "cml"]
"""An earlier LLM server whose routes can be served."""

DropInInput = Literal["prompt", "question"]
"""The text that its clients send. `prompt`: a finished one, which the LLM completes without retrieval. `question`: one
that is answered from the documents."""


class TakeoffRequest(Described):
    """The body of Takeoff's `/generate` and `/generate_stream`. Absent parameters have Takeoff's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    text: Annotated[list[_Question], Field(min_length=1, max_length=MAX_INSTANCES)] | _Question
    """One text, or for `/generate` several."""
    generate_max_length: _MaxTokens = 128
    """The community edition's name of the maximum number of tokens."""
    max_new_tokens: _MaxTokens | None = None
    """The Pro edition's name of the same."""
    sampling_temperature: _Temperature = 1.0
    sampling_topk: _TopK = 1
    sampling_topp: _TopP = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=0)] = 0
    """Only 0, which forbids no repetition, is supported."""
    consumer_group: str | None = None
    """The Pro edition's group of models; has no effect."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """The Pro edition's client sends null for each absent parameter."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    @property
    def pro(self) -> bool:
        """Whether the client speaks the Pro edition's protocol."""
        return bool({"max_new_tokens", "consumer_group"} & self.model_fields_set)

    def sampling(self) -> SamplingParameters:
        """The parameters by our names. A top_k of 1, Takeoff's default, becomes a temperature of 0."""
        greedy = self.sampling_topk == 1
        return SamplingParameters(
            max_tokens=self.generate_max_length if self.max_new_tokens is None else self.max_new_tokens,
            temperature=0.0 if greedy else self.sampling_temperature,
            top_k=None if greedy else self.sampling_topk,
            top_p=None if greedy else self.sampling_topp,
            repetition_penalty=self.repetition_penalty,
        )


class CmlInput(Described):
    """A prompt and its parameters."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: _Question
    temperature: _Temperature | None = None
    max_new_tokens: _MaxTokens | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None


class CmlRequest(Described):
    """The body of Cloudera's model endpoint."""

    model_config = ConfigDict(extra="forbid", strict=True)

    access_key: Annotated[str | None, Field(alias="accessKey")] = None
    """Has no effect: protect this route as the others are."""
    request: CmlInput


class CmlPrediction(Described):
    """The value that the model's function returns."""

    response: str
    """The prompt without its last six characters, and the answer: the lab's client cuts this length off."""


class CmlResult(Described):
    """The result of a call."""

    prediction: CmlPrediction


class CmlResponse(Described):
    """The response of Cloudera's model endpoint."""

    success: Literal[True] = True
    response: CmlResult
