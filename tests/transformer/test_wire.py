"""The shapes that other languages and tools derive from an answer's fields."""

from __future__ import annotations

from docsite import typescript
from kserve_rag.mcp import AskResult
from transformer.wire import INPUT_TENSORS, MAX_MESSAGES, MAX_QUESTION_CHARS, Instance, OutcomeFields, tensor_datatypes


def test_the_typescript_types_are_up_to_date() -> None:
    assert typescript.FILE.read_text(encoding="utf-8") == typescript.source(), "run python -m docsite.typescript"


def test_the_page_has_the_limits_of_the_wire() -> None:
    page = (typescript.FILE.parent / "wire.ts").read_text(encoding="utf-8").replace("_000", "000")
    assert f"MAX_QUESTION_CHARS = {MAX_QUESTION_CHARS};" in page
    assert f"MAX_MESSAGES = {MAX_MESSAGES};" in page


def test_parameters_have_the_datatypes_of_their_fields() -> None:
    assert INPUT_TENSORS.keys() == Instance.model_fields.keys() - {"stop"}
    datatypes = tensor_datatypes(Instance)
    assert (datatypes["seed"], datatypes["top_k"], datatypes["top_p"]) == ("UINT64", "INT32", "FP32")
    assert (datatypes["refuse"], datatypes["filters"], datatypes["input"]) == ("BOOL", "BYTES", "BYTES")


def test_the_tool_of_assistants_has_the_fields_of_a_complete_answer() -> None:
    assert OutcomeFields.model_fields.keys() <= AskResult.model_fields.keys()
