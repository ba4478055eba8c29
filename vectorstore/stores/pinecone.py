"""Pinecone: a namespace of an existing serverless index for each index version.

Source: https://docs.pinecone.io/reference/api/2025-10. Its routes are called directly: the official client takes 11 MB.

Filters give the rows of `filters.matches`: a row's `facets` are digests of each name with its value, and each number is
a field of its own, named by a digest. Pinecone is eventually consistent: `finish` waits until all rows are visible, and
only then writes the version's marker, a record of the namespace `kserve-rag-versions`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import BaseUrl, read_settings
from vectorstore.errors import StoreFailedError, UnsupportedFilterError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, Record, VersionRef
from vectorstore.stores.batches import BatchWriter, ranked
from vectorstore.stores.facets import digest, facet
from vectorstore.stores.filters import FieldValue, Where

logger = logging.getLogger(__name__)

_PREFIX = "VECTORSTORE_PINECONE_"
_API_VERSION = "2025-10"
_MARKERS = "kserve-rag-versions"

_MAX_HITS = 10_000
_MAX_RECORDS = 1_000
"""Maximum `topK`, without and with values. Source: https://docs.pinecone.io/reference/api/database-limits"""
_BATCH_NUMBERS = 80_000
"""1 MB as JSON; an upsert may have 2 MB."""
_EXACT_INTEGERS = 2**53
"""Pinecone compares numbers as float64."""
_EVERY_ROW = "*"
"""A facet that all rows have, so that `$nin` does not depend on a missing field."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_QUERIES_AT_ONCE = 8


class PineconeSettings(BaseSettings):
    """Settings of the store, for building and for searching."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)

    index: str = Field("", description="Name of the index. It must exist, with the metric cosine or dotproduct.")
    api_key: SecretStr | None = Field(None, min_length=1, description="API key.")
    api_key_file: Path | None = Field(None, description="File with the API key, such as a mounted Secret.")
    control_url: BaseUrl = Field("https://api.pinecone.io", description="Base URL of the control plane.")
    timeout_s: float = Field(30, gt=0, le=3600, description="Maximum wait for a response, in seconds.")
    visible_within_s: float = Field(
        300, gt=0, le=86_400, description="Maximum wait until the rows of a new version are visible, in seconds."
    )

    @model_validator(mode="after")
    def _one_key(self) -> PineconeSettings:
        if (self.api_key is None) == (self.api_key_file is None):
            raise ValueError(f"set one of {_PREFIX}API_KEY and {_PREFIX}API_KEY_FILE")
        if not self.index:
            raise ValueError(f"set {_PREFIX}INDEX to the name of the index")
        return self

    def key(self) -> str:
        """The API key. Raises StoreFailedError if its file cannot be read."""
        if self.api_key_file is None:
            return self.api_key.get_secret_value() if self.api_key else ""
        try:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise StoreFailedError(f"{_PREFIX}API_KEY_FILE={self.api_key_file} cannot be read.") from error


class PineconeStore:
    """The store type."""

    name = "pinecone"
    settings: type[BaseSettings] = PineconeSettings

    def create(self, version: VersionRef, dimension: int) -> PineconeWriter:
        """A namespace, which exists from its first row on."""
        server = _Server()
        try:
            server.check(dimension)
        except BaseException:
            server.close()
            raise
        return PineconeWriter(server, version, dimension)

    def open(self, version: VersionRef) -> PineconeReader:
        """The version's namespace."""
        server = _Server()
        try:
            if not server.fetch(_MARKERS, version.collection):
                raise StoreFailedError(
                    f"The index {server.index!r} of Pinecone has no complete namespace {version.collection!r}: fill it "
                    "again."
                )
            return PineconeReader(server, version.collection)
        except BaseException:
            server.close()
            raise

    def drop(self, version: VersionRef) -> None:
        """Removes the marker, then the namespace."""
        server = _Server()
        try:
            server.data("POST", "/vectors/delete", {"ids": [version.collection], "namespace": _MARKERS}, missing={})
            server.data("DELETE", f"/namespaces/{quote(version.collection, safe='')}", missing={})
        finally:
            server.close()

    def attach(self, collection: str) -> ExistingPinecone:
        """A namespace that another program filled; `__default__` is the one without a name."""
        server = _Server()
        try:
            return ExistingPinecone(server, collection)
        except BaseException:
            server.close()
            raise


