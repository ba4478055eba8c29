"""`python -m transformer`: reads the settings, starts telemetry and runs the server."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from chassis.errors import NotFoundError
from chassis.principal import signer
from chassis.registry import RegistryError
from chassis.server import ModelService, kserve_args, serve
from chassis.settings import SettingError, load_settings
from chassis.telemetry import start_telemetry
from embedder.client import EmbedderClient
from predictor.client import EstimatedPromptFormat, PredictorClient, PromptFormat
from predictor.errors import ModelFilesError
from transformer.alignment import Aligner
from transformer.answering import Answerer
from transformer.browsing import browsing_routes
from transformer.checking import Checker
from transformer.citations import Citer
from transformer.completions import completion_routes
from transformer.condense import Condenser
from transformer.conversations import Conversations
from transformer.drop_in import ERROR_SHAPES as DROP_IN_ERROR_SHAPES
from transformer.drop_in import drop_in_routes
from transformer.embeddings import embedder_routes
from transformer.ensemble import EnsembleModel
from transformer.generate import generate_routes
from transformer.generation import Generator
from transformer.models import ModelEntry, own_model, read_models
from transformer.openai import ERROR_SHAPES, openai_routes
from transformer.prompt import PromptBuilder
from transformer.reader import Reader
from transformer.refusal import RefusalPolicy
from transformer.responses import responses_routes
from transformer.retrieval import Retriever
from transformer.server import API, TransformerModel
from transformer.service import Model, RagService
from transformer.settings import ResponseShape, TransformerSettings
from transformer.templates import PromptTemplate, Templates, read_templates
from transformer.wire import Defaults
from vectorstore.client import VectorstoreClient

logger = logging.getLogger("transformer")

_MODELS: Mapping[ResponseShape, type[TransformerModel]] = {"answers": TransformerModel, "ensemble": EnsembleModel}


def build(settings: TransformerSettings) -> RagService:
    """The service with these settings.

    Raises:
        SettingError: a tokenizer is unusable or missing, a window is unknown, or the file of models is invalid.
    """
    vectorstore = VectorstoreClient(
        settings.vectorstore_url,
        model=settings.vectorstore_model,
        forward_authorization="vectorstore" in settings.forward_authorization,
        signer=signer(settings, "vectorstore"),
    )
    aligner = Aligner(settings.citation_language, threshold=settings.citation_support)
    checker = Checker(Citer(aligner), Reader(aligner.passages), mode=settings.citations)
    secret = settings.turns_secret.get_secret_value() if settings.turns_secret else ""
    templates = Templates(
        PromptTemplate(
            description="The prompts of the settings.",
            system=settings.system_prompt,
            instruction=settings.instruction,
            plain_system=settings.plain_system_prompt,
        ),
        read_templates(settings.templates) if settings.templates is not None else {},
    )
    return RagService(
        vectorstore=vectorstore,
        models=[_model(entry, settings, vectorstore, checker, templates) for entry in _entries(settings)],
        templates=templates.cards(),
        conversations=Conversations(
            secret.encode() or secrets.token_bytes(32), limit=settings.conversations, ttl_s=settings.conversation_ttl_s
        ),
    )


def _entries(settings: TransformerSettings) -> list[ModelEntry]:
    """The service's own model first: that of the settings, unless the file has one of the same name."""
    entries = read_models(settings.models_file) if settings.models_file is not None else []
    own = [entry for entry in entries if entry.name == settings.model_name] or [own_model(settings)]
    return own + [entry for entry in entries if entry.name != settings.model_name]


