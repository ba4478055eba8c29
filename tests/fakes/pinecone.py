"""Pinecone's REST API for tests: one serverless index.

Source: https://docs.pinecone.io/reference/api/2025-10, and 2026-07 for the description of the index, which the official
client of tests/contracts/test_pinecone.py asks for. Upserted records are visible from the second read on, because
Pinecone is eventually consistent. A filter on a field that a record lacks matches nothing: what `$ne` and `$nin` do
then is not documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from tests.fakes.loopback import ThreadedServer

KEY = "pcsk_s3cret"
INDEX = "docs"
_MAX_UPSERT_BYTES = 2 << 20

Vector = dict[str, Any]


class Pinecone(ThreadedServer):
    def __init__(self, dimension: int, metric: str = "cosine") -> None:
        super().__init__()
        self.dimension = dimension
        self.metric = metric
        self.status: int | None = None
        """Status of every response, if it is set."""
        self._namespaces: dict[str, dict[str, Vector]] = {}
        self._pending: list[tuple[str, list[Vector]]] = []
        self._reads = 0

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._checked], client_max_size=_MAX_UPSERT_BYTES)
        app.router.add_get("/indexes/{name}", self._describe)
        app.router.add_post("/vectors/upsert", self._upsert)
        app.router.add_post("/vectors/delete", self._delete)
        app.router.add_get("/vectors/fetch", self._fetch)
        app.router.add_get("/vectors/list", self._list)
        app.router.add_post("/query", self._query)
        app.router.add_post("/describe_index_stats", self._stats)
        app.router.add_delete("/namespaces/{name}", self._delete_namespace)
        return app

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.status is not None:
            return _problem(self.status, 13, "Something is wrong.")
        if request.headers.get("Api-Key") != KEY:
            if request.path.startswith("/indexes"):
                return _control_problem(401, "UNAUTHENTICATED", "Invalid API Key")
            return web.Response(status=401, text="Unauthorized")
        if "X-Pinecone-Api-Version" not in request.headers:
            return _problem(400, 3, "X-Pinecone-Api-Version is missing")
        try:
            response: web.StreamResponse = await handler(request)
        except _InvalidError as error:
            return _problem(400, 3, str(error))
        except web.HTTPRequestEntityTooLarge:
            return _problem(400, 11, "Error, message length too large: limit is 2097152 bytes")
        return response

    async def _describe(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != INDEX:
            return _control_problem(404, "NOT_FOUND", f"Resource {request.match_info['name']} not found")
        common = {"name": INDEX, "host": self.url, "status": {"ready": True, "state": "Ready"}, "tags": None}
        common["deletion_protection"] = "disabled"
        if request.headers["X-Pinecone-Api-Version"] >= "2026-07":
            field = {"type": "dense_vector", "dimension": self.dimension, "metric": self.metric}
            deployment = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
            return web.json_response({**common, "schema": {"fields": {"_values": field}}, "deployment": deployment})
        serverless = {"serverless": {"cloud": "aws", "region": "us-east-1"}}
        shape = {"dimension": self.dimension, "metric": self.metric, "vector_type": "dense"}
        return web.json_response({**common, **shape, "spec": serverless})

    async def _upsert(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        vectors = body["vectors"]
        if not 1 <= len(vectors) <= 1_000:
            raise _InvalidError(f"Number of vectors must be between 1 and 1000, got {len(vectors)}")
        for vector in vectors:
            self._check(vector["values"])
            if not 1 <= len(vector["id"]) <= 512 or not vector["id"].isascii():
                raise _InvalidError("Vector ID must be ASCII, of at most 512 characters")
            for name, value in (vector.get("metadata") or {}).items():
                texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
                if not texts and not isinstance(value, str | int | float | bool):
                    raise _InvalidError(
                        f"Metadata value must be a string, number, boolean or list of strings, got '{value}' for field "
                        f"'{name}'"
                    )
        self._pending.append((_name(body.get("namespace")), vectors))
        self._reads = 0
        return web.json_response({"upsertedCount": len(vectors)})

    async def _delete(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self._settle()
        name = _name(body.get("namespace"))
        if name not in self._namespaces:
            return _problem(404, 5, "Namespace not found")
        for record_id in list(self._namespaces[name]) if body.get("deleteAll") else body["ids"]:
            self._namespaces[name].pop(record_id, None)
        return web.json_response({})

    async def _delete_namespace(self, request: web.Request) -> web.Response:
        self._settle()
        if self._namespaces.pop(_name(request.match_info["name"]), None) is None:
            return _problem(404, 5, "Namespace not found")
        return web.json_response({})

    async def _fetch(self, request: web.Request) -> web.Response:
        name = _name(request.query.get("namespace"))
        records = self._read(name)
        found = {key: records[key] for key in request.query.getall("ids") if key in records}
        return web.json_response({"vectors": found, "namespace": name, "usage": {"readUnits": 1}})

    async def _list(self, request: web.Request) -> web.Response:
        name = _name(request.query.get("namespace"))
        limit, after = int(request.query.get("limit", "100")), request.query.get("paginationToken", "")
        prefix = request.query.get("prefix", "")
        ids = sorted(key for key in self._read(name) if key.startswith(prefix) and key > after)
        answer: dict[str, Any] = {"vectors": [{"id": key} for key in ids[:limit]], "namespace": name}
        if len(ids) > limit:
            answer["pagination"] = {"next": ids[limit - 1]}
        return web.json_response({**answer, "usage": {"readUnits": 1}})

    async def _query(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        whole = body.get("includeValues") or body.get("includeMetadata")
        most = 1_000 if whole else 10_000
        if not 1 <= body["topK"] <= most:
            raise _InvalidError(f"topK must be between 1 and {most}, got {body['topK']}")
        self._check(body["vector"])
        name = _name(body.get("namespace"))
        where = body.get("filter")
        records = [each for each in self._read(name).values() if not where or _matches(where, each.get("metadata", {}))]
        matches = []
        if records:
            query = np.array(body["vector"], np.float32)
            vectors = np.array([each["values"] for each in records], np.float32)
            scores = vectors @ query
            if self.metric == "cosine":
                scores = scores / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
            for row in np.argsort(-scores, kind="stable")[: body["topK"]]:
                match = {"id": records[row]["id"], "score": float(scores[row])}
                match["values"] = records[row]["values"] if body.get("includeValues") else []
                if body.get("includeMetadata") and "metadata" in records[row]:
                    match["metadata"] = records[row]["metadata"]
                matches.append(match)
        answer = {"matches": matches, "namespace": name, "usage": {"readUnits": 5}}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    async def _stats(self, _: web.Request) -> web.Response:
        self._read("")
        counts = {name: {"vectorCount": len(records)} for name, records in self._namespaces.items() if records}
        total = sum(each["vectorCount"] for each in counts.values())
        shape = {"dimension": self.dimension, "metric": self.metric, "vectorType": "dense", "indexFullness": 0}
        return web.json_response({**shape, "namespaces": counts, "totalVectorCount": total})

    def _check(self, values: list[float]) -> None:
        if len(values) != self.dimension:
            raise _InvalidError(
                f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}"
            )
        if not any(values):
            raise _InvalidError("Dense vectors must contain at least one non-zero value")

    def _read(self, name: str) -> Mapping[str, Vector]:
        """The visible records of a namespace."""
        self._reads += 1
        if self._reads > 1:
            self._settle()
        return self._namespaces.get(name, {})

    def _settle(self) -> None:
        for name, vectors in self._pending:
            self._namespaces.setdefault(name, {}).update({vector["id"]: vector for vector in vectors})
        self._pending.clear()


class _InvalidError(ValueError):
    """The request is invalid."""


def _name(namespace: str | None) -> str:
    return namespace or "__default__"


def _problem(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message, "details": []}, status=status)


def _control_problem(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}, "status": status}, status=status)


def _matches(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    return all(_condition(name, condition, metadata) for name, condition in where.items())


def _condition(name: str, condition: Any, metadata: Mapping[str, Any]) -> bool:
    if name == "$and":
        return all(_matches(part, metadata) for part in condition)
    if name == "$or":
        return any(_matches(part, metadata) for part in condition)
    if not isinstance(condition, dict):
        condition = {"$eq": condition}
    if name not in metadata:
        return False
    held = metadata[name] if isinstance(metadata[name], list) else [metadata[name]]
    return all(_operator(operator, want, held) for operator, want in condition.items())


def _operator(operator: str, want: Any, held: list[Any]) -> bool:
    wanted = want if isinstance(want, list) else [want]
    if operator in ("$eq", "$in", "$ne", "$nin"):
        found = any(
            isinstance(have, bool) == isinstance(each, bool) and have == each for have in held for each in wanted
        )
        return found == (operator in ("$eq", "$in"))
    numbers = [have for have in held if isinstance(have, int | float) and not isinstance(have, bool)]
    compare = {"$gt": float.__gt__, "$gte": float.__ge__, "$lt": float.__lt__, "$lte": float.__le__}
    if operator not in compare:
        raise _InvalidError(f"{operator} is not a valid operator")
    return any(compare[operator](float(have), float(want)) for have in numbers)
