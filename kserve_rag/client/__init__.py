"""The public Python client.

    from kserve_rag import Client

    with Client("http://127.0.0.1:8080") as client:
        answer = client.ask("How do I roll back to the previous version?")
        print(answer.text_output)
        for source in answer.sources:
            print(source.number, source.title, source.url, source.span)

`AsyncClient` has the same methods as coroutines. Both use the transformer's `generate` and `generate_stream`.
"""

from kserve_rag.client.clients import AsyncClient, Client
from kserve_rag.client.protocol import Event, Parameters, SearchOptions

__all__ = ["AsyncClient", "Client", "Event", "Parameters", "SearchOptions"]