class PineconeWriter(BatchWriter):
    """Upserts rows, whose ids are row numbers in decimal."""

    def __init__(self, server: _Server, version: VersionRef, dimension: int) -> None:
        super().__init__(dimension, numbers=_BATCH_NUMBERS)
        self._server = server
        self._version = version
        self._dimension = dimension

    def finish(self) -> None:
        """Writes the last batch, waits until all rows are visible, and marks the version as complete."""
        self.flush()
        server, name = self._server, self._version.collection
        server.wait(lambda: server.count(name) >= self._written)
        marker = {"id": name, "values": np.eye(1, self._dimension, dtype=np.float32)[0]}
        server.data("POST", "/vectors/upsert", {"vectors": [marker], "namespace": _MARKERS})
        server.wait(lambda: bool(server.fetch(_MARKERS, name)))
        server.close()

    def discard(self) -> None:
        """Removes the namespace."""
        self._server.close()
        STORE.drop(self._version)

    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Upserts a batch."""
        rows = [
            {
                "id": str(first + i),
                "values": vector,
                "metadata": {
                    "facets": [_EVERY_ROW, *(facet(name, value) for name, value in fields.items())],
                    **{
                        digest(name): value
                        for name, value in fields.items()
                        if isinstance(value, int | float) and not isinstance(value, bool)
                    },
                },
            }
            for i, (vector, fields) in enumerate(zip(vectors, metadata, strict=True))
        ]
        self._server.data("POST", "/vectors/upsert", {"vectors": rows, "namespace": self._version.collection})


class PineconeReader:
    """Searches a namespace."""

    def __init__(self, server: _Server, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._rows = self.count()
        self._threads = ThreadPoolExecutor(_QUERIES_AT_ONCE, thread_name_prefix="pinecone")

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """Approximate nearest neighbours, at most 10,000 per query; one request per query."""
        if not len(queries) or not limit or not self._rows or (mask is not None and not mask.any()):
            return [NO_HITS for _ in queries]
        self._server.check(queries.shape[1])
        # A query cannot name ids. With a mask, ask for all rows, and remove the others here.
        asked = min(self._rows if mask is not None else limit, self._rows, _MAX_HITS)
        condition = None if where is None else _condition(where)

        def hits(query: Vectors) -> Hits:
            found = self._server.query(self._namespace, query, asked, condition)
            try:
                rows = np.array([int(match["id"]) for match in found], np.int64)
                scores = np.array([match["score"] for match in found], np.float32)
            except (KeyError, TypeError, ValueError) as error:
                raise StoreFailedError("Pinecone sent rows that are not of this version.") from error
            if mask is not None:
                kept = mask[rows]
                rows, scores = rows[kept], scores[kept]
                if len(found) == _MAX_HITS and len(rows) < limit:
                    raise UnsupportedFilterError("Pinecone cannot search among some rows of a large namespace.")
            ordered = ranked(rows, scores)
            return Hits(ordered.rows[:limit], ordered.scores[:limit])

        return list(self._threads.map(hits, queries))

    def count(self, where: Where | None = None) -> int:
        """Rows of the namespace."""
        if where is None:
            return self._server.count(self._namespace)
        if not self._rows:
            return 0
        any_vector = np.ones(self._server.dimension, np.float32)
        found = len(self._server.query(self._namespace, any_vector, _MAX_HITS, _condition(where)))
        if found == _MAX_HITS:
            raise UnsupportedFilterError(f"Pinecone cannot count more than {_MAX_HITS:,} rows with a filter.")
        return found

    def health(self) -> None:
        """Asks Pinecone for its count."""
        self.count()

    def close(self) -> None:
        """Closes the connections."""
        self._threads.shutdown(wait=False)
        self._server.close()


class ExistingPinecone:
    """A namespace that another program filled."""

    def __init__(self, server: _Server, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self.metric, self.dimension = server.metric, server.dimension
        if not self.count():
            raise StoreFailedError(
                f"The index {server.index!r} of Pinecone has no records in the namespace {namespace!r}; it has the "
                f"namespaces: {', '.join(sorted(server.namespaces())) or 'none'}."
            )

    def count(self) -> int:
        """Records of the namespace."""
        return self._server.count(self._namespace)

    def sample(self, limit: int) -> list[Record]:
        """The records nearest to any vector, at most 20: a response may have 4 MB."""
        return self._records(np.ones(self.dimension, np.float32), min(limit, 20), None)

    def fetch(self, record_id: str) -> Record | None:
        """The record with this id."""
        found = self._server.fetch(self._namespace, record_id)
        return _record(found) if found else None

    def search(self, queries: Vectors, *, limit: int, where: Where | None) -> list[list[Record]]:
        """Approximate nearest neighbours, at most 1,000 per query; one request per query."""
        return [self._records(query, min(limit, _MAX_RECORDS), where) for query in queries]

    def _records(self, query: Vectors, limit: int, where: Where | None) -> list[Record]:
        return [_record(match) for match in self._server.query(self._namespace, query, limit, where, whole=True)]

    def close(self) -> None:
        """Closes the connections."""
        self._server.close()


class _Server:
    """One index of Pinecone. Thread-safe."""

    def __init__(self) -> None:
        """Asks the control plane where the index is."""
        self._settings = settings = read_settings(PineconeSettings)
        headers = {
            "Api-Key": settings.key(),
            "X-Pinecone-Api-Version": _API_VERSION,
            "Content-Type": "application/json",
        }
        self.index = settings.index
        try:
            self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, trust_env=False)
        except ValueError as error:  # httpx encodes headers as ASCII
            raise StoreFailedError(f"Pinecone's key has invalid characters: check {_PREFIX}API_KEY.") from error
        try:
            found = self._call("GET", f"{settings.control_url.rstrip('/')}/indexes/{quote(self.index, safe='')}")
            try:
                host, self.dimension, self.metric = found["host"], int(found["dimension"]), str(found["metric"])
            except (KeyError, TypeError, ValueError) as error:
                raise StoreFailedError(
                    f"The index {self.index!r} of Pinecone has no dense vectors, or is not ready: check {_PREFIX}INDEX."
                ) from error
        except BaseException:
            self._client.close()
            raise
        self._host = host if host.startswith(("http://", "https://")) else f"https://{host}"

    def check(self, dimension: int) -> None:
        """Raises StoreFailedError if the index has another dimension or metric."""
        if self.dimension != dimension or self.metric not in ("cosine", "dotproduct"):
            raise StoreFailedError(
                f"The index {self.index!r} of Pinecone has {self.dimension} dimensions and the metric {self.metric}, "
                f"but {dimension} and cosine or dotproduct are needed: set {_PREFIX}INDEX to another one."
            )

    def data(self, method: str, path: str, body: object = None, *, missing: Any = None) -> Any:
        """Calls the index. `missing`: returned, if it is not None, if there is no such namespace."""
        return self._call(method, self._host + path, body, missing)

    def query(
        self, namespace: str, vector: Vectors, limit: int, where: Where | None, *, whole: bool = False
    ) -> list[dict[str, Any]]:
        """The nearest records. `whole`: with their values and metadata."""
        body: dict[str, object] = {"namespace": namespace, "vector": vector, "topK": limit}
        body |= {"includeValues": whole, "includeMetadata": whole}
        if where is not None:
            body["filter"] = where
        found = self.data("POST", "/query", body)
        try:
            return list(found["matches"])
        except (KeyError, TypeError) as error:
            raise StoreFailedError("Pinecone sent an invalid search result.") from error

    def fetch(self, namespace: str, record_id: str) -> dict[str, Any] | None:
        """The record with this id."""
        path = f"/vectors/fetch?ids={quote(record_id, safe='')}&namespace={quote(namespace, safe='')}"
        found = self.data("GET", path, missing={})
        record: dict[str, Any] | None = (found.get("vectors") or {}).get(record_id)
        return record

    def namespaces(self) -> dict[str, int]:
        """Namespace → number of records, as far as they are visible."""
        found = self.data("POST", "/describe_index_stats", {})
        return {name: int(each.get("vectorCount", 0)) for name, each in (found.get("namespaces") or {}).items()}

    def count(self, namespace: str) -> int:
        """Number of visible records."""
        found = self.namespaces()
        return found.get(namespace, found.get("", 0) if namespace == "__default__" else 0)

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Waits for an eventually consistent change."""
        deadline, pause_s = time.monotonic() + self._settings.visible_within_s, _FIRST_PAUSE_S
        while not is_done():
            if time.monotonic() > deadline:
                raise StoreFailedError(
                    f"Pinecone did not show all rows within {self._settings.visible_within_s:g} s "
                    f"({_PREFIX}VISIBLE_WITHIN_S)."
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _call(self, method: str, url: str, body: object = None, missing: Any = None) -> Any:
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        what = f"Pinecone's index {self.index!r}"
        try:
            response = self._client.request(method, url, content=content)
        except httpx.TimeoutException as error:
            raise StoreFailedError(
                f"{what} did not answer within {self._settings.timeout_s:g} s ({_PREFIX}TIMEOUT_S)."
            ) from error
        except httpx.TransportError as error:
            raise StoreFailedError(f"{what} cannot be reached: check the network and {_PREFIX}CONTROL_URL.") from error
        status = response.status_code
        if status in (401, 403):
            raise StoreFailedError(
                f"{what}: Pinecone refused the key: check {_PREFIX}API_KEY or {_PREFIX}API_KEY_FILE."
            )
        if status == 404:
            if missing is not None:
                return missing
            raise StoreFailedError(
                f"{what} or its namespace does not exist: check {_PREFIX}INDEX. If the namespace was lost, fill it "
                "again."
            )
        if status == 429:
            raise StoreFailedError(f"{what}: Pinecone's limit of requests is reached. Try again later.")
        if not response.is_success:
            logger.warning("Pinecone answered %d: %s", status, response.text[:500])
            raise StoreFailedError(f"{what} answered with status {status}.")
        try:
            return orjson.loads(response.content or b"{}")
        except orjson.JSONDecodeError as error:
            raise StoreFailedError(f"{what} sent no JSON: check {_PREFIX}CONTROL_URL.") from error


def _record(match: Mapping[str, Any]) -> Record:
    return Record(str(match["id"]), np.asarray(match["values"], np.float32), match.get("metadata") or {})


def _condition(where: Where) -> dict[str, Any]:
    """The filter on facets and numbers."""
    (name, condition), *_ = where.items()
    if name in ("$and", "$or"):
        return {name: [_condition(part) for part in condition]}
    (operator, want), *_ = condition.items()
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        if abs(want) >= _EXACT_INTEGERS:
            raise UnsupportedFilterError(f"Pinecone compares {want} as a float64.")
        return {digest(name): {operator: want}}
    facets = [facet(name, value) for value in (want if isinstance(want, list) else [want])]
    return {"facets": {"$nin" if operator in ("$ne", "$nin") else "$in": facets}}


STORE = PineconeStore()
