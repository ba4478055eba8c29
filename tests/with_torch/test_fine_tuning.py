"""Training pairs are positives, negatives are none of them, and the notebook that trains makes the search better."""

from __future__ import annotations

import os
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import numpy.typing as npt
import pytest

from evaluation.training_pairs import TrainingPair, batches, hard_negatives, make

pytestmark = pytest.mark.torch

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06-fine-tune-the-embedder.ipynb"

SECTIONS = [
    (
        "cells",
        "Manual › Changing the cells",
        "Lithium cells last about four years when measurements are sent once a day. "
        "The housing is opened with a hexagon key of five millimetres and closed again by hand. "
        "Nothing that was measured is lost while the cells are changed.",
    ),
    (
        "alarms",
        "Manual › Alarms",
        "People are called in the order of their list, the first at once and the next after eight minutes. "
        "An alarm ends when the water has stayed below its limit for half an hour without a break.",
    ),
    ("stub", "Manual › Stub", "Too short."),
]


def _unit(*rows: tuple[float, ...]) -> npt.NDArray[np.float32]:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_a_pair_is_of_one_section() -> None:
    texts = {document: f"{title}\n{text}" for document, title, text in SECTIONS}
    pairs = make(SECTIONS, sentences=2, seed=1)
    assert {pair.document for pair in pairs} == {"cells", "alarms"}
    for pair in pairs:
        assert all(word in texts[pair.document] for word in pair.question.split())
        assert pair.passage.split()[-1] in texts[pair.document]


def test_a_sentence_that_was_made_a_question_is_not_in_its_passage() -> None:
    _, _, text = SECTIONS[0]
    made = [pair for pair in make(SECTIONS, sentences=9, seed=1) if pair.document == "cells"]
    assert made[0] == TrainingPair("Manual Changing the cells", text, "cells")
    assert len(made) > 1
    for pair in made[1:]:
        (sentence,) = (one for one in text.split(". ") if all(word in one for word in pair.question.split()))
        assert sentence not in pair.passage


def test_the_same_pairs_for_the_same_seed_in_any_order() -> None:
    assert make(SECTIONS, sentences=1, seed=3) == make(list(reversed(SECTIONS)), sentences=1, seed=3)


def test_a_negative_is_neither_an_answer_nor_perhaps_one() -> None:
    documents = _unit((1, 0, 0), (0.98, 0.2, 0), (0.7, 0.7, 0.2), (0.3, 0.9, 0.4))
    question, passage = _unit((0.9, 0.45, 0)), _unit((1, 0.1, 0))
    # The right one; one that says the same; one as near to the question as the right one; and one that is wrong.
    assert hard_negatives(question, passage, documents, [0]).tolist() == [3]
    assert hard_negatives(question, passage, documents[:3], [0]).tolist() == [-1]
    assert hard_negatives(question, passage, documents, [0], margin=1.2).tolist() == [2]


def test_no_document_is_twice_in_a_batch() -> None:
    draw = np.random.default_rng(0)
    touched = [tuple(row) for row in draw.integers(0, 30, (100, 2)).tolist()]
    made = batches(touched, size=8, seed=5)
    assert sorted(row for batch in made for row in batch) == list(range(100))
    for batch in made:
        assert 1 <= len(batch) <= 8
        seen: set[int] = set()
        for row in batch:
            assert seen.isdisjoint(touched[row])
            seen.update(touched[row])
    assert made == batches(touched, size=8, seed=5)
    assert made != batches(touched, size=8, seed=6)
    assert batches([], size=8, seed=5) == []


@pytest.mark.timeout(1200)
def test_the_notebook_makes_the_search_better_and_serves_it(tmp_path: Path) -> None:
    """The real model, from top to bottom; its last cell asserts that unseen questions are answered better."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute(
        env={**os.environ, "WORK": str(tmp_path), "IPYTHONDIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    )
    said = "".join(output.get("text", "") for output in notebook.cells[-2].outputs)
    assert said.startswith("nDCG@10 on unseen questions:")
