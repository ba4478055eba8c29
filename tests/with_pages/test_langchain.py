"""LangChain, as docs/integrations.md shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.with_pages.integrations_page import section_fixture

if TYPE_CHECKING:
    from tests.with_pages.conftest import PeopleGraph

QUESTION = "What is an index version?"


shown = section_fixture("LangChain")


def test_the_chat_model_answers_from_the_documents(shown: dict[str, Any]) -> None:
    answer = shown["answer"]
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_a_stream_has_chunks(shown: dict[str, Any]) -> None:
    chunks = list(shown["model"].stream(QUESTION))
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    assert chunks[-1].chunk_position == "last"


def test_a_stream_has_the_text_of_the_whole_answer(shown: dict[str, Any]) -> None:
    # Quotes do not depend on the LLM.
    quoting = shown["model"].model_copy(update={"extra_body": {"num_docs": 3, "answers": "quote"}})
    whole = quoting.invoke(QUESTION).content
    assert whole
    assert "".join(chunk.content for chunk in quoting.stream(QUESTION)) == whole


async def test_asynchronous_calls_answer_too(shown: dict[str, Any], graph: PeopleGraph) -> None:
    # A separate connection for this test's event loop.
    async with httpx.AsyncClient(trust_env=False) as connection:
        model = shown["ChatOpenAI"](
            base_url=f"{graph.transformer_url}/openai/v1",
            api_key="none",
            model="rag",
            temperature=0,
            max_tokens=100,
            extra_body={"num_docs": 3},
            http_async_client=connection,
        )
        assert (await model.ainvoke(QUESTION)).content
    assert [one.id for one in await shown["retriever"].ainvoke(QUESTION)] == [
        one.id for one in shown["retriever"].invoke(QUESTION)
    ]


def test_the_messages_of_a_conversation_are_taken(shown: dict[str, Any]) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    messages = [
        SystemMessage("Answer in one sentence."),
        HumanMessage(QUESTION),
        AIMessage("An immutable folder with everything that a search needs."),
        HumanMessage("Which file points at the one that is served?"),
    ]
    assert shown["model"].invoke(messages).content


def test_the_client_in_a_runnable_keeps_the_sources(shown: dict[str, Any]) -> None:
    attributed = shown["attributed"]
    assert [source.number for source in attributed.sources] == [1, 2]
    assert attributed.citations is not None


def test_the_retriever_gives_passages_nearest_first(shown: dict[str, Any]) -> None:
    documents = shown["retriever"].invoke(QUESTION)
    scores = [document.metadata["score"] for document in documents]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert documents[0].metadata["heading_path"][:1] == ["Concepts"]
    assert "text" not in documents[0].metadata


def test_the_retriever_takes_filters(shown: dict[str, Any]) -> None:
    filtered = shown["GraphRetriever"](client=shown["client"], filters={"source": "concepts.md"})
    assert {document.metadata["source"] for document in filtered.invoke(QUESTION)} == {"concepts.md"}


def test_a_chain_of_both_answers(shown: dict[str, Any]) -> None:
    assert shown["chain"].invoke(QUESTION)


def test_an_error_is_the_services_own(shown: dict[str, Any]) -> None:
    from openai import BadRequestError

    wrong = shown["model"].model_copy(update={"extra_body": {"num_docs": 1000}})
    with pytest.raises(BadRequestError, match="num_docs"):
        wrong.invoke(QUESTION)
