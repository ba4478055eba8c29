"""Milvus 2.5 or later: a collection for each index version, searched by HNSW with cosine distance.

Filters give the rows of `filters.matches`, whatever names and texts the metadata has: a row's `facets` are digests of
each name with its value, and its `numbers` are the numeric values by digests of their names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from pymilvus import DataType, MilvusClient
from pymilvus.client.types import Status
from pymilvus.exceptions import ErrorCode, MilvusException

from chassis.settings import BaseUrl, read_settings
from vectorstore.errors import InvalidFilterError, StoreFailedError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, Record, VersionRef
from vectorstore.stores.batches import BatchWriter, ranked
from vectorstore.stores.facets import digest, facet
from vectorstore.stores.filters import FieldValue, Where

logger = logging.getLogger(__name__)

_PREFIX = "VECTORSTORE_MILVUS_"

_MAX_HITS = 16_384
_MAX_FACETS = 4_096
"""Limits of a search and of an array. Source: https://milvus.io/docs/limitations.md"""


_DATABASE_NOT_FOUND = 800
"""Source: https://github.com/milvus-io/milvus/blob/master/pkg/util/merr/errors.go"""


class MilvusSettings(BaseSettings):
    """Settings of the store, for building and for searching."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)

    url: BaseUrl = Field("http://127.0.0.1:19530", description="Address of the server; https for TLS.")
    token: SecretStr | None = Field(None, min_length=1, description="API key, or `user:password`.")
    database: str = Field("default", min_length=1, description="Database; it must exist.")
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) that verify an https URL; by default those of the system."
    )
    timeout_s: float = Field(30, gt=0, le=3600, description="Maximum wait for a response, in seconds.")
    search_width: int = Field(200, ge=1, le=_MAX_HITS, description="HNSW's ef: number of candidates during a search.")


class MilvusStore:
    """The store type."""

    name = "milvus"
    settings: type[BaseSettings] = MilvusSettings

    def create(self, version: VersionRef, dimension: int) -> MilvusWriter:
        """A new collection."""
        server = _Server(_collection(version))
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        schema.add_field(
            "facets", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_MAX_FACETS, max_length=32
        )
        schema.add_field("numbers", DataType.JSON)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
        try:
            with server.calling():
                server.client.create_collection(
                    server.collection,
                    schema=schema,
                    index_params=index,
                    consistency_level="Strong",
                    timeout=server.timeout_s,
                )
        except BaseException:
            server.close()
            raise
        return MilvusWriter(server, version, dimension)

    def open(self, version: VersionRef) -> MilvusReader:
        """The version's collection, loaded into the server's memory."""
        server = _Server(_collection(version))
        try:
            with server.calling():
                fields = server.client.describe_collection(server.collection, timeout=server.timeout_s)["fields"]
                index = server.client.describe_index(server.collection, "vector", timeout=server.timeout_s)
                server.client.load_collection(server.collection, timeout=server.timeout_s)
            dimension = next((field["params"]["dim"] for field in fields if field["name"] == "vector"), None)
            metric = (index or {}).get("metric_type")
            if metric != "COSINE":
                raise StoreFailedError(
                    f"Collection {server.collection!r} of Milvus has the metric {metric}, not COSINE: fill it again."
                )
            return MilvusReader(server, dimension)
        except BaseException:
            server.close()
            raise

    def drop(self, version: VersionRef) -> None:
        """Removes the collection."""
        server = _Server(_collection(version))
        try:
            with server.calling():
                server.client.drop_collection(server.collection, timeout=server.timeout_s)
        finally:
            server.close()

    def attach(self, collection: str) -> ExistingMilvus:
        """A collection of the database, loaded into the server's memory."""
        server = _Server(collection)
        try:
            return ExistingMilvus(server)
        except BaseException:
            server.close()
            raise