def _model(
    entry: ModelEntry,
    settings: TransformerSettings,
    vectorstore: VectorstoreClient,
    checker: Checker,
    templates: Templates,
) -> Model:
    tokenizer = _tokenizer(entry) if entry.prompt_format else None
    try:
        predictor = PredictorClient(
            entry.url,
            server=entry.server,
            model=entry.model,
            prompt_format=tokenizer,
            forward_authorization=entry.forward_authorization,
            options=entry.options,
            label=entry.name if settings.models_file is not None else None,
        )
    except RegistryError as error:
        raise SettingError(f"{entry.setting('server')}: {error}") from error
    except SettingError as error:
        raise SettingError(f"{entry.where}: {error}" if entry.where else str(error)) from error
    if tokenizer is None and predictor.capabilities.prompt == "text":
        raise SettingError(
            f"{entry.setting('prompt_format')}: the LLM server {entry.server!r} takes finished prompts. Name the "
            f"folder of the LLM's tokenizer, or set {entry.setting('server')}=openai_chat if the server has "
            "/v1/chat/completions."
        )
    prompt_format = tokenizer or EstimatedPromptFormat()
    window = entry.context_tokens or prompt_format.context_tokens
    if window is None:
        raise SettingError(
            f"{entry.setting('context_tokens')}: "
            + ("the tokenizer's configuration names no window." if tokenizer else "no tokenizer names the window.")
            + " Set it in tokens."
        )
    try:
        template = templates.get(entry.template or settings.template)
    except NotFoundError as error:
        raise SettingError(f"{entry.setting('template')}: {error.message}") from error
    prompts = PromptBuilder(
        prompt_format,
        window=window,
        max_prompt_tokens=entry.max_prompt_tokens or settings.max_prompt_tokens,
        max_history_tokens=settings.max_history_tokens
        if entry.max_history_tokens is None
        else entry.max_history_tokens,
        template=template,
        plain_system_prompt=settings.plain_system_prompt,
    )
    own = entry.defaults.model_dump(exclude_none=True)
    defaults = Defaults.model_validate({**settings.model_dump(include=set(Defaults.model_fields)), **own})
    if entry.max_tokens is not None:
        defaults.max_tokens = min(defaults.max_tokens, entry.max_tokens)
    generator = Generator(predictor, stop=prompts.stop, defaults=defaults)
    return Model(
        name=entry.name,
        display_name=entry.display_name or entry.name,
        predictor=predictor,
        retriever=Retriever(
            vectorstore,
            prompts,
            templates,
            Condenser(settings.condense, predictor, prompt_format),
            RefusalPolicy(threshold=settings.refusal_threshold),
            num_docs=defaults.num_docs,
            min_support=settings.min_support,
            refuse=settings.refuse,
            timeout_s=settings.retrieval_timeout_s,
        ),
        generator=generator,
        answerer=Answerer(generator, checker, mode=defaults.answers, refusal=settings.refusal),
        defaults=defaults,
        max_tokens=entry.max_tokens,
    )


def _tokenizer(entry: ModelEntry) -> PromptFormat:
    try:
        return PromptFormat.load(entry.prompt_format or Path())
    except ModelFilesError as error:
        reason = " ".join(str(error).split())
        setting = entry.setting("prompt_format")
        raise SettingError(f"{setting}: name the folder of the LLM's tokenizer. {reason}") from error


def main() -> None:
    """Serves until SIGTERM. Arguments that KServe's controller adds override the environment."""
    args = kserve_args
    settings = load_settings(
        TransformerSettings,
        model_name=args.model_name if args.model_name != "model" else None,
        predictor_url=f"http{'s' if args.predictor_use_ssl else ''}://{args.predictor_host}"
        if args.predictor_host
        else None,
        http_port=args.http_port if args.http_port != 8080 else None,
        grpc_port=args.grpc_port if args.grpc_port != 8081 else None,
    )
    start_telemetry("transformer", settings.log_level, settings.log_format)
    try:
        served = model_service(settings)
    except SettingError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None
    serve(served)


def model_service(settings: TransformerSettings) -> ModelService:
    """The service with its routes. Raises what `build` raises."""
    service = build(settings)
    embedder = (
        EmbedderClient(
            settings.embedder_url,
            model=settings.embedder_model,
            forward_authorization="embedder" in settings.forward_authorization,
        )
        if settings.embedder_url
        else None
    )

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await service.aclose()
        if embedder is not None:
            await embedder.aclose()

    return ModelService(
        _MODELS[settings.response_shape](service, timeout_s=settings.timeout_s),
        settings,
        routers=[
            drop_in_routes(service, settings.drop_in, settings.drop_in_input, timeout_s=settings.timeout_s),
            generate_routes(service, timeout_s=settings.timeout_s),
            browsing_routes(service, timeout_s=settings.timeout_s),
            openai_routes(service, timeout_s=settings.timeout_s),
            completion_routes(service, timeout_s=settings.timeout_s),
            responses_routes(service, timeout_s=settings.timeout_s),
            embedder_routes(embedder, model=settings.embedder_model, timeout_s=settings.timeout_s),
        ],
        error_shapes={**ERROR_SHAPES, **DROP_IN_ERROR_SHAPES},
        api=API,
        lifespan=lifespan,
    )


if __name__ == "__main__":
    main()
