"""Filters: refused ones, and the form that stores get. tests/contracts/test_stores.py has their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vectorstore.errors import InvalidFilterError
from vectorstore.stores.filters import check

FIELDS = ("lang", "year", "draft")


@pytest.mark.parametrize(
    ("where", "field", "told"),
    [
        ("lang=en", "filters", "send an object"),
        ([], "filters", "send an object"),
        ({"$not": {}}, "filters.$not", "not a logical operator"),
        ({"colour": "red"}, "filters.colour", "Known fields: draft, lang, year"),
        ({"lang": {"$like": "e%"}}, "filters.lang.$like", "not an operator"),
        ({"lang": {}}, "filters.lang", "empty"),
        ({"lang": None}, "filters.lang.$eq", "compare with"),
        ({"lang": ["en"]}, "filters.lang.$eq", "compare with"),
        ({"year": {"$gt": "2020"}}, "filters.year.$gt", "compares numbers"),
        ({"year": {"$gt": True}}, "filters.year.$gt", "compares numbers"),
        ({"year": {"$gte": float("nan")}}, "filters.year.$gte", "finite"),
        ({"year": 2**70}, "filters.year.$eq", "64 bits"),
        ({"year": {"$in": []}}, "filters.year.$in", "at least one value"),
        ({"year": {"$in": [1, "1"]}}, "filters.year.$in", "number and text"),
        ({"year": {"$in": 1}}, "filters.year.$in", "a list"),
        ({"$and": []}, "filters.$and", "list of filters"),
        ({"$and": {"lang": "en"}}, "filters.$and", "list of filters"),
        ({"$and": [{"lang": "en"}, {"colour": 1}]}, "filters.$and[1].colour", "Known fields"),
        ({"$or": [{"lang": "en"}, {}]}, "filters.$or[1]", "empty"),
        ({"year": {"$in": list(range(200))}}, "filters", "more than 100"),
    ],
)
def test_refused(where: Any, field: str, told: str) -> None:
    with pytest.raises(InvalidFilterError) as error:
        check(where, FIELDS)
    assert error.value.field == field
    assert told in error.value.message


def test_depth_is_limited() -> None:
    where: dict[str, Any] = {"lang": "en"}
    for _ in range(20):
        where = {"$and": [where, {"year": 1}]}
    with pytest.raises(InvalidFilterError, match="nested deeper than 8"):
        check(where, FIELDS)


def test_filters_are_normalised() -> None:
    assert check(None, FIELDS) is None
    assert check({}, FIELDS) is None
    assert check({"lang": "en", "year": 1}, FIELDS) == {"$and": [{"lang": {"$eq": "en"}}, {"year": {"$eq": 1}}]}
    assert check({"year": {"$gte": 1, "$lt": 3}}, FIELDS) == {"$and": [{"year": {"$gte": 1}}, {"year": {"$lt": 3}}]}
    assert check({"$or": [{"year": 1}]}, FIELDS) == {"year": {"$eq": 1}}


def test_error_paths_start_at_the_given_prefix(tmp_path: Path) -> None:
    with pytest.raises(InvalidFilterError) as error:
        check({"colour": 1}, FIELDS, "instances[2].filters")
    assert error.value.field == "instances[2].filters.colour"