class MilvusWriter(BatchWriter):
    """Inserts rows."""

    def __init__(self, server: _Server, version: VersionRef, dimension: int) -> None:
        super().__init__(dimension)
        self._server = server
        self._version = version

    def finish(self) -> None:
        """Writes the last batch and seals the segments."""
        self.flush()
        with self._server.calling():
            self._server.client.flush(self._server.collection, timeout=self._server.timeout_s)
        self._server.close()

    def discard(self) -> None:
        """Removes the collection."""
        self._server.close()
        STORE.drop(self._version)

    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Inserts a batch."""
        rows = [
            {
                "row": first + i,
                "vector": vector,
                "facets": [facet(name, value) for name, value in fields.items()],
                "numbers": {
                    digest(name): value
                    for name, value in fields.items()
                    if isinstance(value, int | float) and not isinstance(value, bool)
                },
            }
            for i, (vector, fields) in enumerate(zip(vectors, metadata, strict=True))
        ]
        with self._server.calling():
            self._server.client.insert(self._server.collection, rows, timeout=self._server.timeout_s)


class MilvusReader:
    """Searches a collection."""

    def __init__(self, server: _Server, dimension: int | None) -> None:
        self._server = server
        self._dimension = dimension
        self._rows = self.count()

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """Approximate nearest neighbours, at most 16,384 per query; all queries in one request."""
        limit = min(limit, self._rows, _MAX_HITS)
        if not len(queries) or not limit or (mask is not None and not mask.any()):
            return [NO_HITS for _ in queries]
        if queries.shape[1] != self._dimension:
            raise StoreFailedError(
                f"The collection in Milvus has {self._dimension} dimensions, but the queries have {queries.shape[1]}: "
                "fill it again."
            )
        parts = [] if where is None else [_expression(where)]
        if mask is not None:
            parts.append(f"row in {np.flatnonzero(mask).tolist()}")
        with self._server.calling():
            found = self._server.client.search(
                self._server.collection,
                data=list(queries),
                anns_field="vector",
                filter=" and ".join(f"({part})" for part in parts),
                limit=limit,
                search_params={"metric_type": "COSINE", "params": {"ef": max(self._server.search_width, limit)}},
                timeout=self._server.timeout_s,
            )
        if len(found) != len(queries):
            raise StoreFailedError("Milvus sent results for a different number of queries.")
        return [ranked([hit["row"] for hit in hits], [hit["distance"] for hit in hits]) for hits in found]

    def count(self, where: Where | None = None) -> int:
        """Rows of the collection."""
        with self._server.calling():
            (counts,) = self._server.client.query(
                self._server.collection,
                filter="" if where is None else _expression(where),
                output_fields=["count(*)"],
                timeout=self._server.timeout_s,
            )
        return int(counts["count(*)"])

    def health(self) -> None:
        """Asks Milvus for its count."""
        self.count()

    def close(self) -> None:
        """Closes the connection."""
        self._server.close()


class ExistingMilvus:
    """A collection that another program filled: with fields of its own, or with its metadata in a JSON field."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        name, timeout = server.collection, server.timeout_s
        with server.calling():
            description = server.client.describe_collection(name, timeout=timeout)
        fields = {field["name"]: field for field in description["fields"]}
        self._types = {name: field["type"] for name, field in fields.items()}
        self._key = next(name for name, field in fields.items() if field.get("is_primary"))
        self._dynamic = bool(description.get("enable_dynamic_field"))
        self._json = next((name for name, kind in self._types.items() if kind == DataType.JSON), None)
        """Field with the metadata, if they have no fields of their own."""
        vectors = [name for name, kind in self._types.items() if kind == DataType.FLOAT_VECTOR]
        if len(vectors) != 1:
            raise StoreFailedError(
                f"Collection {name!r} of Milvus has {len(vectors)} fields of float vectors; it needs exactly one."
            )
        (self._vector,) = vectors
        self.dimension = int(fields[self._vector]["params"]["dim"])
        with server.calling():
            index = server.client.describe_index(name, self._vector, timeout=timeout)
            server.client.load_collection(name, timeout=timeout)
        self.metric = str((index or {}).get("metric_type"))
        scalars = [name for name, kind in self._types.items() if kind in _READ]
        self._output = [*scalars, self._vector, *(["*"] if self._dynamic else [])]

    def count(self) -> int:
        """Records of the collection."""
        (counts,) = self._query(filter="", output_fields=["count(*)"])
        return int(counts["count(*)"])

    def sample(self, limit: int) -> list[Record]:
        """Any records."""
        return [self._record(row) for row in self._query(filter="", limit=limit, output_fields=self._output)]

    def fetch(self, record_id: str) -> Record | None:
        """The record with this primary key."""
        key: str | int = record_id
        if self._types[self._key] == DataType.INT64:
            if not re.fullmatch(r"-?[0-9]{1,19}", record_id):
                return None
            key = int(record_id)
        condition = f"{self._key} == {orjson.dumps(key).decode()}"
        rows = self._query(filter=condition, limit=1, output_fields=self._output)
        return self._record(rows[0]) if rows else None

    def search(self, queries: Vectors, *, limit: int, where: Where | None) -> list[list[Record]]:
        """Approximate nearest neighbours; all queries in one request."""
        with self._server.calling():
            found = self._server.client.search(
                self._server.collection,
                data=list(queries),
                anns_field=self._vector,
                filter="" if where is None else self._filter(where),
                limit=min(limit, _MAX_HITS),
                output_fields=self._output,
                search_params={"metric_type": self.metric, "params": {}},
                timeout=self._server.timeout_s,
            )
        return [[self._record({self._key: hit.get(self._key), **hit["entity"]}) for hit in hits] for hits in found]

    def close(self) -> None:
        """Closes the connection."""
        self._server.close()

    def _query(self, **what: Any) -> list[dict[str, Any]]:
        with self._server.calling():
            return list(self._server.client.query(self._server.collection, timeout=self._server.timeout_s, **what))

    def _record(self, row: Mapping[str, Any]) -> Record:
        fields = {name: value for name, value in row.items() if name not in (self._vector, self._json)}
        inner = row.get(self._json) if self._json else None
        if isinstance(inner, Mapping):
            fields |= inner
        return Record(str(row[self._key]), np.asarray(row[self._vector], np.float32), fields)

    def _filter(self, where: Where) -> str:
        """The filter on the collection's own fields."""
        (name, condition), *_ = where.items()
        if name in ("$and", "$or"):
            return f" {name[1:]} ".join(f"({self._filter(part)})" for part in condition)
        (operator, want), *_ = condition.items()
        wanted = want if isinstance(want, list) else [want]
        kind = self._types.get(name)
        if kind is None and not self._json and not self._dynamic:
            raise InvalidFilterError(
                f"filters names {name[:80]!r}, which the collection does not have. Known fields: "
                f"{', '.join(sorted(self._types))}.",
                field="filters",
            )
        if kind is not None and any(kind not in _KINDS[type(value)] for value in wanted):
            raise InvalidFilterError(
                f"filters compares {name!r} with {wanted[0]!r}, but the field holds values of another type.",
                field="filters",
            )
        key = orjson.dumps(name).decode()
        path = name if kind is not None else f"{self._json or '$meta'}[{key}]"
        if operator in _ORDERED:
            return f"{path} {_ORDERED[operator]} {orjson.dumps(want).decode()}"
        any_of = " or ".join(f"{path} == {orjson.dumps(value).decode()}" for value in wanted)
        return f"not ({any_of})" if operator in ("$ne", "$nin") else any_of


