"""PostgreSQL with pgvector 0.8 or later: a table for each index version, searched by HNSW with cosine distance."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
import psycopg
from psycopg import errors, sql
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import read_settings
from vectorstore.errors import StoreFailedError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, VersionRef
from vectorstore.stores.batches import BatchWriter, ranked
from vectorstore.stores.filters import FieldValue, Where

if TYPE_CHECKING:
    from typing_extensions import LiteralString

logger = logging.getLogger(__name__)

_PREFIX = "VECTORSTORE_PGVECTOR_"

_MAX_DIMENSION = 2_000
"""HNSW's limit for the type `vector`. Source: https://github.com/pgvector/pgvector#hnsw"""

_ResultT = TypeVar("_ResultT")


class PgvectorSettings(BaseSettings):
    """Settings of the store, for building and for searching."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)

    dsn: SecretStr = Field(
        SecretStr(""),
        description="Connection string: postgresql://user:password@host:5432/database?sslmode=verify-full. What it "
        "leaves out comes from libpq's own variables, such as PGPASSWORD.",
    )
    table_schema: str = Field("public", min_length=1, description="Schema of the tables; it must exist.")
    timeout_s: float = Field(30, ge=1, le=3600, description="Maximum time of a statement, in seconds.")
    search_width: int = Field(200, ge=1, le=1000, description="HNSW's ef_search: number of candidates during a search.")


class PgvectorStore:
    """The store type."""

    name = "pgvector"
    settings: type[BaseSettings] = PgvectorSettings

    def create(self, version: VersionRef, dimension: int) -> PgvectorWriter:
        """A new table, whose name shows that it is not finished."""
        if dimension > _MAX_DIMENSION:
            raise StoreFailedError(
                f"pgvector's HNSW has at most {_MAX_DIMENSION} dimensions, but the embedder has {dimension}: use "
                "another store (INGEST_STORE)."
            )
        database = _Database(version)
        try:
            with database.translated():
                database.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                database.execute(
                    "CREATE TABLE {building} (row_number integer PRIMARY KEY, embedding {vector} NOT NULL, "
                    "metadata jsonb NOT NULL)",
                    vector=sql.SQL(f"vector({dimension})"),
                )
        except BaseException:
            database.close()
            raise
        return PgvectorWriter(database, version, dimension)

    def open(self, version: VersionRef) -> PgvectorReader:
        """The version's table."""
        database = _Database(version)
        try:
            return PgvectorReader(database)
        except BaseException:
            database.close()
            raise

    def drop(self, version: VersionRef) -> None:
        """Removes the table."""
        database = _Database(version)
        try:
            with database.translated():
                database.execute("DROP TABLE IF EXISTS {table}, {building}")
        finally:
            database.close()


class PgvectorWriter(BatchWriter):
    """Copies rows into a table, and indexes it at the end, which is faster."""

    def __init__(self, database: _Database, version: VersionRef, dimension: int) -> None:
        super().__init__(dimension)
        self._database = database
        self._version = version

    def finish(self) -> None:
        """Writes the last batch, builds the indexes and gives the table its name."""
        self.flush()
        database = self._database
        with database.translated():
            database.execute("SET statement_timeout = 0")  # indexing millions of rows takes hours
            database.execute("CREATE INDEX ON {building} USING hnsw (embedding vector_cosine_ops)")
            database.execute("CREATE INDEX ON {building} USING gin (metadata jsonb_path_ops)")
            database.execute("ANALYZE {building}")
            database.execute("ALTER TABLE {building} RENAME TO {name}")
        database.close()

    def discard(self) -> None:
        """Removes the table."""
        self._database.close()
        STORE.drop(self._version)

    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Copies a batch."""
        statement = self._database.statement("COPY {building} FROM STDIN")
        with (
            self._database.translated(),
            self._database.connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            for row, (vector, fields) in enumerate(zip(vectors, metadata, strict=True), first):
                copy.write_row((row, _json(vector), _json(dict(fields))))


class PgvectorReader:
    """Searches a table."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._rows = self.count()

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """Approximate nearest neighbours; all of them if HNSW finds too few that pass the filter."""
        limit = min(limit, self._rows)
        if not len(queries) or not limit or (mask is not None and not mask.any()):
            return [NO_HITS for _ in queries]
        condition, values = _condition(where)
        if mask is not None:
            condition += " AND row_number = ANY(%s)"
            values.append(np.flatnonzero(mask).tolist())
        return [self._search(_json(query), condition, values, limit) for query in queries]

    def count(self, where: Where | None = None) -> int:
        """Rows of the table."""
        condition, values = _condition(where)
        statement = "SELECT count(*) FROM {table} WHERE " + condition  # noqa: S608 - values are parameters
        return self._database.answer(lambda: int(self._database.rows(statement, values)[0][0]))

    def health(self) -> None:
        """Asks PostgreSQL for a row."""
        self._database.answer(lambda: self._database.rows("SELECT 1 FROM {table} LIMIT 1", []))

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    def _search(self, query: str, condition: LiteralString, values: list[Any], limit: int) -> Hits:
        statement = (
            "SELECT row_number, 1 - (embedding <=> %s::vector) FROM {table} WHERE "  # noqa: S608 - values are parameters
            + condition
            + " ORDER BY embedding <=> %s::vector LIMIT %s"
        )
        given = [query, *values, query, limit]

        def search() -> Hits:
            found = self._database.rows(statement, given)
            if len(found) < limit:
                with self._database.connection.transaction():
                    self._database.execute("SET LOCAL enable_indexscan = off")
                    found = self._database.rows(statement, given)
            rows, cosines = zip(*found, strict=True) if found else ((), ())
            return ranked(rows, cosines)

        return self._database.answer(search)


