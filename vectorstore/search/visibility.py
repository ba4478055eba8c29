"""The part of a loaded index that a caller may see. Every search and every text that is read needs one."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from chassis.principal import Principal
from vectorstore.signals.lexical import LexicalIndex
from vectorstore.stores import Mask
from vectorstore.versions import AccessRules, IndexVersion, admits, names_of
from vectorstore.versions.access import Decision

_CACHED = 256
"""Number of callers whose view of an index is kept. Each takes one byte per chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class Visible:
    """The part of an index that one caller may see."""

    mask: Mask | None
    """bool[rows]: rows that may be found. None: all."""
    documents: int
    rows: int
    lexical: LexicalIndex | None
    """BM25 as if the other rows did not exist. None: the index's own."""
    admits: Callable[[str], bool]
    """Whether the caller may read the documents of a file."""
    fields: Callable[[], Collection[str] | None]
    """Metadata fields that filters may name: those of the visible documents. None: any."""


class Visibility:
    """The views of one loaded index. Thread-safe."""

    def __init__(self, version: IndexVersion, lexical: LexicalIndex) -> None:
        self._version = version
        self._lexical = lexical
        self._views: OrderedDict[Principal | None, Visible] = OrderedDict()
        self._rules: AccessRules | None = None
        self._decisions: tuple[AccessRules, npt.NDArray[np.int32], tuple[Decision, ...]] | None = None
        self._lock = threading.Lock()
        counts = version.manifest.counts
        self.everything = Visible(
            None,
            counts.documents,
            counts.chunks,
            None,
            lambda _: True,
            lambda: version.manifest.metadata_fields,
        )

    def known(self, principal: Principal | None, rules: AccessRules) -> Visible | None:
        """The cached view of a caller."""
        with self._lock:
            if rules is not self._rules:
                return None
            found = self._views.get(principal)
            if found is not None:
                self._views.move_to_end(principal)
            return found

    def of(self, principal: Principal | None, rules: AccessRules) -> Visible:
        """The view of a caller. Blocks for up to a second for the first one after a change of the rules."""
        view = self.known(principal, rules)
        if view is None:
            view = self._view(principal, rules)
            with self._lock:
                if rules is not self._rules:
                    self._views.clear()
                    self._rules = rules
                self._views[principal] = view
                if len(self._views) > _CACHED:
                    self._views.popitem(last=False)
        return view

    def _view(self, principal: Principal | None, rules: AccessRules) -> Visible:
        names = names_of(principal)
        decisions, decision_of_source = self._decided(rules)
        admitted = np.fromiter((admits(decision, names) for decision in decisions), np.bool_, len(decisions))

        def may_read(source: str) -> bool:
            return admits(rules.decision(source), names)

        if admitted.all():  # an older version may have other files
            return replace(self.everything, admits=may_read)
        sources = admitted[decision_of_source]
        mask: Mask = sources[self._source_of_row]
        table = self._version.exact.fields
        return Visible(
            mask,
            int(self._documents_of_source[sources].sum()),
            int(mask.sum()),
            self._lexical.within(mask),
            may_read,
            functools.cache(lambda: table.names(mask)),
        )

    def _decided(self, rules: AccessRules) -> tuple[Sequence[Decision], npt.NDArray[np.int32]]:
        """The different decisions of the rules, and the number of each source's decision."""
        held = self._decisions
        if held is None or held[0] is not rules:
            numbers: dict[Decision, int] = {}
            sources = self._version.manifest.sources
            of_source = (numbers.setdefault(rules.decision(source), len(numbers)) for source in sources)
            held = self._decisions = rules, np.fromiter(of_source, np.int32, len(sources)), tuple(numbers)
        return held[2], held[1]

    @functools.cached_property
    def _documents_of_source(self) -> npt.NDArray[np.int64]:
        return np.array([len(info.document_ids) for info in self._version.manifest.sources.values()], np.int64)

    @functools.cached_property
    def _source_of_row(self) -> npt.NDArray[np.int32]:
        numbers = {source: number for number, source in enumerate(self._version.manifest.sources)}
        return self._version.exact.fields.numbers(lambda fields: numbers[str(fields["source"])])
