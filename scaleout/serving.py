"""The services as deployments of Ray Serve: `scaleout.serving:vectorstore` and `scaleout.serving:transformer`.

A replica runs the same REST application as `python -m vectorstore` or `python -m transformer`, with the same routes,
limits, errors and settings; the variables come from `runtime_env` in the Serve config file (serve.yaml). Ray's proxy
owns the address, and there is no gRPC.

Source: https://docs.ray.io/en/latest/serve/api/doc/ray.serve.ingress.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.server import ModelService, application
from chassis.settings import ServerSettings, read_settings
from chassis.telemetry import start_telemetry
from scaleout.health import REPLACED_AFTER_S, Health
from transformer.__main__ import model_service as transformer_service
from transformer.settings import TransformerSettings
from vectorstore.__main__ import model_service as vectorstore_service
from vectorstore.settings import VectorstoreSettings

SettingsT = TypeVar("SettingsT", bound=ServerSettings)


def vectorstore(arguments: dict[str, Any]) -> Application:
    """The vectorstore. An invalid setting fails the deployment before any replica starts.

    Raises:
        SettingError: a variable is invalid.
    """
    return _deployed("Vectorstore", vectorstore_service, VectorstoreSettings, arguments)


def transformer(arguments: dict[str, Any]) -> Application:
    """The transformer. See `vectorstore`."""
    return _deployed("Transformer", transformer_service, TransformerSettings, arguments)


def _deployed(
    name: str, model_service: Callable[[SettingsT], ModelService], kind: type[SettingsT], arguments: dict[str, Any]
) -> Application:
    if arguments:
        raise ValueError(f"args: {', '.join(arguments)}: set variables in the application's runtime_env instead.")
    settings = read_settings(kind)
    deployment: Any = serve.deployment(
        serve.ingress()(Replica), name=name, graceful_shutdown_timeout_s=float(settings.grace_period_s)
    )
    bound: Application = deployment.bind(name.lower(), model_service, settings)
    return bound


class Replica:
    """One process of a service."""

    def __init__(
        self, name: str, model_service: Callable[[ServerSettings], ModelService], settings: ServerSettings
    ) -> None:
        start_telemetry(name, settings.log_level, settings.log_format)
        self._service = model_service(settings)
        self._health = Health()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray once per replica. Ray runs the lifespan."""
        return _without_prefix(application(self._service))

    def reconfigure(self, user_config: dict[str, float]) -> None:
        """Applies `replaced_after_s`: Ray replaces a replica that is not ready for this many seconds."""
        self._health.replaced_after_s = float(user_config.get("replaced_after_s", REPLACED_AFTER_S))

    async def check_health(self) -> None:
        """Called by Ray every few seconds. Raises UnreadyError if Ray should replace this replica."""
        self._health.check(await self._service.model.not_ready_reason(), time.monotonic())


def _without_prefix(app: ASGIApp) -> ASGIApp:
    """Removes the `route_prefix` of the deployment from the paths."""

    async def at_root(scope: Scope, receive: Receive, send: Send) -> None:
        prefix = scope.get("root_path", "")
        if prefix:
            scope = {**scope, "path": scope["path"][len(prefix) :] or "/", "root_path": ""}
        await app(scope, receive, send)

    return at_root
