"""Reciprocal rank fusion: the formula, and that nothing but ranks and the tie order decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vectorstore.fusion import K, fuse

rankings = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=20), max_size=4)
tie_orders = st.permutations(range(31))


def test_the_formula() -> None:
    fused = dict(fuse([[3, 1], [1, 2]], limit=10, tie_order=[0, 1, 2, 3]))
    assert fused == {3: 1 / (K + 1), 1: 1 / (K + 2) + 1 / (K + 1), 2: 1 / (K + 2)}


def test_ties_follow_their_order() -> None:
    assert [row for row, _ in fuse([[2], [0], [1]], limit=3, tie_order=[1, 2, 0])] == [2, 0, 1]


def test_nothing_to_fuse() -> None:
    assert fuse([], limit=5, tie_order=[]) == []
    assert fuse([[], []], limit=5, tie_order=[]) == []
    assert fuse([[0]], limit=0, tie_order=[0]) == []


@given(rankings, tie_orders, st.randoms())
def test_the_order_of_the_rankings_does_not_matter(given_: list[list[int]], order: list[int], random: object) -> None:
    shuffled = list(given_)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fuse(given_, limit=100, tie_order=order) == fuse(shuffled, limit=100, tie_order=order)


@given(rankings, tie_orders)
def test_scores_fall_and_every_row_is_there_once(given_: list[list[int]], order: list[int]) -> None:
    fused = fuse(given_, limit=1000, tie_order=order)
    keys = [(-score, order[row]) for row, score in fused]
    assert keys == sorted(keys)
    assert sorted(row for row, _ in fused) == sorted({row for ranking in given_ for row in ranking})
    assert fuse(given_, limit=3, tie_order=order) == fused[:3]


@given(st.lists(st.integers(0, 30), unique=True, min_size=2), tie_orders)
def test_one_ranking_is_kept(ranking: list[int], order: list[int]) -> None:
    assert [row for row, _ in fuse([ranking, ranking], limit=100, tie_order=order)] == ranking
