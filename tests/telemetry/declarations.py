"""The spans and metrics that the rooms declare, by room."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

import chassis.edge
import chassis.http
import chassis.server
import embedder.client
import ingest.telemetry
import predictor.client
import transformer.telemetry
import vectorstore.client
import vectorstore.telemetry
from chassis.metrics import Metric
from chassis.tracing import SpanType

_MODULES = (
    chassis.edge,
    chassis.server,
    chassis.http,
    transformer.telemetry,
    vectorstore.client,
    vectorstore.telemetry,
    embedder.client,
    predictor.client,
    ingest.telemetry,
)

DeclarationT = TypeVar("DeclarationT", SpanType, Metric)


def _declared(kind: type[DeclarationT]) -> Iterator[tuple[str, DeclarationT]]:
    for module in _MODULES:
        for value in vars(module).values():
            if isinstance(value, kind):
                yield _room(module), value


def _room(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


SPANS = tuple(_declared(SpanType))
METRICS = tuple(_declared(Metric))
