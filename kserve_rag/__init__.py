"""Question answering over private documentation: the public client, the command line, and the local graph."""

from kserve_rag.client import AsyncClient, Client
from kserve_rag.errors import ClientError, KserveRagError
from transformer.wire import Answer, EndEvent, Message, Source, SourcesEvent, TextEvent, Usage
from vectorstore.wire import Passage, Span

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "EndEvent",
    "KserveRagError",
    "Message",
    "Passage",
    "Source",
    "SourcesEvent",
    "Span",
    "TextEvent",
    "Usage",
]
