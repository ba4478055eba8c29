"""What the transformer is asked and what it answers, on every protocol.

| route | request | answer |
|---|---|---|
| `POST /v1/models/{m}:predict` | `PredictRequest` | `PredictResponse`, one prediction per instance |
| `POST /v2/models/{m}/infer`, gRPC `ModelInfer` | tensors, see `INPUT_TENSORS` | tensors, see `OUTPUT_TENSORS` |
| `POST /v2/models/{m}/generate` | `GenerateRequest` | `Answer` |
| `POST /v2/models/{m}/generate_stream` | `GenerateRequest` | events: `SourcesEvent`, `TextEvent` …, `EndEvent` |
| `POST /openai/v1/chat/completions`, `/v1/chat/completions` | `ChatRequest` | OpenAI's, and `sources` |
| `GET /v1/indexes` | | `Indexes` |
| `GET /v1/documents/{id}` | | `StoredDocument` |
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from vectorstore.wire import MAX_COLLECTIONS, MAX_NEIGHBOURS, MAX_NUM_DOCS, Described, Passage, Span

# The earlier graph's defaults: its clients get the answers they are used to.
DEFAULT_MAX_TOKENS = 100
DEFAULT_TOP_K = 4
DEFAULT_TOP_P = 0.4
DEFAULT_TEMPERATURE = 0.1
DEFAULT_NUM_DOCS = 2
DEFAULT_CHAT_MAX_TOKENS = 512

MAX_INSTANCES = 32
MAX_QUESTION_CHARS = 100_000
MAX_TEXT_CHARS = 1_000_000
MAX_MESSAGES = 256


def _integral(value: Any) -> Any:
    """100.0 for 100: what number fields of web forms send."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_integral)
_Question = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARS)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Message(Described):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]


class Sampling(Described):
    """How the answer is drawn. Zeros mean zero: they never stand for a default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_tokens: Annotated[int, Field(ge=0, le=131_072), _WHOLE] = DEFAULT_MAX_TOKENS
    """Most tokens of the answer. 0 retrieves and generates nothing."""
    temperature: Annotated[float, Field(ge=0, le=2)] = DEFAULT_TEMPERATURE
    """0 takes the likeliest token each time."""
    top_k: Annotated[int, Field(ge=0, le=1000), _WHOLE] = DEFAULT_TOP_K
    """0 considers every token."""
    top_p: Annotated[float, Field(ge=0, le=1)] = DEFAULT_TOP_P
    """0 takes the likeliest token each time."""
    stop: Annotated[list[_Stop], Field(max_length=8)] = Field(default_factory=list)
    """Texts that end the answer, and are not in it."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1), _WHOLE] | None = None
    """Repeats a drawn answer."""
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    """Above 1, tokens that have been said or asked are less likely; where the predictor's model has it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken from the logits of tokens that have been said."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """The same, for each time; the service's setting where absent."""


CitationMode = Literal["off", "label", "quote"]
"""What is done after generation: nothing; each sentence is given its quotes or labelled as unsupported; and, where no
sentence is supported, a quote from the sources is the answer."""


class Grounding(Described):
    """What the answer is drawn from."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    num_docs: Annotated[int, Field(ge=0, le=MAX_NUM_DOCS), _WHOLE] | None = None
    """Passages retrieved; the service's setting where absent. 0 retrieves none."""
    retrieval: bool = True
    """False answers without documents."""
    context: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] | None = None
    """Used in place of retrieved passages. Blanks alone mean no documents; empty means absent, as it always has."""
    filters: dict[str, Any] | None = None
    """Chroma's `where` language over document metadata: `{"lang": "en"}`, `{"year": {"$gte": 2023}}`."""
    collections: Annotated[list[str], Field(min_length=1, max_length=MAX_COLLECTIONS)] | None = None
    """Indexes that are searched; the vectorstore's own where absent."""
    neighbours: Annotated[int, Field(ge=0, le=MAX_NEIGHBOURS), _WHOLE] = 0
    """Chunks before and after that are joined to each passage."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much passages are held against for saying what a better one says."""
    refuse: bool | None = None
    """Whether a question is refused that the passages seem not to answer; the service's setting where absent. False
    has the model answer from whatever was found."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Answerability below which the question is refused; where absent the calibration of the index, or the default."""
    citations: CitationMode | None = None
    """How the answer is checked against its sources; the service's setting where absent."""


class Instance(Sampling, Grounding):
    """One question of a v1 request."""

    input: _Question


