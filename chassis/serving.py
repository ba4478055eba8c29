"""Runs an HTTP service: listener, readiness, drain, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import prometheus_client
import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Response

from chassis import tracing
from chassis.edge import Edge
from chassis.error_mapping import ErrorMapper
from chassis.errors import NotReadyError
from chassis.http_protocol import HttpProtocol
from chassis.settings import EdgeSettings, SettingError

logger = logging.getLogger("chassis.serving")

Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[None]]
NotReadyReason = Callable[[], Awaitable["str | None"]]

_IDLE_S = 5.0
"""Maximum idle time of a connection while the service drains. Other connections are closed with their next response,
which announces it, so that no request is lost."""
_DRAIN_POLL_S = 0.1
_GC_THRESHOLD = 20_000
"""New objects after which the garbage collector runs. A request makes thousands, nearly all without cycles, and with
Python's default of 700 the collector takes a twentieth of the time."""
_CERTIFICATE_POLL_S = 2.0
_HTTP_PORT, _HTTPS_PORT = 8080, 8443
"""KServe's ports. A service with a certificate that is set to the first listens on the second."""


def serve(
    app: FastAPI,
    settings: EdgeSettings,
    *,
    name: str,
    not_ready_reason: NotReadyReason | None = None,
    stopping: Callable[[], object] = lambda: None,
) -> None:
    """Serves an application behind the edge until SIGTERM or SIGINT, then finishes the requests in flight.

    Adds `GET /ready` (200, or 503 with the reason), `GET /live` and `GET /metrics`.

    Args:
        app: the application, with its own lifespan.
        settings: address and limits.
        name: the service's name in metrics and readiness.
        not_ready_reason: why the service is not ready and what to do about it; None if it is ready.
        stopping: called at shutdown, to end streams that would not end by themselves.
    """
    errors = ErrorMapper()
    errors.register(app)
    app.include_router(_health_routes(name, not_ready_reason))
    edge = Edge(app, errors, settings, name)

    async def draining() -> None:
        stopping()

    run(edge, settings, lifespan=lambda: _lifespan(app), draining=draining, stopping=stopping)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with app.router.lifespan_context(app):
        yield


def run(
    edge: Edge,
    settings: EdgeSettings,
    *,
    lifespan: Lifespan,
    draining: Callable[[], Awaitable[object]],
    stopping: Callable[[], object] = lambda: None,
) -> None:
    """Runs the server of an edge until SIGTERM, SIGINT or the end of a drain (SIGUSR1).

    Args:
        edge: the application.
        settings: address and limits.
        lifespan: entered before the listener opens, left after the last request.
        draining: awaited before a drained service exits.
        stopping: called at shutdown, before the requests in flight are finished.
    """
    secure = settings.tls_cert_file is not None
    config = uvicorn.Config(
        edge,
        http=type("Protocol", (HttpProtocol,), {"receive_timeout_s": settings.receive_timeout_s}),
        host=settings.host,
        port=_HTTPS_PORT if secure and settings.http_port == _HTTP_PORT else settings.http_port,
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=settings.grace_period_s,
        timeout_keep_alive=settings.idle_timeout_s,
        server_header=False,
        callback_notify=_notify_ready,
    )
    server = _Server(config, stopping)

    async def main() -> None:
        _stop_on_signals(server)
        gc.freeze()  # the modules; not the indexes, which the lifespan loads and replaces
        gc.set_threshold(_GC_THRESHOLD)
        async with lifespan():
            _drain_on_signal(edge, server, draining)
            _load_certificate(config)
            renewing = asyncio.create_task(_renew_certificate(config)) if secure else None
            await server.serve(_inherited_listeners(settings))
            if renewing is not None:
                renewing.cancel()

    try:
        with contextlib.suppress(asyncio.CancelledError):  # a signal during the start
            uvloop.run(main())
    except SettingError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None
    finally:
        tracing.shutdown()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: Callable[[], object]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


