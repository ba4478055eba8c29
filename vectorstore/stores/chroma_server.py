"""A Chroma server over HTTP: a collection for each index version, searched by HNSW with cosine distance.

Source: the server's own description of its API v2, at `/openapi.json`. Chroma's Python client waits without a limit,
and shares its connections between settings, so its routes are called directly.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import BaseUrl, read_settings
from vectorstore.errors import StoreFailedError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, Record, VersionRef, chroma_filters
from vectorstore.stores.batches import BatchWriter, ranked
from vectorstore.stores.chroma_records import WHOLE, metric_of, records
from vectorstore.stores.filters import FieldValue, Where

logger = logging.getLogger(__name__)

_PREFIX = "VECTORSTORE_CHROMA_SERVER_"


class ChromaServerSettings(BaseSettings):
    """Settings of the store, for building and for searching."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)

    url: BaseUrl = Field("http://127.0.0.1:8000", description="Base URL of the server (Chroma 1.0 or later).")
    tenant: str = Field("default_tenant", min_length=1, description="Tenant; it must exist.")
    database: str = Field("default_database", min_length=1, description="Database of the tenant; it must exist.")
    token: SecretStr | None = Field(None, min_length=1, description="Token for the gateway before the server, if any.")
    token_header: Literal["Authorization", "X-Chroma-Token"] = Field(
        "Authorization", description="Header of the token. Authorization: as a Bearer token."
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) that verify an https URL; by default those of the system."
    )
    timeout_s: float = Field(30, gt=0, le=3600, description="Maximum wait for a response, in seconds.")
    search_width: int = Field(
        200, ge=1, le=10_000, description="HNSW's ef_search when a version is built: candidates during a search."
    )


class ChromaServerStore:
    """The store type."""

    name = "chroma_server"
    settings: type[BaseSettings] = ChromaServerSettings

    def create(self, version: VersionRef, dimension: int) -> ChromaServerWriter:
        """A new collection."""
        settings = read_settings(ChromaServerSettings)
        server = _Server(settings)
        hnsw = {"space": "cosine", "ef_search": settings.search_width}
        try:
            made = server.call("POST", "", {"name": version.collection, "configuration": {"hnsw": hnsw}})
        except BaseException:
            server.close()
            raise
        return ChromaServerWriter(server, version, made["id"], dimension)

    def open(self, version: VersionRef) -> ChromaServerReader:
        """The version's collection."""
        server = _Server(read_settings(ChromaServerSettings))
        try:
            found = server.call("GET", f"/{version.collection}")
            space = ((found.get("configuration_json") or {}).get("hnsw") or {}).get("space")
            if space != "cosine":
                raise StoreFailedError(
                    f"Collection {version.collection!r} of the Chroma server has the metric {space}, not cosine: fill "
                    "it again."
                )
            return ChromaServerReader(server, found["id"], found.get("dimension"))
        except BaseException:
            server.close()
            raise

    def drop(self, version: VersionRef) -> None:
        """Removes the collection."""
        server = _Server(read_settings(ChromaServerSettings))
        try:
            server.call("DELETE", f"/{version.collection}", missing={})
        finally:
            server.close()

    def attach(self, collection: str) -> ExistingChromaServer:
        """A collection of the server."""
        server = _Server(read_settings(ChromaServerSettings))
        try:
            return ExistingChromaServer(server, server.call("GET", f"/{quote(collection, safe='')}"))
        except BaseException:
            server.close()
            raise


