"""Reads and writes server-sent events as bytes. Needs no web framework, so the public client can use it too.

`str.splitlines` and httpx's `iter_lines` cannot be used: they also split at U+2028, which JSON may contain.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_EVENT_BYTES = 8 * 1024 * 1024
_ENDS = (b"\n\n", b"\r\n\r\n")


class EventStreamError(ValueError):
    """The stream ended inside an event, or an event exceeds `MAX_EVENT_BYTES`. Its text completes 'The server …'."""


class EventBuffer:
    """Regroups the blocks of a stream into complete events."""

    def __init__(self) -> None:
        self._incomplete = b""

    def feed(self, block: bytes) -> bytes:
        """The bytes of the events that `block` completes. Raises EventStreamError if the next event is too large."""
        received = self._incomplete + block
        end = max((received.rfind(mark) + len(mark) for mark in _ENDS if mark in received), default=0)
        self._incomplete = received[end:]
        if len(self._incomplete) > MAX_EVENT_BYTES:
            raise EventStreamError(f"sent an event larger than {MAX_EVENT_BYTES} bytes")
        return received[:end]

    def close(self) -> None:
        """Call it at the end of the stream. Raises EventStreamError if an event is incomplete."""
        if self._incomplete.strip():
            raise EventStreamError("ended its response early")


def event_data(events: bytes) -> Iterator[str]:
    """The `data` of each complete event. Comments and events without data are skipped."""
    for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            yield b"\n".join(lines).decode("utf-8", "replace")


def encode_event(data: bytes, name: str = "") -> bytes:
    """An event with this `data`, and this name if there is one. Neither may contain line breaks."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"
