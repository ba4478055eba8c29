"""A service with a minimal model on the chassis. The request's `do` selects its behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from kserve import InferRequest
from pydantic_settings import SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import BusyError, InvalidRequestError, NotReadyError
from chassis.server import ModelService, ServiceModel, serve
from chassis.settings import ServerSettings, load_settings
from chassis.telemetry import start_telemetry
from chassis.tensors import metadata, per_row, read_columns, respond

MARKS = Path(sys.argv[-1])
INPUTS = {"text": "BYTES", "count": "INT32", "weight": "FP32", "flag": "BOOL"}


class EchoSettings(ServerSettings):
    model_config = SettingsConfigDict(env_prefix="ECHO_")


class EchoModel(ServiceModel):
    async def not_ready_reason(self) -> str | None:
        return MARKS.joinpath("reason").read_text() if MARKS.joinpath("reason").exists() else None

    def get_input_types(self) -> list[dict[str, Any]]:
        return metadata({name: (datatype, [-1]) for name, datatype in INPUTS.items()})

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> Any:
        ctx = CallContext.start(30, headers)
        if isinstance(payload, InferRequest):
            import numpy as np

            columns = read_columns(payload, INPUTS)
            rows = len(columns.get("text", []))
            count = per_row(columns, "count", rows)
            texts = np.array([f"{t}/{c}".encode() for t, c in zip(columns["text"], count or [0] * rows, strict=True)])
            return respond(payload, self.name, {"text": texts.astype(object).reshape(rows, 1)})
        if not isinstance(payload, dict):
            raise InvalidRequestError("not an object")
        match payload.get("do"):
            case "crash":
                raise KeyError("secret internals")
            case "busy":
                raise BusyError("queue is full", retry_after_s=3)
            case "invalid":
                raise InvalidRequestError("count: is 9, at most 5.", field="count")
            case "absent":
                raise NotReadyError("nothing here yet")
            case "hang":
                try:
                    await asyncio.sleep(30)
                finally:
                    MARKS.joinpath("cancelled").touch()
        who = ctx.principal and [ctx.principal.subject, sorted(ctx.principal.groups)]
        return {"predictions": [{"headers": ctx.outgoing_headers(), "size": len(str(payload)), "principal": who}]}


@contextlib.asynccontextmanager
async def lifespan() -> Any:
    MARKS.joinpath("opened").touch()
    if MARKS.joinpath("slow").exists():
        await asyncio.Event().wait()  # as a service whose index takes long to load
    yield
    MARKS.joinpath("closed").touch()


router = APIRouter()


@router.get("/other/crash")
async def crash() -> None:
    raise ValueError("more internals")


@router.get("/other/both")
async def read() -> None: ...


@router.post("/other/both")
async def write() -> None: ...


@router.get("/other/slowly")
async def slowly(seconds: float) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        yield "begun, "
        await asyncio.sleep(seconds)
        yield "ended"

    return StreamingResponse(parts())


if __name__ == "__main__":
    settings = load_settings(EchoSettings)
    start_telemetry("echo", settings.log_level, settings.log_format)
    serve(
        ModelService(
            EchoModel("echo"),
            settings,
            routers=[router],
            error_shapes={"/other": lambda error: {"error": {"message": error.message}}},
            lifespan=lifespan,
        )
    )