class _Database:
    """A connection for the table of one version, opened again after it was lost. `answer` is thread-safe."""

    def __init__(self, version: VersionRef) -> None:
        self._settings = read_settings(PgvectorSettings)
        self._lock = threading.Lock()
        schema = self._settings.table_schema
        self._name = f"kserve_rag_{version.build_id}"
        self._names = {
            "table": sql.Identifier(schema, self._name),
            "building": sql.Identifier(schema, f"{self._name}_building"),
            "name": sql.Identifier(self._name),
        }
        self.connection = self._connect()

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        settings = self._settings
        timeout_ms = round(settings.timeout_s * 1000)
        try:
            connection = psycopg.connect(
                settings.dsn.get_secret_value(),
                autocommit=True,
                connect_timeout=max(2, round(settings.timeout_s)),
                # A server that vanished is noticed within the timeout, whether or not a statement is on its way.
                tcp_user_timeout=timeout_ms,
                keepalives_idle=max(1, round(settings.timeout_s / 2)),
                keepalives_interval=max(1, round(settings.timeout_s / 6)),
                keepalives_count=3,
            )
        except psycopg.ProgrammingError:
            # Its message quotes the string, which may hold a password.
            raise StoreFailedError(f"{_PREFIX}DSN is not a connection string.") from None
        except psycopg.OperationalError as error:
            if "password" in str(error) or "authentication" in str(error):
                raise StoreFailedError(
                    f"PostgreSQL refused the login: check user and password in {_PREFIX}DSN."
                ) from error
            raise StoreFailedError(
                "PostgreSQL cannot be reached: check that it runs, and host, port, database and sslmode in "
                f"{_PREFIX}DSN."
            ) from error
        with self.translated():
            connection.execute(f"SET statement_timeout = {timeout_ms}")
            connection.execute(f"SET hnsw.ef_search = {settings.search_width}")
            connection.execute("SET hnsw.iterative_scan = strict_order")
        return connection

    def statement(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        """The statement with the names of the tables."""
        return sql.SQL(text).format(**self._names, **parts)

    def execute(self, text: LiteralString, **parts: sql.Composable) -> None:
        """Runs a statement."""
        self.connection.execute(self.statement(text, **parts))

    def rows(self, text: LiteralString, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self.connection.execute(self.statement(text), values).fetchall()

    def answer(self, ask: Callable[[], _ResultT]) -> _ResultT:
        """The result of `ask`, which reads only. If the connection was lost, asks again on a new one, once."""
        with self._lock:
            if self.connection.closed:
                self.connection = self._connect()
            try:
                with self.translated():
                    return ask()
            except StoreFailedError:
                if not self.connection.closed:
                    raise
                self.connection = self._connect()
                with self.translated():
                    return ask()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translates the driver's exceptions."""
        try:
            yield
        except errors.QueryCanceled as error:
            raise StoreFailedError(
                f"PostgreSQL did not answer within {self._settings.timeout_s:g} s ({_PREFIX}TIMEOUT_S)."
            ) from error
        except errors.UndefinedTable as error:
            raise StoreFailedError(
                f"PostgreSQL has no table {self._name!r}: check the database in {_PREFIX}DSN, and "
                f"{_PREFIX}TABLE_SCHEMA. If it was lost, fill it again."
            ) from error
        except errors.DataException as error:
            raise StoreFailedError(
                f"PostgreSQL refused vectors or metadata of table {self._name!r} ({error.sqlstate}). If the embedder "
                "was changed, fill it again."
            ) from error
        except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
            raise StoreFailedError(
                f"PostgreSQL does not allow it: let the user of {_PREFIX}DSN create tables in the schema of "
                f"{_PREFIX}TABLE_SCHEMA, and a superuser run CREATE EXTENSION vector."
            ) from error
        except psycopg.Error as error:
            logger.warning("PostgreSQL failed with %s: %s", error.sqlstate, error.diag.message_primary or error)
            code = error.sqlstate or "a lost connection"
            step = "install pgvector 0.8 or later" if error.sqlstate in ("0A000", "58P01", "42704") else "see its log"
            raise StoreFailedError(f"PostgreSQL failed with {code}: {step}.") from error

    def close(self) -> None:
        self.connection.close()


def _condition(where: Where | None) -> tuple[LiteralString, list[Any]]:
    """The filter in SQL, and its values. In JSON, 1 equals 1.0, and values of different kinds differ."""
    if where is None:
        return "true", []
    (name, condition), *_ = where.items()
    if name in ("$and", "$or"):
        parts = [_condition(part) for part in condition]
        joint: LiteralString = " AND " if name == "$and" else " OR "
        return "(" + joint.join(part for part, _ in parts) + ")", [value for _, values in parts for value in values]
    (operator, want), *_ = condition.items()
    if operator in _ORDERED:
        greater: LiteralString = "metadata -> %s::text " + _ORDERED[operator] + " %s::jsonb"
        return f"(jsonb_typeof(metadata -> %s::text) = 'number' AND {greater})", [name, name, _json(want)]
    wanted = want if isinstance(want, list) else [want]
    equal: LiteralString = "(" + " OR ".join(["metadata @> %s::jsonb"] * len(wanted)) + ")"
    negation: LiteralString = "NOT " if operator in ("$ne", "$nin") else ""
    return negation + equal, [_json({name: value}) for value in wanted]


_ORDERED: Mapping[str, LiteralString] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _json(value: object) -> str:
    """JSON without U+0000, which PostgreSQL does not store."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode().replace("\\u0000", "\\ufffd")


STORE = PgvectorStore()