class PredictRequest(Described):
    """The v1 body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[Instance], Field(min_length=1, max_length=MAX_INSTANCES)]


class GenerateRequest(Sampling, Grounding):
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


class Source(Passage):
    """A passage that the model was shown."""

    number: int
    """Its number in the prompt, from 1: what `[number]` in an answer refers to."""


class CutPassage(Described):
    """A passage that was retrieved and not shown to the model."""

    chunk_id: str
    document_id: str
    reason: Literal["token_budget", "no_support", "not_answered"]
    """It did not fit; it says too little of what is asked; or all of them together seem not to answer the question."""


class Topic(Described):
    """Something that the documents do speak of."""

    title: str
    heading: str = ""
    """The innermost heading, where it differs from the title."""
    url: str | None = None
    document_id: str


class Quote(Described):
    """A span of a source, read again from the stored document before it is returned."""

    number: int
    """Of the source."""
    document_id: str
    chunk_id: str
    index_version: str
    span: Span
    """`document_text[span.start:span.end] == text`, always."""
    text: str
    sha256: str
    """Of the text in UTF-8, in hexadecimal digits."""
    support: float
    """How far it says what the sentence says, 0 … 1."""


class Statement(Described):
    """A sentence of an answer, and what it rests on."""

    span: Span
    """Of `Citations.text`. Together the statements are the whole of it."""
    verdict: Literal["supported", "unsupported", "no_claim"]
    """`no_claim`: it tells nothing that could be looked for, as "Yes." or "These are the steps:"."""
    support: float
    """0 … 1; 0 where it is unsupported or claims nothing."""
    quotes: list[Quote]
    """Best first. Every `[n]` in the sentence has one with that number."""


class Markers(Described):
    """What became of the numbers of sources that the model wrote, as in `[2]`."""

    kept: int = 0
    mended: int = 0
    """Wrong, and replaced by the number of the source that does support the sentence."""
    dropped: int = 0


class DroppedQuote(Described):
    """A source that would have been quoted, had its stored document not spoken against it."""

    number: int
    document_id: str
    reason: Literal["unreadable", "differs"]
    """The stored document could not be read; or it says something else there."""


class Citations(Described):
    """An answer checked against its sources, sentence by sentence."""

    text: str
    """The answer after the check; what the model wrote, and a stream sent, unless `kind` says otherwise."""
    kind: Literal["model", "mended", "quote"]
    """Who wrote the text: the model; the model, with wrong numbers of sources put right or taken out; or the documents,
    because they support nothing of what the model wrote."""
    statements: list[Statement]
    markers: Markers
    dropped: list[DroppedQuote]


class Usage(Described):
    """Tokens of the LLM."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Answer(Described):
    """An attributed answer."""

    id: str
    model_name: str
    text_output: str
    sources: list[Source]
    """In the order of their numbers. Empty where the answer is a refusal or used no documents."""
    finish_reason: Literal["stop", "length", "cancelled"]
    refused: bool
    """The documents support no answer, and `text_output` says so."""
    usage: Usage
    index_version: str | None
    cut: list[CutPassage]
    query: str | None
    """What was searched for: the question; in a conversation, beside it, the standalone question made of it."""
    timings: dict[str, float]
    """Milliseconds: `condense`, `embed`, `search`, `retrieval` (that hop), `first_token`, `generation`, `citations`,
    `total`."""
    answerability: float | None = None
    """How likely it is that the passages found answer the question, 0 … 1. None where nothing was searched for."""
    topics: list[Topic] = Field(default_factory=list)
    """Of a refusal: what the documents nearest to the question are about, nearest first."""
    citations: Citations | None = None
    """The check of the answer against its sources. None where there are no sources, or nothing was to be checked."""


class PredictResponse(Described):
    """The v1 answer, in the order of the instances."""

    predictions: list[Answer]


class SourcesEvent(Described):
    """The first event of a stream."""

    id: str
    model_name: str
    sources: list[Source]
    index_version: str | None
    cut: list[CutPassage]
    query: str | None
    timings: dict[str, float]
    answerability: float | None = None


class TextEvent(Described):
    """A piece of the answer."""

    text_output: str


class EndEvent(Described):
    """The last event of a stream. Its `sources` are the final ones: empty if the answer became a refusal.

    `citations.text` is the final answer: the pieces before it may hold numbers of sources that the check has mended.
    """

    text_output: str = ""
    finish_reason: Literal["stop", "length", "cancelled"]
    refused: bool
    sources: list[Source]
    usage: Usage
    timings: dict[str, float]
    topics: list[Topic] = Field(default_factory=list)
    citations: Citations | None = None


class Index(Described):
    """An index that is being served."""

    name: str
    """What `collections` names."""
    version: str
    documents: int
    chunks: int
    embedder: str
    """Fingerprint of what made its vectors."""
    examples: list[str]
    """Questions that its documents answer, at most 8; none where its documents suggest none."""
    reason: str | None = None
    """Why it cannot be searched now, or why a newer version was refused."""


