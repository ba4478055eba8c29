"""LlamaIndex and OpenAI's client, as docs/integrations.md shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.with_pages.integrations_page import run_section, section_fixture

if TYPE_CHECKING:
    from tests.with_pages.conftest import PeopleGraph

QUESTION = "What is an index version?"


shown = section_fixture("LlamaIndex")


def test_the_llm_answers_from_the_documents_and_names_them(shown: dict[str, Any]) -> None:
    answer = shown["answer"]
    assert answer.message.content
    assert [source["number"] for source in answer.raw.sources] == [1, 2]
    assert answer.raw.citations["statements"]


def test_a_stream_begins_and_ends_with_the_sources(shown: dict[str, Any]) -> None:
    from llama_index.core.llms import ChatMessage

    chunks = list(shown["llm"].stream_chat([ChatMessage(role="user", content=QUESTION)]))
    assert chunks[0].raw.sources == chunks[-1].raw.sources
    assert "".join(chunk.delta for chunk in chunks) == chunks[-1].message.content


def test_a_chat_engine_keeps_the_conversation(shown: dict[str, Any]) -> None:
    chat = shown["chat"]
    assert len(chat.chat_history) == 4
    assert all(message.content for message in chat.chat_history)


def test_the_retriever_gives_passages_nearest_first(shown: dict[str, Any]) -> None:
    found = shown["retriever"].retrieve(QUESTION)
    scores = [node.score for node in found]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    best = found[0].node
    assert best.metadata["title"] == "Concepts"
    assert best.end_char_idx - best.start_char_idx == len(best.text)


def test_a_query_engine_answers_with_its_sources(shown: dict[str, Any]) -> None:
    response = shown["response"]
    assert response.response
    assert len(response.source_nodes) == 4


def test_a_context_chat_engine_answers_with_its_sources(shown: dict[str, Any]) -> None:
    from llama_index.core.chat_engine import ContextChatEngine

    engine = ContextChatEngine.from_defaults(retriever=shown["retriever"], llm=shown["writer"])
    streamed = engine.stream_chat(QUESTION)
    assert "".join(streamed.response_gen)
    assert len(streamed.source_nodes) == 4


def test_openais_client_keeps_the_sources(graph: PeopleGraph, tmp_path: Path) -> None:
    with run_section("OpenAI's client", graph.transformer_url, tmp_path) as shown:
        assert [source["number"] for source in shown["answer"].sources] == [1, 2, 3]
        assert shown["chunk"].choices[0].finish_reason == "stop"
        assert shown["chunk"].sources
