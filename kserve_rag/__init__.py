"""Question answering over private documentation: the command line, the launcher, and the public Client."""

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
