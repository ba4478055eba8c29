"""Server-sent events out of blocks of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.events import MAX_EVENT_BYTES, EventBuffer, EventStreamError, encode_event, event_data

STREAM = (
    b": a comment\n\n"
    b"data: one\n\n"
    b'event: task\nid: 3\ndata: {"text": "\xe2\x80\xa8"}\n\n'  # U+2028 ends no line
    b"data:no space\r\n\r\n"
    b"data: two\ndata: lines\n\n"
    b"retry: 5\n\n"
)
DATA = ["one", '{"text": "\u2028"}', "no space", "two\nlines"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_how_bytes_are_split(cuts: list[int]) -> None:
    buffer, data = EventBuffer(), []
    places = [0, *sorted(cuts), len(STREAM)]
    received = [buffer.feed(STREAM[begin:end]) for begin, end in itertools.pairwise(places)]
    for events in received:
        data += event_data(events)
    buffer.close()
    assert data == DATA
    assert b"".join(received) == STREAM


def test_an_encoded_event_is_read_back() -> None:
    assert list(event_data(encode_event(b"{}"))) == ["{}"]


def test_a_stream_that_ends_inside_an_event() -> None:
    buffer = EventBuffer()
    assert buffer.feed(b"data: one\n\ndata: tw") == b"data: one\n\n"
    with pytest.raises(EventStreamError, match="ended its response early"):
        buffer.close()


def test_an_endless_event_is_too_large() -> None:
    buffer = EventBuffer()
    buffer.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(EventStreamError, match="larger than"):
        buffer.feed(b"x")
