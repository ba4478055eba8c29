"""Time that access control adds to a search of 100,000 chunks whose rules name 1,000 groups.

The index and the queries are those of `search`, of the kind `dense`. Each document is in the folder of a group, which
one rule allows. One query at a time; the callers take turns, so that the machine's load is the same for all of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from unittest.mock import patch

import numpy as np

from benchmarks.document import Options
from benchmarks.processes import in_a_process
from benchmarks.search import SyntheticEmbedder, build, passages
from chassis.context import CallContext
from chassis.principal import Principal
from embedder.client import EmbedderClient
from evaluation.markdown import table
from vectorstore.service import VectorstoreService
from vectorstore.versions import AccessFile, Acl, IndexRoot
from vectorstore.wire import SearchInstance

TITLE = "Access control at 100,000 chunks"
GROUPS = 1_000
CALLERS: Mapping[str, int | None] = {"without access control": None, "all": GROUPS, "half": GROUPS // 2, "ten": 10}
"""Caller → number of its groups."""


async def ask(root: Path, queries: int) -> dict[str, list[float]]:
    """Caller → milliseconds of each query."""
    encoder = cast("EmbedderClient", SyntheticEmbedder.of("dense"))
    sentences = [line for text in passages() for line in text.split(". ") if 30 < len(line) < 120]
    chosen = random.Random(5).sample(sentences, min(queries + 10, len(sentences)))
    times: dict[str, list[float]] = {caller: [] for caller in CALLERS}
    services = [VectorstoreService([IndexRoot(root, "default")], encoder, restricted=each) for each in (False, True)]
    async with services[0].running(), services[1].running():
        for sentence in chosen:
            for caller, groups in CALLERS.items():
                started = CallContext.start(60)
                names = frozenset(str(group) for group in range(groups or 0))
                ctx = CallContext(started.deadline, started.headers, Principal(caller, names))
                (found,) = await services[groups is not None].search([SearchInstance(input=sentence)], ctx)
                times[caller].append(found.timings_ms["search"])
    return {caller: values[10:] for caller, values in times.items()}


def measured(folder: str, count: int, queries: int) -> dict[str, list[float]]:
    """Builds the index and its rules, and asks."""
    build(Path(folder), count, SyntheticEmbedder.of("dense"), folders=GROUPS)
    with AccessFile(Path(folder, "default")).changing() as rules:
        rules.update({f"{group}/": Acl(allow=frozenset((f"group:{group}",))) for group in range(GROUPS)})
    return asyncio.run(ask(Path(folder), queries))


def measure(options: Options) -> list[str]:
    """A table of times."""
    count, queries = (5_000, 20) if options.quick else (100_000, 200)
    with patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"), tempfile.TemporaryDirectory() as folder:
        times = in_a_process(measured, folder, count, queries)
    base = np.percentile(times["without access control"], 50)
    rows = [
        {
            f"{count:,} chunks, groups of the caller": caller,
            "p50, milliseconds": f"{np.percentile(values, 50):.1f}",
            "more than without": f"{np.percentile(values, 50) - base:+.1f}",
            "p90, milliseconds": f"{np.percentile(values, 90):.1f}",
        }
        for caller, values in times.items()
    ]
    return [table(rows)]
