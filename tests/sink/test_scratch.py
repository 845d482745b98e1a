"""The raw file behind a raster: a numpy array is the oracle."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.sink.scratch import Scratch
from geoseg.testing.strategies import windows
from geoseg.window import Window

WHOLE = Window(row_off=0, col_off=0, height=23, width=31)


@given(st.lists(windows(WHOLE), max_size=8), st.sampled_from(["uint8", "uint16", "float32"]), windows(WHOLE))
def test_holds_what_an_array_would(written: list[Window], dtype: str, wanted: Window) -> None:
    expected = np.full((2, *WHOLE.shape), 7, dtype)
    with TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder) / "raw", expected.shape, dtype, 7)
        for number, window in enumerate(written):
            values = np.arange(2 * window.size).reshape(2, *window.shape).astype(dtype) + np.dtype(dtype).type(number)
            expected[:, *window.slices] = values
            scratch.write(window, values)
        np.testing.assert_array_equal(scratch.read(wanted), expected[:, *wanted.slices])
        np.testing.assert_array_equal(np.fromfile(scratch.path, dtype).reshape(expected.shape), expected)
        scratch.remove()


def test_all_space_is_claimed_at_once_and_given_back(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "raw", (2, 1000, 1500), "uint16", 9)
    assert scratch.path.stat().st_size == 2 * 1000 * 1500 * 2
    assert scratch.path.stat().st_blocks * 512 >= 2 * 1000 * 1500 * 2
    scratch.remove()
    scratch.remove()
    assert not scratch.path.exists()


def test_a_disk_that_fills_up_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 3_000_000
    pwrite = os.pwrite

    def small_disk(file: int, data: memoryview, at: int) -> int:
        if at >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data[: room - at], at)

    monkeypatch.setattr(os, "pwrite", small_disk)
    with pytest.raises(OSError, match="No space left"):
        Scratch(tmp_path / "raw", (1, 2000, 2000), "uint8", 255)
    assert not list(tmp_path.iterdir())
    Scratch(tmp_path / "fits", (1, 1000, 3000), "uint8", 255).remove()


def test_a_file_cut_short_is_not_read_as_if_whole(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "raw", (1, 10, 10), "uint8", 0)
    os.truncate(scratch.path, 50)
    with pytest.raises(OSError, match="cut short"):
        scratch.read(Window(row_off=4, col_off=0, height=3, width=10))
    scratch.remove()