class Indexes(Described):
    """What can be asked."""

    default: str
    """Name of the index that is searched where a question names none."""
    indexes: list[Index]
    """The default one first."""
    reason: str | None
    """Why the default one is not among them; None where it is."""


# Tensors of v2 and gRPC: name → (datatype, shape; n questions). A parameter is [1] for all questions or [n, 1].
INPUT_TENSORS = {
    "input": ("BYTES", [-1, 1]),
    "max_tokens": ("INT32", [-1, 1]),
    "temperature": ("FP32", [-1, 1]),
    "top_k": ("INT32", [-1, 1]),
    "top_p": ("FP32", [-1, 1]),
    "seed": ("UINT64", [-1, 1]),
    "repetition_penalty": ("FP32", [-1, 1]),
    "presence_penalty": ("FP32", [-1, 1]),
    "frequency_penalty": ("FP32", [-1, 1]),
    "num_docs": ("INT32", [-1, 1]),
    "retrieval": ("BOOL", [-1, 1]),
    "context": ("BYTES", [-1, 1]),
    "filters": ("BYTES", [-1, 1]),
    "collections": ("BYTES", [-1, 1]),
    "neighbours": ("INT32", [-1, 1]),
    "diversity": ("FP32", [-1, 1]),
    "refuse": ("BOOL", [-1, 1]),
    "min_score": ("FP32", [-1, 1]),
    "citations": ("BYTES", [-1, 1]),
}
OUTPUT_TENSORS = {
    "text_output": ("BYTES", [-1, 1]),
    "sources": ("BYTES", [-1, 1]),
    "finish_reason": ("BYTES", [-1, 1]),
    "refused": ("BOOL", [-1, 1]),
    "prompt_tokens": ("INT32", [-1, 1]),
    "completion_tokens": ("INT32", [-1, 1]),
    "index_version": ("BYTES", [-1, 1]),
    "timings": ("BYTES", [-1, 1]),
    "answerability": ("FP32", [-1, 1]),  # -1 where nothing was searched for
    "topics": ("BYTES", [-1, 1]),
    "citations": ("BYTES", [-1, 1]),
}


# OpenAI chat completions


class TextPart(Described):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(Described):
    """A message as OpenAI's clients send it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] | Annotated[list[TextPart], Field(max_length=64)]
    )
    name: str | None = None

    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Described):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Grounding):
    """OpenAI's chat completion request, and beside it what grounds the answer (`num_docs`, `context`, `filters` …)."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=0, le=131_072), _WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0, le=131_072), _WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000), _WHOLE] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=8)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1), _WHOLE] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1), _WHOLE] | None = None
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    user: str | None = None
    """Taken and not used, as `store` and `metadata`: clients send them by habit."""
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None


class Extras(Described):
    """What stands beside OpenAI's own fields."""

    sources: list[Source]
    index_version: str | None
    cut: list[CutPassage]
    query: str | None
    """What was searched for."""
    timings: dict[str, float]
    """Milliseconds, as of `Answer`."""
    answerability: float | None
    refused: bool
    topics: list[Topic]
    citations: Citations | None


class ChatAnswer(Described):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None
    """Of OpenAI's models. Where the documents support no answer, `refused` says so."""


class ChatChoice(Described):
    """The one answer."""

    index: Literal[0]
    message: ChatAnswer
    finish_reason: Literal["stop", "length", "cancelled"]
    logprobs: None


class ChatCompletion(Extras):
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
    finish_reason: Literal["stop", "length", "cancelled"] | None
    logprobs: None


class ChatCompletionChunk(Described):
    """An event of a stream; the line `data: [DONE]` comes after the last.

    The first has what `SourcesEvent` has, the one with a `finish_reason` what `EndEvent` has; of their fields the
    others have none.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    """Empty in the chunk of `stream_options.include_usage`, which is the last."""
    usage: Usage | None = None
    sources: list[Source] | None = None
    index_version: str | None = None
    cut: list[CutPassage] | None = None
    query: str | None = None
    timings: dict[str, float] | None = None
    answerability: float | None = None
    refused: bool | None = None
    topics: list[Topic] | None = None
    citations: Citations | None = None


class ModelCard(Described):
    """A model, as OpenAI tells it."""

    id: str
    object: Literal["model"]
    created: int
    """Unix time in seconds."""
    owned_by: str


class ModelList(Described):
    """The models of the service."""

    object: Literal["list"]
    data: list[ModelCard]


class ModelsOfBoth(ModelList):
    """KServe's list of v1 and OpenAI's in one."""

    models: list[str]


class ChatErrorDetail(Described):
    """What is wrong."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """What of the request is meant, as `messages`."""
    code: str


class ChatError(Described):
    """An error in OpenAI's shape."""

    error: ChatErrorDetail
