"""Renders and validates every combination once, and prints a table at the end."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import pytest

from tests.manifests.rendering import NAMES, Document, folder_of, kustomize, parse
from tests.manifests.schemas import problems


@dataclass
class Rendered:
    """Every combination, by name."""

    documents: dict[str, list[Document]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Schema violations of each combination."""
    render_s: dict[str, float] = field(default_factory=dict)
    validate_s: dict[str, float] = field(default_factory=dict)


_RENDERED = pytest.StashKey[Rendered]()


@pytest.fixture(scope="session")
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    render = kustomize()
    if render is None:
        pytest.skip(
            "there is no kustomize: `make manifests` fetches its library, or put kustomize or kubectl on the PATH"
        )
    found = Rendered()
    scratch = tmp_path_factory.mktemp("combinations")
    known: dict[str, list[str]] = {}  # most documents are the same in many combinations
    for name in NAMES:
        began = time.perf_counter()
        found.documents[name] = parse(render(folder_of(name, scratch)))
        middle = time.perf_counter()
        found.problems[name] = []
        for document in found.documents[name]:
            text = json.dumps(document, sort_keys=True)
            if text not in known:
                known[text] = problems(document)
            title = f"{document['kind']} {document['metadata']['name']}"
            found.problems[name] += [f"{title}: {problem}" for problem in known[text]]
        found.render_s[name] = middle - began
        found.validate_s[name] = time.perf_counter() - middle
    request.config.stash[_RENDERED] = found
    return found


@pytest.fixture(params=NAMES)
def documents(request: pytest.FixtureRequest, rendered: Rendered) -> list[Document]:
    """One combination after the other."""
    return rendered.documents[request.param]


@pytest.fixture(params=[name for name in NAMES if name != "base"])
def graph_documents(request: pytest.FixtureRequest, rendered: Rendered) -> list[Document]:
    """One combination after the other that can be deployed: with an engine, models and an index."""
    return rendered.documents[request.param]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_RENDERED, None)
    if found is None:
        return
    line = terminalreporter.line
    terminalreporter.section("manifests")
    line(f"{'combination':20} {'documents':>9} {'problems':>9} {'render s':>9} {'validate s':>11}")
    for name, documents in found.documents.items():
        counts = f"{len(documents):9} {len(found.problems[name]):9}"
        line(f"{name:20} {counts} {found.render_s[name]:9.2f} {found.validate_s[name]:11.2f}")
    total = sum(map(len, found.documents.values()))
    seconds = sum(found.render_s.values()) + sum(found.validate_s.values())
    line(f"{len(found.documents)} combinations, {total} documents, rendered and validated in {seconds:.1f} s")
