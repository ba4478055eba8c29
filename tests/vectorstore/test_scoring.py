"""The score of candidates, and the union over phrasings of a query. Neither depends on the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.passages import passage
from vectorstore.client import merged
from vectorstore.errors import MissingPartError
from vectorstore.search.scoring import Weights, weighted
from vectorstore.wire import Mode, Prediction, Signal

SIGNALS: tuple[Signal, ...] = ("dense", "lexical", "sparse", "multi_vector")
PARTS = st.lists(st.sampled_from(SIGNALS), unique=True)
SHARES = st.floats(0, 1, width=32)


@pytest.mark.parametrize(
    ("parts", "mode", "expected"),
    [
        (("dense", "lexical"), "rescored", {"dense": 0.4, "lexical": 0.6}),
        (("dense", "lexical", "multi_vector"), "rescored", {"dense": 1 / 6, "lexical": 1 / 3, "multi_vector": 1 / 2}),
        (("dense", "lexical", "multi_vector"), "fused", {"dense": 0.4, "lexical": 0.6}),
        (SIGNALS, "rescored", {"dense": 0.4, "sparse": 0.2, "multi_vector": 0.4}),
        (SIGNALS, "fused", {"dense": 2 / 3, "sparse": 1 / 3}),
        (SIGNALS, "lexical", {"lexical": 1.0}),
        (("dense",), "fused", {"dense": 1.0}),
    ],
)
def test_default_weights(parts: tuple[Signal, ...], mode: Mode, expected: dict[Signal, float]) -> None:
    assert Weights().of(parts, mode) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("parts", "trust", "expected"),
    [
        (("dense", "lexical"), {"dense": 0.5}, {"dense": 0.25, "lexical": 0.75}),
        (("dense", "lexical", "multi_vector"), {"multi_vector": 0.0}, {"dense": 0.4, "lexical": 0.6}),
        (("dense", "lexical", "multi_vector"), {"dense": 0.0, "multi_vector": 0.0}, {"lexical": 1.0}),
        (("dense", "lexical", "multi_vector"), {"lexical": 0.0}, {"dense": 1 / 4, "multi_vector": 3 / 4}),
        (SIGNALS, {"dense": 0.0, "sparse": 0.0, "multi_vector": 1.0, "lexical": 1.0}, {"lexical": 1.0}),
    ],
)
def test_default_weights_follow_the_measured_trust(
    parts: tuple[Signal, ...], trust: dict[Signal, float], expected: dict[Signal, float]
) -> None:
    assert Weights().of(parts, "rescored", trust) == pytest.approx(expected)


def test_weights_that_are_set_do_not_follow_the_measured_trust() -> None:
    shares = Weights(dense=0.4).of(("dense", "lexical"), "rescored", {"dense": 0.0})
    assert shares == pytest.approx({"dense": 0.4, "lexical": 0.6})


def test_modes_that_an_index_cannot_serve() -> None:
    with pytest.raises(MissingPartError, match="lacks the signal 'lexical'"):
        Weights().of(("dense",), "lexical")
    with pytest.raises(MissingPartError, match="have the weight 0"):
        Weights(dense=0, lexical=0).of(("dense", "lexical", "multi_vector"), "rescored")


@settings(deadline=None)
@given(st.permutations(SIGNALS), st.sampled_from(["fused", "rescored"]), st.tuples(SHARES, SHARES, SHARES, SHARES))
def test_weights_are_shares_whatever_the_order_of_the_parts(
    order: list[Signal], mode: Mode, given_weights: tuple[float, float, float, float]
) -> None:
    weights = Weights(*given_weights)
    if not any(given_weights[:3]):
        return
    shares = weights.of(order, mode)
    assert shares == weights.of(SIGNALS, mode)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())


@settings(deadline=None)
@given(
    st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_scores_do_not_depend_on_order_and_grow_with_every_signal(
    values: list[tuple[float, float, float]], random: object
) -> None:
    names: list[Signal] = ["dense", "lexical", "multi_vector"]
    weights: dict[Signal, float] = {"dense": 1 / 6, "lexical": 1 / 3, "multi_vector": 1 / 2}
    columns = np.array(values, np.float32).T
    scores = weighted(weights, dict(zip(names, columns, strict=True)))
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    same = weighted({name: weights[name] for name in shuffled}, {name: columns[names.index(name)] for name in shuffled})
    np.testing.assert_array_equal(scores, same)  # to the last bit
    rows = np.array([*range(len(values))])
    random.shuffle(rows)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(weighted(weights, dict(zip(names, columns[:, rows], strict=True))), scores[rows])
    for name, column in zip(names, columns, strict=True):
        more = {**dict(zip(names, columns, strict=True)), name: column + np.float32(0.5)}
        assert (weighted(weights, more) > scores).all()


def found(scores: dict[str, float]) -> Prediction:
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    passages = [passage(chunk, score=score, chunk_id=chunk, document_id=chunk) for chunk, score in ranked]
    return Prediction(passages=passages, index_version="v", query_tokens=3)


FOUND = st.dictionaries(st.sampled_from("abcdefgh"), SHARES)


@settings(deadline=None)
@given(st.lists(FOUND, min_size=1, max_size=4), st.integers(0, 8), st.randoms(use_true_random=False))
def test_phrasings_find_each_passage_once_with_its_best_score(
    all_found: list[dict[str, float]], num_docs: int, random: object
) -> None:
    together = merged([found(scores) for scores in all_found], num_docs)
    best: dict[str, float] = {}
    for scores in all_found:
        for chunk, score in scores.items():
            best[chunk] = max(best.get(chunk, 0.0), score)
    expected = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:num_docs]
    assert [(passage.chunk_id, passage.score) for passage in together.passages] == expected
    random.shuffle(all_found)  # type: ignore[attr-defined]
    again = merged([found(scores) for scores in all_found], num_docs)
    assert again.passages == together.passages
    assert again.query_tokens == 3 * len(all_found)
