"""Answers as JSON that every parser reads, and as CSV."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.catalog.answer import write_answer
from geoseg.catalog.sql import database


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def written(sql: str, kind: str = "json", **tables: Any) -> str:
    with database({name: pa.table(columns) for name, columns in tables.items()}, {}) as opened:
        file = io.StringIO()
        write_answer(opened.select(sql, {}), kind, file)
    return file.getvalue()


def rows(sql: str, **tables: Any) -> Any:
    return json.loads(written(sql, **tables), parse_constant=refuse)


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_numbers_that_json_has_not_are_null(numbers: list[float]) -> None:
    expected = [number if math.isfinite(number) else None for number in numbers]
    assert [row["x"] for row in rows("SELECT x FROM t", t={"x": numbers})] == expected
    (nested,) = rows("SELECT list(x) AS xs, {'all': list(x)} AS deep FROM t", t={"x": numbers})
    assert nested == {"xs": expected, "deep": {"all": expected}}


def test_sums_of_whole_numbers_are_whole_numbers() -> None:
    table = {"n": list(range(33))}
    assert rows("SELECT sum(n) AS total, [sum(n)] AS within FROM t", t=table) == [{"total": 528, "within": [528]}]
    (row,) = rows("SELECT sum(n) AS total FROM t", t={"n": [2**63 - 1] * 3})
    assert row["total"] == 3 * (2**63 - 1)
    assert written("SELECT sum(n) AS total FROM t", "csv", t=table) == "total\n528\n"


@pytest.mark.parametrize(("number", "text"), [("'nan'", "nan"), ("'-inf'", "-inf"), ("NULL", "")])
def test_csv_says_what_is_no_number(number: str, text: str) -> None:
    """Words of its own it has for it; lists in it are JSON."""
    found = written(f"SELECT {number}::DOUBLE AS x, [1.5::DOUBLE, 'inf'] AS xs", "csv")
    assert found == f'x,xs\n{text},"[1.5, null]"\n'
