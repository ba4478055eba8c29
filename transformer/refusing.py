"""Which score and which threshold decide whether a question is refused, for each index version."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from chassis.context import CallContext
from chassis.errors import ServiceError
from transformer.answerability import DEFAULT_MODEL, DEFAULT_THRESHOLD, Calibration, CalibrationError, Model
from vectorstore.client import VectorstoreClient

logger = logging.getLogger(__name__)

_FRESH_S = 60.0
"""Seconds after which a calibration is looked for again: one may be made while its version is served."""
_VERSIONS = 64


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides: a question that `model` scores below `threshold` is refused."""

    model: Model
    threshold: float


class RefusalPolicy:
    """The decision for an index version: its calibration, else the default. Safe for concurrent use in one event loop.

    A calibration holds for the version and the embedder that it was made with, and for no other.
    """

    def __init__(self, vectorstore: VectorstoreClient, *, threshold: float | None) -> None:
        """Asks nothing yet.

        Args:
            vectorstore: tells the calibrations of the versions that it serves.
            threshold: stands in place of every calibration's; None leaves it to them.

        """
        self._vectorstore = vectorstore
        self._threshold = threshold
        self._known: OrderedDict[str, tuple[float, Decision]] = OrderedDict()

    async def of(self, index_version: str, ctx: CallContext) -> Decision:
        """The decision for a version. The default where the vectorstore knows no calibration.

        Where it does not answer, the decision that was known before, or the default.
        """
        now = time.monotonic()
        known = self._known.get(index_version)
        if known is not None and now - known[0] < _FRESH_S:
            return known[1]
        try:
            status = await self._vectorstore.status(ctx)
        except ServiceError as error:
            # Kept for nobody else: the deadline and the credentials were this request's.
            logger.warning("the calibration of %s cannot be asked for: %s", index_version, error.message)
            return self._decide(index_version, {}) if known is None else known[1]
        decision = self._decide(index_version, status)
        self._known[index_version] = (now, decision)
        while len(self._known) > _VERSIONS:
            self._known.popitem(last=False)
        return decision

    def _decide(self, index_version: str, status: Mapping[str, Any]) -> Decision:
        calibration = None
        for collection in status.get("collections", {}).values():
            index = collection.get("index") or {}
            if index.get("version") == index_version and index.get("calibration") is not None:
                try:
                    calibration = Calibration.parse(orjson.dumps(index["calibration"]))
                except CalibrationError as error:
                    logger.warning("the calibration of %s is not used: %s", index_version, error)
                    continue
                if (calibration.index_version, calibration.embedder) != (index_version, index.get("embedder")):
                    logger.warning("the calibration of %s is of another version or embedder: not used", index_version)
                    calibration = None
        model = DEFAULT_MODEL if calibration is None else calibration.model
        threshold = DEFAULT_THRESHOLD if calibration is None else calibration.threshold
        return Decision(model, threshold if self._threshold is None else self._threshold)
