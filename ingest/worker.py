"""The child process that parses and chunks files, so that a malicious file cannot harm the run or the machine.

    python -m ingest.worker <settings as JSON>

It reads requests from standard input and writes responses to standard output, as frames: the length in 4 bytes, little-
endian, then JSON. A request is a `SourceFile` as JSON. Its response is any number of `{"document"}` and `{"notice"}`
frames, then `{"end": null}`, or `{"end": reason}` if the file or the rest of it was skipped. The first frame of all is
`{"ready": true}`, or `{"error": …}` if the process cannot start.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import orjson

from embedder.tokens import TokenCounter
from ingest.chunking import ChunkedDocument, Chunker, ChunkSettings
from ingest.errors import IngestError, SkippedFileError
from ingest.loaders import Limits, Notice, SourceFile, load
from ingest.loaders.document import web_address

LENGTH = struct.Struct("<I")


def main(arguments: list[str]) -> int:
    """Handles requests until standard input ends."""
    settings = orjson.loads(arguments[0])
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Keep output of libraries out of the frames.
    os.dup2(2, 1)
    memory_bytes = settings["memory_bytes"]
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        tokens = TokenCounter.load(Path(settings["tokenizer"]))
        chunker = Chunker(ChunkSettings(**settings["chunks"]), tokens)
    except (ValueError, IngestError) as error:
        _send(answers, {"error": str(error)})
        return 1
    limits = Limits(**settings["limits"])
    _send(answers, {"ready": True})
    while (request := receive(requests)) is not None:
        _send(answers, {"end": _answer(SourceFile.from_json(request), limits, chunker, answers)})
    return 0


def receive(stream: IO[bytes]) -> Any:
    """The next frame; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return orjson.loads(stream.read(LENGTH.unpack(head)[0]))


def frame(message: Any) -> bytes:
    """The message as a frame."""
    body = orjson.dumps(message)
    return LENGTH.pack(len(body)) + body


def _answer(file: SourceFile, limits: Limits, chunker: Chunker, answers: IO[bytes]) -> str | None:
    """Sends the content of one file. Returns the reason if it was skipped."""
    try:
        for item in load(file, limits):
            if isinstance(item, Notice):
                _send(answers, {"notice": item.text})
                continue
            spans = list(chunker.spans(item))
            url = _url(file, item.url)
            document = ChunkedDocument(item.id, item.text, item.title, url, dict(item.metadata), spans)
            _send(answers, {"document": document})
    except SkippedFileError as error:
        return str(error)
    except MemoryError:
        return "needs more memory than the parser may use (INGEST_PARSER_MEMORY_BYTES)"
    return None


def _url(file: SourceFile, own: str | None) -> str | None:
    """A document's own URL, relative to that of its file; or the file's."""
    try:
        own = urljoin(file.url or "", own or "")
    except ValueError:
        own = None
    return web_address(own) or web_address(file.url)


def _send(stream: IO[bytes], message: Any) -> None:
    stream.write(frame(message))
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
