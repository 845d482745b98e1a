"""An external sort: whatever the order, the sizes and the memory, the same tables come out."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.sink import sorting
from geoseg.sink.sorting import Sorted, pieces
from geoseg.sink.vector import write_features

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def table(keys: Sequence[int]) -> pa.Table:
    """Rows whose other columns follow from their key, some of them long."""
    return pa.table(
        {
            "first": pa.array(keys, pa.int64()),
            "word": pa.array([f"w{key}" for key in keys], pa.string()),
            "geometry": pa.array([bytes(key % 7 * (200 if key % 13 == 0 else 3)) for key in keys], pa.binary()),
        }
    )


@settings(max_examples=100)
@given(
    keys=st.lists(st.integers(-(2**62), 2**62), unique=True, max_size=80),
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    budget=st.sampled_from([0, 300, 2000, 10**6]),
    fan=st.sampled_from([2, 3, 64]),
)
def test_rows_come_in_the_order_of_their_key(keys: list[int], sizes: list[int], budget: int, fan: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "FAN", fan)
        patch.setattr(sorting, "ROWS", 9)
        patch.setattr(sorting, "PIECE", 500)
        rows, start = Sorted(Path(folder) / "runs", "first", budget=budget), 0
        for size in [*sizes, len(keys)]:
            rows.add(table(keys[start : start + size]))
            start += size
        expected = table(sorted(keys))
        once, again = list(rows), list(rows)
        assert pa.concat_tables([expected.slice(0, 0), *once]).equals(expected)
        assert (
            [len(each) for each in once] == [len(each) for each in again] == [len(each) for each in pieces([expected])]
        )


@given(cuts=st.lists(st.integers(0, 60), max_size=10), limit=st.integers(0, 3000), rows=st.integers(1, 30))
def test_pieces_depend_on_the_rows_alone(cuts: list[int], limit: int, rows: int) -> None:
    whole = table(range(60))
    ends = [0, *sorted(cuts), 60]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "ROWS", rows)
        found = list(pieces((whole.slice(low, high - low) for low, high in itertools.pairwise(ends)), limit))
        assert [len(each) for each in found] == [len(each) for each in pieces([whole], limit)]
    assert pa.concat_tables(found).equals(whole)
    sizes = [sum(len(value) for value in each["geometry"].to_pylist()) for each in found]
    assert all(len(each) <= rows for each in found)
    assert all(len(each) == 1 or size <= limit for each, size in zip(found, sizes, strict=True))
    for one, size, following in zip(found, sizes, found[1:], strict=False):  # no piece could be larger
        assert len(one) == rows or size + len(following["geometry"][0].as_py()) > limit


def test_what_waits_on_disk_is_in_the_folder_alone(tmp_path: Path) -> None:
    rows = Sorted(tmp_path / "runs", "first", budget=1000)
    for start in range(0, 900, 100):
        rows.add(table(np.arange(start, start + 100)[::-1].tolist()))
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    assert len(list((tmp_path / "runs").iterdir())) == 9
    assert [len(each) for each in rows] == [900]


def many(count: int) -> Iterator[geopandas.GeoDataFrame]:
    """Squares with 45 vertices, the last ones first."""
    for start in reversed(range(0, count, 5000)):
        at = np.arange(start, start + 5000)
        x, y = at % 400 * 10.0 + 5e5, at // 400 * 10.0 + 5e6
        shapes = shapely.segmentize(shapely.box(x, y, x + 10, y + 10), 1.0)
        yield geopandas.GeoDataFrame({"first": at, "class_id": at % 5, "area_m2": 100.0}, geometry=shapes, crs=32633)


def test_tables_that_are_held_do_not_grow_with_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "BUDGET", 2 * 2**20)
    monkeypatch.setattr(sorting, "PIECE", 2**18)
    most = []
    usual = pa.default_memory_pool()
    for count in (10_000, 30_000):  # 8 MB and 24 MB
        pool = pa.proxy_memory_pool(usual)
        pa.set_memory_pool(pool)
        try:
            write_features(many(count), tmp_path, ["parquet", "geojson"])
        finally:
            pa.set_memory_pool(usual)
        most.append(pool.max_memory())
    assert most[1] < most[0] * 1.2


PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks.measure import own_peak_memory
from geoseg.sink import sorting
from geoseg.sink.vector import write_features
from tests.sink.test_sorting import many

sorting.BUDGET, sorting.PIECE = 8 * 2**20, 2**20
folder, count = Path(sys.argv[1]), int(sys.argv[2])
write_features(many(5000), folder, ["parquet", "geojson", "fgb"])
before = own_peak_memory()
write_features(many(count), folder, ["parquet", "geojson", "fgb"])
print(json.dumps(own_peak_memory() - before))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features(tmp_path: Path) -> None:
    grown = []
    for count in (200_000, 600_000):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(count)],
            capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        grown.append(json.loads(done.stdout))
    assert grown[1] < grown[0] + 48 * 2**20, "half a gigabyte more of features, but for the index of FlatGeobuf"