class ChromaServerWriter(BatchWriter):
    """Adds rows to a collection, whose ids are row numbers in decimal."""

    def __init__(self, server: _Server, version: VersionRef, collection: str, dimension: int) -> None:
        super().__init__(dimension)
        self._server = server
        self._version = version
        self._collection = collection

    def finish(self) -> None:
        """Writes the last batch."""
        self.flush()
        self._server.close()

    def discard(self) -> None:
        """Removes the collection."""
        self._server.close()
        STORE.drop(self._version)

    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Adds a batch."""
        rows = {
            "ids": [str(first + i) for i in range(len(vectors))],
            "embeddings": vectors,
            "metadatas": [dict(mapping) or None for mapping in metadata],
        }
        self._server.call("POST", f"/{self._collection}/add", rows)


class ChromaServerReader:
    """Searches a collection."""

    def __init__(self, server: _Server, collection: str, dimension: int | None) -> None:
        self._server = server
        self._path = f"/{collection}"
        self._dimension = dimension
        """None if the collection is empty."""
        self._rows = self.count()

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """Approximate nearest neighbours; all queries in one request."""
        allowed = None if mask is None else [str(row) for row in np.flatnonzero(mask)]
        if not len(queries) or not limit or not self._rows or allowed == []:
            return [NO_HITS for _ in queries]
        if queries.shape[1] != self._dimension:
            raise StoreFailedError(
                f"The collection on the Chroma server has {self._dimension} dimensions, but the queries have "
                f"{queries.shape[1]}: fill it again."
            )
        chroma_filters.check(where)
        query = {"query_embeddings": queries, "n_results": min(limit, self._rows), "include": ["distances"]}
        optional = {"where": where, "ids": allowed}
        query |= {name: value for name, value in optional.items() if value is not None}
        found = self._server.call("POST", f"{self._path}/query", query)
        try:
            return [
                ranked(ids, 1 - np.asarray(distances, np.float32))
                for ids, distances, _ in zip(found["ids"], found["distances"], queries, strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreFailedError("The Chroma server sent an invalid search result.") from error

    def count(self, where: Where | None = None) -> int:
        """Rows of the collection."""
        if where is None:
            return int(self._server.call("GET", f"{self._path}/count"))
        chroma_filters.check(where)
        return len(self._server.call("POST", f"{self._path}/get", {"where": where, "include": []})["ids"])

    def health(self) -> None:
        """Asks the server for its count."""
        self.count()

    def close(self) -> None:
        """Closes the connections."""
        self._server.close()


class ExistingChromaServer:
    """A collection that another program filled."""

    def __init__(self, server: _Server, description: Mapping[str, Any]) -> None:
        self._server = server
        self._path = f"/{description['id']}"
        self.metric = metric_of(description.get("configuration_json"), description.get("metadata"))
        self.dimension = int(description.get("dimension") or 0)

    def count(self) -> int:
        """Records of the collection."""
        return int(self._server.call("GET", f"{self._path}/count"))

    def sample(self, limit: int) -> list[Record]:
        """The first records."""
        return self._get({"limit": limit})

    def fetch(self, record_id: str) -> Record | None:
        """The record with this id."""
        return next(iter(self._get({"ids": [record_id]})), None)

    def search(self, queries: Vectors, *, limit: int, where: Where | None) -> list[list[Record]]:
        """Approximate nearest neighbours; all queries in one request."""
        chroma_filters.check(where)
        query = {"query_embeddings": queries, "n_results": limit, "include": WHOLE}
        found = self._server.call("POST", f"{self._path}/query", query if where is None else {**query, "where": where})
        return [records(*each) for each in zip(found["ids"], *(found[name] for name in WHOLE), strict=True)]

    def _get(self, what: Mapping[str, object]) -> list[Record]:
        found = self._server.call("POST", f"{self._path}/get", {**what, "include": WHOLE})
        return records(found["ids"], *(found[name] for name in WHOLE))

    def close(self) -> None:
        """Closes the connections."""
        self._server.close()


class _Server:
    """The collections of one database. Thread-safe."""

    def __init__(self, settings: ChromaServerSettings) -> None:
        self._settings = settings
        headers = {"Content-Type": "application/json"}
        if settings.token is not None:
            token = settings.token.get_secret_value()
            bearer = settings.token_header == "Authorization"  # noqa: S105 - the name of a header
            headers[settings.token_header] = f"Bearer {token}" if bearer else token
        tenant, database = quote(settings.tenant, safe=""), quote(settings.database, safe="")
        self._path = f"{settings.url.rstrip('/')}/api/v2/tenants/{tenant}/databases/{database}/collections"
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise StoreFailedError(
                f"{_PREFIX}CA_FILE={settings.ca_file}: {error.strerror or 'no certificates'}."
            ) from error
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, verify=context, trust_env=False)

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None, missing: Any = None) -> Any:
        """The JSON of a response; `missing` if it is not None and there is no such collection."""
        url = self._settings.url
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        try:
            response = self._client.request(method, self._path + path, content=content)
        except httpx.TimeoutException as error:
            raise StoreFailedError(
                f"The Chroma server at {url} did not answer within {self._settings.timeout_s:g} s ({_PREFIX}TIMEOUT_S)."
            ) from error
        except httpx.TransportError as error:
            raise StoreFailedError(
                f"The Chroma server at {url} cannot be reached: check that it runs, {_PREFIX}URL and, for https, "
                f"{_PREFIX}CA_FILE."
            ) from error
        status = response.status_code
        if status in (401, 403):
            raise StoreFailedError(f"The Chroma server at {url} refused the credentials: check {_PREFIX}TOKEN.")
        # Chroma 1.5.9 answers 400 to a POST if the database is missing.
        if status == 404 or (status == 400 and b"does not exist" in response.content):
            if missing is not None:
                return missing
            raise StoreFailedError(
                f"The Chroma server at {url} has no such collection, database or tenant: check {_PREFIX}DATABASE and "
                f"{_PREFIX}TENANT. If the collection was lost, fill it again."
            )
        if not response.is_success:
            logger.warning("the Chroma server answered %d: %s", status, response.text[:500])
            raise StoreFailedError(f"The Chroma server at {url} answered with status {status}.")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise StoreFailedError(f"{url} is not a Chroma server: check {_PREFIX}URL.") from error

    def close(self) -> None:
        self._client.close()


STORE = ChromaServerStore()
