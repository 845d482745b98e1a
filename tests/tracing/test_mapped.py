"""Arrays in files: zeros that take numbers, and no file left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import SinkError
from geoseg.testing.strategies import windows
from geoseg.tracing.mapped import MappedArray
from geoseg.window import Window


def test_what_is_written_is_read_and_the_folder_stays_empty(tmp_path: Path) -> None:
    mapped = MappedArray((300, 200), np.uint16, tmp_path)
    assert not mapped.array.any()
    mapped.array[7:9] = 65535
    mapped.release()
    assert (np.flatnonzero(mapped.array.any(axis=1)) == [7, 8]).all()
    assert not list(tmp_path.iterdir())


def resident(folder: Path) -> int:
    """Bytes of this process's memory that are pages of files in a folder."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("this system does not tell what a mapping takes")
    kilobytes, ours = 0, False
    for line in smaps.read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            ours = str(folder) in line
        elif ours and words[0] == "Rss:":
            kilobytes += int(words[1])
    return 1024 * kilobytes


def test_what_is_released_takes_no_memory_and_is_still_there(tmp_path: Path) -> None:
    mapped = MappedArray((1000, 4096), np.uint8, tmp_path)
    mapped.array[:] = 7
    assert resident(tmp_path) >= mapped.array.size
    mapped.release()
    assert resident(tmp_path) == 0
    assert (mapped.array == 7).all()


@given(data=st.data(), rows=st.integers(1, 200), cols=st.integers(1, 9))
def test_windows_are_read_and_written_as_of_any_array(data: st.DataObject, rows: int, cols: int) -> None:
    mapped, expected = MappedArray((rows, cols), np.int32), np.zeros((rows, cols), np.int32)
    whole = Window(row_off=0, col_off=0, height=rows, width=cols)
    for number in (7, -8):
        window = data.draw(windows(whole))
        numbers = np.arange(window.height * window.width, dtype=np.int32).reshape(window.shape) * number
        mapped.write(window, numbers)
        expected[window.slices] = numbers
    window = data.draw(windows(whole))
    np.testing.assert_array_equal(mapped.read(window), expected[window.slices], strict=True)
    np.testing.assert_array_equal(mapped.array, expected)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1,)])
def test_the_smallest_shapes_are_arrays(shape: tuple[int, ...]) -> None:
    assert MappedArray(shape, np.uint8).array.shape == shape


def test_where_no_file_can_be_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="no room for 6 bytes"):
        MappedArray((2, 3), np.uint8, tmp_path / "missing")


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="no room"):
        MappedArray((1 << 31, 1 << 30), np.uint8, tmp_path)