def _stop_on_signals(server: uvicorn.Server) -> None:
    """Lets SIGTERM and SIGINT cancel the start of the service.

    Once it serves, uvicorn handles them and raises them again after it has stopped; they have no effect then.
    """
    loop, starting = asyncio.get_running_loop(), asyncio.current_task()

    def stop(number: int, _: object) -> None:
        if starting is not None and not server.should_exit:
            logger.info("%s while starting", signal.Signals(number).name)
            loop.call_soon_threadsafe(starting.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _drain_on_signal(edge: Edge, server: uvicorn.Server, draining: Callable[[], Awaitable[object]]) -> None:
    """Drains and then exits on SIGUSR1, so that no request is lost while another process takes over.

    Closes the listening socket (a supervisor and other processes may still hold it), closes each connection with its
    next response, and closes idle connections after a while. SIGTERM closes idle connections at once, which can lose
    a request that is on its way.
    """
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    def close_idle(before: Mapping[Any, Any]) -> None:
        """Closes connections that were idle before and have received nothing since."""
        connections: set[Any] = set(server.server_state.connections)
        idle = {each: each.cycle for each in connections if each.cycle is None or each.cycle.response_complete}
        for connection, last in idle.items():
            if connection in before and before[connection] is last:
                connection.shutdown()
        loop.call_later(_IDLE_S, close_idle, idle)

    async def drain() -> None:
        logger.info("draining: every response closes its connection")
        edge.start_draining()
        for listener in server.servers:
            listener.close()
        close_idle({})
        await draining()
        while server.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(_DRAIN_POLL_S)
        server.should_exit = True

    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.append(loop.create_task(drain())))


def _load_certificate(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:  # without the files' content
        raise SettingError(f"KSERVE_TLS_CERT_FILE: the certificate or its key cannot be loaded: {error}") from error


async def _renew_certificate(config: uvicorn.Config) -> None:
    """Loads the certificate again when its files change. Connections that are open keep the earlier one."""
    files = [Path(str(config.ssl_certfile)), Path(str(config.ssl_keyfile))]
    loaded = [file.stat().st_mtime_ns for file in files]
    while True:
        await asyncio.sleep(_CERTIFICATE_POLL_S)
        try:
            modified = [file.stat().st_mtime_ns for file in files]
            if modified != loaded and config.ssl is not None:
                config.ssl.load_cert_chain(files[0], files[1])
                loaded = modified
                logger.info("the certificate has been loaded again")
        except (OSError, ssl.SSLError) as error:  # while the files are being replaced
            logger.warning("the certificate cannot be loaded again; the earlier one stays: %s", error)


def _inherited_listeners(settings: EdgeSettings) -> list[socket.socket] | None:
    """The listening socket from the parent process, or None if uvicorn must open one."""
    if settings.http_fd is None:
        return None
    try:
        listener = socket.socket(fileno=settings.http_fd)
    except OSError as error:
        raise SettingError(f"HTTP_FD: descriptor {settings.http_fd} is not an inherited socket.") from error
    logger.info("listening on %s, inherited from the parent process", listener.getsockname())
    return [listener]


async def _notify_ready() -> None:
    """Tells the supervisor at NOTIFY_SOCKET, if there is one, that the service accepts connections.

    Source: sd_notify(3)
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, contextlib.suppress(OSError):
            supervisor.sendto(b"READY=1", address.replace("@", "\0", 1))


def _health_routes(name: str, not_ready_reason: NotReadyReason | None) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/ready", summary="Ready, or 503 with the reason")
    async def ready() -> dict[str, Any]:
        reason = None if not_ready_reason is None else await not_ready_reason()
        if reason is not None:
            raise NotReadyError(reason)
        return {"name": name, "ready": True}

    @router.get("/live", summary="The process runs")
    async def live() -> dict[str, Any]:
        return {"name": name, "live": True}

    router.add_api_route("/metrics", metrics, summary="Prometheus metrics")
    return router


async def metrics() -> Response:
    """Prometheus metrics of the process."""
    return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)
