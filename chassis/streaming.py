"""Streams server-sent events as a response.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse

from chassis.error_mapping import ErrorShape
from chassis.errors import InternalError, ServiceError
from chassis.events import encode_event
from chassis.routes import encode

logger = logging.getLogger(__name__)

EventT = TypeVar("EventT")

_SECOND_EVENT_WAIT_S = 0.5

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def event_stream(
    events: AsyncGenerator[EventT, None],
    contents: Callable[[EventT], Sequence[Any]],
    headers: Callable[[EventT], Mapping[str, str]],
    error_shape: ErrorShape,
    *,
    end: bytes = b"",
    named: bool = False,
) -> StreamingResponse:
    """The events as a `text/event-stream` response.

    The status line waits for the first event, and up to half a second for the second, so that early errors have their
    own HTTP status. A later error is sent as the last event.

    Args:
        events: the events. The generator is always closed.
        contents: returns the JSON values to send for an event.
        headers: returns further response headers, given the first event.
        error_shape: returns the body of an error.
        end: sent after the last event.
        named: whether the JSON values are objects whose `type` is also the event's name.
    """
    try:
        first = await anext(events)
        second = asyncio.ensure_future(anext(events, None))
        try:
            await asyncio.wait({second}, timeout=_SECOND_EVENT_WAIT_S)
            if second.done():
                second.result()
        except BaseException:
            await _cancel(second)
            raise
    except BaseException:
        await events.aclose()
        raise

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield _lines(contents(first), named)
            event = await second
            while event is not None:
                yield _lines(contents(event), named)
                event = await anext(events, None)
        except ServiceError as error:
            yield _lines([error_shape(error)], named)
        except Exception:
            logger.exception("unexpected error in a stream")
            failure = InternalError("The service failed in the middle of this response.")
            yield _lines([error_shape(failure)], named)
        finally:
            await _cancel(second)
            await events.aclose()
        if end:
            yield end

    return StreamingResponse(lines(), media_type="text/event-stream", headers={**_HEADERS, **headers(first)})


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Ends a task that reads from a generator, which cannot be closed while it is being read."""
    task.cancel()
    await asyncio.wait({task})


def _lines(contents: Sequence[Any], named: bool) -> bytes:
    return b"".join(encode_event(encode(content), content["type"] if named else "") for content in contents)
