"""`python -m transformer`: settings → telemetry → build → run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from chassis.server import ModelService, kserve_args, serve
from chassis.settings import SettingError, load_settings
from chassis.telemetry import start_telemetry
from predictor.client import PredictorClient, PromptFormat
from predictor.errors import ModelFilesError
from transformer.alignment import Aligner
from transformer.browsing import browsing_routes
from transformer.citations import Citer
from transformer.condense import Condenser
from transformer.description import DESCRIPTION
from transformer.ensemble import EnsembleModel
from transformer.generate import generate_routes
from transformer.openai import PREFIXES, openai_error, openai_routes
from transformer.prompt import PromptBuilder
from transformer.server import TransformerModel
from transformer.service import RagService
from transformer.settings import ResponseShape, TransformerSettings
from vectorstore.client import VectorstoreClient

logger = logging.getLogger("transformer")

_MODELS: Mapping[ResponseShape, type[TransformerModel]] = {"answers": TransformerModel, "ensemble": EnsembleModel}


def build(settings: TransformerSettings) -> RagService:
    """The service of these settings.

    Raises:
        SettingError: the tokenizer cannot be used as it is, or the window is not known.
    """
    try:
        prompt_format = PromptFormat.load(settings.prompt_format)
    except ModelFilesError as error:
        told = " ".join(str(error).split())
        raise SettingError(f"TRANSFORMER_PROMPT_FORMAT: name the folder of the LLM's tokenizer. {told}") from error
    window = settings.context_tokens or prompt_format.context_tokens
    if window is None:
        raise SettingError(
            "TRANSFORMER_CONTEXT_TOKENS: the tokenizer's configuration names no window. Set it in tokens."
        )
    predictor = PredictorClient(
        settings.predictor_url, layout=settings.predictor_layout, model=settings.predictor_model
    )
    return RagService(
        model_name=settings.model_name,
        vectorstore=VectorstoreClient(settings.vectorstore_url, model=settings.vectorstore_model),
        predictor=predictor,
        prompts=PromptBuilder(
            prompt_format,
            window=window,
            max_prompt_tokens=settings.max_prompt_tokens,
            system_prompt=settings.system_prompt,
            instruction=settings.instruction,
            plain_system_prompt=settings.plain_system_prompt,
        ),
        condenser=Condenser(settings.condense, predictor, prompt_format),
        num_docs=settings.num_docs,
        min_support=settings.min_support,
        refuse=settings.refuse,
        refusal_threshold=settings.refusal_threshold,
        refusal=settings.refusal,
        frequency_penalty=settings.frequency_penalty,
        citer=Citer(
            Aligner(settings.citation_language, threshold=settings.citation_support), quote_lead=settings.quote_lead
        ),
        citations=settings.citations,
    )


def main() -> None:
    """Serves until SIGTERM. Arguments that KServe's controller adds win over the environment."""
    sent = kserve_args
    settings = load_settings(
        TransformerSettings,
        model_name=sent.model_name if sent.model_name != "model" else None,
        predictor_url=f"http{'s' if sent.predictor_use_ssl else ''}://{sent.predictor_host}"
        if sent.predictor_host
        else None,
        http_port=sent.http_port if sent.http_port != 8080 else None,
        grpc_port=sent.grpc_port if sent.grpc_port != 8081 else None,
    )
    start_telemetry("transformer", settings.log_level, settings.log_format)
    try:
        served = model_service(settings)
    except SettingError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None
    serve(served)


def model_service(settings: TransformerSettings) -> ModelService:
    """What is served with these settings. Raises SettingError as `build` does."""
    service = build(settings)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await service.aclose()

    return ModelService(
        _MODELS[settings.response_shape](service, timeout_s=settings.timeout_s),
        settings,
        routers=[
            generate_routes(service, timeout_s=settings.timeout_s),
            browsing_routes(service, timeout_s=settings.timeout_s),
            openai_routes(service, timeout_s=settings.timeout_s, default_max_tokens=settings.chat_max_tokens),
        ],
        error_shapes=dict.fromkeys(PREFIXES, openai_error),
        description=DESCRIPTION,
        lifespan=lifespan,
    )


if __name__ == "__main__":
    main()
