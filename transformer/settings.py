"""Settings of the transformer, from `TRANSFORMER_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import BaseUrl, ServerSettings, split
from predictor.client import LlmServerName
from text_analysis.stems import known_language
from transformer.alignment import THRESHOLD
from transformer.condense import CondenseMethod
from transformer.wire import AnswerMode, CitationMode, DropIn, DropInInput

Upstream = Literal["vectorstore", "embedder", "predictor"]
ResponseShape = Literal["answers", "ensemble"]


class TransformerSettings(ServerSettings):
    """Addresses of the upstreams, and how to answer."""

    model_config = SettingsConfigDict(env_prefix="TRANSFORMER_", extra="ignore")

    model_name: str = Field("rag", min_length=1, description="Name of the model on every protocol.")
    display_name: str = Field("", max_length=200, description="Its name for people. Default: MODEL_NAME.")
    models_file: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(
        None,
        description="YAML or JSON file with further models, which requests choose by `model` (docs/guides/models.md). "
        "Default: only the model of these settings.",
    )
    vectorstore_url: BaseUrl = Field("http://vectorstore-predictor", description="Base URL of the vectorstore.")
    vectorstore_model: str = Field("vectorstore", description="The vectorstore's model name.")
    embedder_url: Annotated[BaseUrl | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="Base URL of the embedder's HTTP port, for /v1/embeddings and /v1/rerank. Empty: neither."
    )
    embedder_model: str = Field("minilm", min_length=1, description="Model of the embedder: minilm, bert or bge_m3.")
    predictor_url: BaseUrl = Field(
        "http://predictor", description="Base URL of the LLM's server: Triton, or OpenAI-compatible, without /v1."
    )
    predictor_layout: LlmServerName = Field(
        "llmapi",
        description="LLM server (predictor/README.md): a Triton layout; for trtllm-serve, vLLM and TGI `openai`, or "
        "`openai_chat`; or Bedrock, Takeoff or Cloudera's endpoint. `openai_chat` and Bedrock need no tokenizer.",
    )
    predictor_model: str | None = Field(None, description="Model that takes text; the server's own by default.")
    forward_authorization: Annotated[tuple[Upstream, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Upstreams that get callers' Authorization header, separated by commas: `vectorstore`, `embedder`, "
        "`predictor`. Default: none.",
    )
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
        description="Maximum tokens of a prompt without earlier turns, even if the window is larger, because long "
        "prompts delay answers.",
    )
    max_history_tokens: int = Field(
        3072,
        ge=0,
        description="Maximum tokens of earlier turns in a prompt, with their passages. If they have more, the older "
        "half is dropped at once, so that the next prompts begin alike and hit the LLM server's prefix "
        "cache.",
    )
    turns_secret: SecretStr | None = Field(
        None,
        description="Key that signs the `turns` of answers. Replicas need the same key. Default: a random one at each "
        "start, so that `turns` from before a restart are rejected.",
    )
    conversations: int = Field(
        1000,
        ge=0,
        description="Maximum number of conversations kept in memory for callers that send messages without `turns`, "
        "such as OpenAI clients: each answer adds one.",
    )
    conversation_ttl_s: float = Field(3600, gt=0, description="Seconds until an unused conversation is dropped.")
    answers: AnswerMode = Field(
        "auto",
        description="Default answer mode: `quote` sentences of the documents without the LLM, have the LLM `write`, or "
        "`auto`: show the LLM's sentences that the documents support, else quote.",
    )
    num_docs: int = Field(2, ge=0, le=100, description="Default number of passages.")
    max_tokens: int = Field(512, ge=0, le=131_072, description="Default maximum number of tokens of an answer.")
    temperature: float = Field(0.1, ge=0, le=2, description="Default temperature.")
    top_k: int = Field(4, ge=0, le=1000, description="Default top_k. 0 considers every token.")
    top_p: float = Field(0.4, ge=0, le=1, description="Default top_p.")
    repetition_penalty: float | None = Field(
        None, gt=0, le=2, description="Default repetition_penalty. If unset, the LLM server's."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Default presence_penalty. If unset, the LLM server's."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Default frequency_penalty. If unset, the LLM server's."
    )
    condense: CondenseMethod = Field(
        "concatenate",
        description="How history and question become one query: `concatenate` them, or have the `llm` rewrite them.",
    )
    retrieval_timeout_s: float = Field(
        15, gt=0, description="Maximum seconds for the vectorstore to return passages, within the request's deadline."
    )
    min_support: float = Field(
        0.42,
        ge=-1,
        le=2,
        description="Support (vectorstore/wire.py) below which a passage is left out of the prompt if there are better "
        "ones. -1 keeps every passage.",
    )
    refuse: bool = Field(True, description="Whether to refuse questions that the passages probably do not answer.")
    refusal_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Answerability below which a question is refused. Default: the threshold of the index's "
        "calibration, else a low one that suits any index.",
    )
    response_shape: ResponseShape = Field(
        "answers",
        description="Shape of v1 answers: `answers`, or the earlier graph's `ensemble`, which also adds its v2 request "
        "for finished prompts (transformer/ensemble.py).",
    )
    drop_in: Annotated[frozenset[DropIn], NoDecode, BeforeValidator(split)] = Field(
        frozenset(),
        description="Earlier LLM servers whose routes are served, for their clients: `takeoff` (`/generate`, "
        "`/generate_stream`) and `cml` (`/model`), separated by commas.",
    )
    drop_in_input: DropInInput = Field(
        "prompt",
        description="What these clients send: a finished `prompt`, which the LLM completes without retrieval, or a "
        "`question`, which is answered from the documents.",
    )
    system_prompt: str = Field(
        "You answer questions from documents. Answer in one short sentence.",
        description="Instructions to the model before the documents.",
    )
    instruction: str = Field(
        'Answer from the documents above, in one short sentence. If they do not answer it, say "I don\'t know".',
        description="Instructions to the model after the documents, where small models follow them better.",
    )
    plain_system_prompt: str = Field(
        "You are a helpful assistant. Be brief and exact.",
        description="Instructions to the model for questions without documents.",
    )
    templates: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(
        None,
        description="Folder with prompt templates, one YAML file each (docs/guides/several-models.md). Default: only "
        "the one of SYSTEM_PROMPT, INSTRUCTION and PLAIN_SYSTEM_PROMPT, named `default`.",
    )
    template: str = Field("default", description="Name of the prompt template of questions that name none.")
    refusal: str | None = Field(
        None,
        min_length=1,
        description="Text of a refusal. Default: a sentence in the question's language.",
    )
    citations: CitationMode = Field(
        "label",
        description="Check of answers: `label` unsupported sentences, or `off`, which also turns `auto` into `write`.",
    )
    citation_support: float = Field(
        THRESHOLD, gt=0, le=1, description="Minimum support with which a span of a source is quoted for a sentence."
    )
    citation_language: Annotated[str, AfterValidator(known_language)] = Field(
        "english", description="Snowball stemmer for comparing words."
    )