class _Server:
    """A connection of its own to the server, for one collection. Thread-safe."""

    def __init__(self, collection: str) -> None:
        settings = read_settings(MilvusSettings)
        self._url = settings.url
        self.timeout_s = settings.timeout_s
        self.search_width = settings.search_width
        self.collection = collection
        options: dict[str, Any] = {"secure": settings.url.startswith("https:")}
        if settings.ca_file is not None:
            if not settings.ca_file.is_file():
                raise StoreFailedError(f"{_PREFIX}CA_FILE={settings.ca_file}: there is no such file.")
            options["server_pem_path"] = str(settings.ca_file)
        with self.calling():
            self.client = MilvusClient(
                uri=settings.url,
                token=settings.token.get_secret_value() if settings.token else "",
                db_name=settings.database,
                timeout=settings.timeout_s,
                dedicated=True,
                **options,
            )

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Translates the client's exceptions."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._failure(error.code(), error.details()) from error
        except MilvusException as error:
            cause = error.__cause__
            raise self._failure(
                cause.code() if isinstance(cause, grpc.RpcError) else error.code, error.message
            ) from error

    def _failure(self, code: Any, message: Any) -> StoreFailedError:
        logger.warning("Milvus failed with %s: %s", code, str(message)[:500])
        at = f"Milvus at {self._url}"
        denied = re.search("auth check failure|permission deny", str(message))
        if denied or code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return StoreFailedError(f"{at} refused the credentials: check {_PREFIX}TOKEN.")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return StoreFailedError(f"{at} did not answer within {self.timeout_s:g} s ({_PREFIX}TIMEOUT_S).")
        if code in (grpc.StatusCode.UNAVAILABLE, Status.CONNECT_FAILED):
            return StoreFailedError(
                f"{at} cannot be reached: check that it runs, {_PREFIX}URL, {_PREFIX}TOKEN and, for https, "
                f"{_PREFIX}CA_FILE."
            )
        if code in (ErrorCode.COLLECTION_NOT_FOUND, _DATABASE_NOT_FOUND) or str(message).startswith("database "):
            return StoreFailedError(
                f"{at} has no such collection or database: check {_PREFIX}DATABASE. If the collection was lost, fill "
                "it again."
            )
        return StoreFailedError(f"{at} failed with code {code}.")

    def close(self) -> None:
        self.client.close()


def _collection(version: VersionRef) -> str:
    """Milvus allows letters, digits and underscores."""
    return f"rag_{re.sub('[^A-Za-z0-9]', '_', version.index)}_{version.build_id}"


def _expression(where: Where) -> str:
    """The filter in Milvus's language (https://milvus.io/docs/boolean.md)."""
    (name, condition), *_ = where.items()
    if name in ("$and", "$or"):
        return f" {name[1:]} ".join(f"({_expression(part)})" for part in condition)
    (operator, want), *_ = condition.items()
    if operator in _ORDERED:
        return f'numbers["{digest(name)}"] {_ORDERED[operator]} {orjson.dumps(want).decode()}'
    facets = [facet(name, value) for value in (want if isinstance(want, list) else [want])]
    any_of = f"array_contains_any(facets, {orjson.dumps(facets).decode()})"
    return f"not {any_of}" if operator in ("$ne", "$nin") else any_of


_NUMBERS = (DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64, DataType.FLOAT, DataType.DOUBLE)
_KINDS: Mapping[type, tuple[DataType, ...]] = {
    bool: (DataType.BOOL, DataType.JSON),
    int: (*_NUMBERS, DataType.JSON),
    float: (*_NUMBERS, DataType.JSON),
    str: (DataType.VARCHAR, DataType.JSON),
}
"""Type of a filter's value → types of the fields that can hold it."""
_READ = (DataType.BOOL, *_NUMBERS, DataType.VARCHAR, DataType.JSON)
"""Types of fields that become metadata."""

_ORDERED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


STORE = MilvusStore()
