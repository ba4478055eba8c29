"""Settings of the transformer, from `TRANSFORMER_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from chassis.settings import BaseUrl, ServerSettings
from predictor.client import LlmServerName
from text_analysis.stems import known_language
from transformer.alignment import THRESHOLD
from transformer.condense import CondenseMethod
from transformer.wire import AnswerMode, CitationMode

ResponseShape = Literal["answers", "ensemble"]


class TransformerSettings(ServerSettings):
    """Addresses of the upstreams, and how to answer."""

    model_config = SettingsConfigDict(env_prefix="TRANSFORMER_", extra="ignore")

    model_name: str = Field("rag", min_length=1, description="Name of the model on every protocol.")
    vectorstore_url: BaseUrl = Field("http://vectorstore-predictor", description="Base URL of the vectorstore.")
    vectorstore_model: str = Field("vectorstore", description="The vectorstore's model name.")
    predictor_url: BaseUrl = Field(
        "http://predictor", description="Base URL of the LLM's server: Triton, or OpenAI-compatible, without /v1."
    )
    predictor_layout: LlmServerName = Field(
        "llmapi",
        description="LLM server (predictor/README.md): a Triton layout; for trtllm-serve, vLLM and TGI `openai`, or "
        "`openai_chat`, which needs no tokenizer.",
    )
    predictor_model: str | None = Field(None, description="Model that takes text; the server's own by default.")
    prompt_format: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(
        None,
        description="Folder with the LLM's tokenizer.json and tokenizer_config.json (chat template). Empty: tokens are "
        "estimated, which needs CONTEXT_TOKENS and a server that takes messages (`openai_chat`).",
    )
    context_tokens: int | None = Field(
        None, ge=128, description="The LLM's window in tokens. Default: the value in its tokenizer_config.json."
    )
    max_prompt_tokens: int = Field(
        3072,
        ge=128,
        description="Maximum tokens of a prompt without its earlier turns, even in a larger window: long prompts delay "
        "answers.",
    )
    max_history_tokens: int = Field(
        3072,
        ge=0,
        description="Maximum tokens of earlier turns in a prompt, with their passages. When they are full, the older "
        "half is left out, so that the LLM server's prefix cache holds the beginning for a while again.",
    )
    turns_secret: SecretStr | None = Field(
        None,
        description="Signs the `turns` of answers. Replicas need the same secret. Default: a random one at each "
        "start, which refuses `turns` of earlier starts.",
    )
    conversations: int = Field(
        1000,
        ge=0,
        description="Maximum number of conversations kept in memory for callers that send messages without `turns`, "
        "such as OpenAI clients: each answer adds one.",
    )
    conversation_ttl_s: float = Field(
        3600, gt=0, description="Seconds until a kept conversation that is not used is dropped."
    )
    answers: AnswerMode = Field(
        "auto",
        description="How questions are answered that name no mode: `quote` sentences of the documents without the LLM, "
        "have the LLM `write`, or `auto`: show what the LLM writes as far as the documents support it, else quote.",
    )
    num_docs: int = Field(2, ge=0, le=100, description="Number of passages, unless the request sets num_docs.")
    max_tokens: int = Field(512, ge=0, le=131_072, description="Maximum tokens of an answer. A request overrides it.")
    temperature: float = Field(0.1, ge=0, le=2, description="temperature where a request names none.")
    top_k: int = Field(4, ge=0, le=1000, description="top_k where a request names none. 0 considers every token.")
    top_p: float = Field(0.4, ge=0, le=1, description="top_p where a request names none.")
    repetition_penalty: float | None = Field(
        None, gt=0, le=2, description="repetition_penalty where a request names none. By default the LLM server's."
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="presence_penalty likewise.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="frequency_penalty likewise.")
    condense: CondenseMethod = Field(
        "concatenate",
        description="How history and question become one query: `concatenate` them, or have the `llm` rewrite.",
    )
    min_support: float = Field(
        0.42,
        ge=-1,
        le=2,
        description="Support (vectorstore/wire.py) below which a passage is not shown to the model while there are "
        "better ones. -1 shows every passage.",
    )
    refuse: bool = Field(True, description="Whether a question is refused that the passages seem not to answer.")
    refusal_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Answerability below which a question is refused. By default what the calibration of the index "
        "says, else a careful value for any index.",
    )
    response_shape: ResponseShape = Field(
        "answers",
        description="Shape of v1 answers: `answers`, or `ensemble` as the earlier graph's, which then also has its v2 "
        "request for finished prompts (transformer/ensemble.py).",
    )
    system_prompt: str = Field(
        "You answer questions from documents. Answer in one short sentence.",
        description="Instructions to the model before the documents.",
    )
    instruction: str = Field(
        'Answer from the documents above, in one short sentence. If they do not answer it, say "I don\'t know".',
        description="Instructions to the model after the documents: small models follow them better there.",
    )
    plain_system_prompt: str = Field(
        "You are a helpful assistant. Be brief and exact.",
        description="Instructions to the model if no documents are used.",
    )
    refusal: str | None = Field(
        None,
        min_length=1,
        description="The answer where the passages support none. By default a sentence in the question's language.",
    )
    citations: CitationMode = Field(
        "label",
        description="How answers are checked: `off`, or `label` unsupported sentences. `off` makes `auto` `write`.",
    )
    citation_support: float = Field(
        THRESHOLD, gt=0, le=1, description="Support from which a span of a source is a quote for a sentence."
    )
    citation_language: Annotated[str, AfterValidator(known_language)] = Field(
        "english", description="Snowball stemmer with which words are compared."
    )
