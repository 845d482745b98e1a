"""Progress: stage, tiles, speed and time left on a terminal; nothing of it on a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from geoseg.cli.progress import Watch
from geoseg.events import RowDone, StageStarted

RUN = textwrap.dedent(
    """
    import sys, time
    from geoseg.cli.progress import Watch
    from geoseg.events import RowDone, StageStarted, Warned

    with Watch("a.tif", quiet="quiet" in sys.argv, verbose=False) as watch:
        watch(StageStarted(stage="predict", total_tiles=1200, done_tiles=300, total_pixels=10**9))
        watch(RowDone(chunk="0", tiles=300, pixels=5_000_000))
        time.sleep(0.5)  # a terminal is painted ten times a second
        watch(Warned(message="no date"))
        watch(StageStarted(stage="vectorize"))
    print("rich" in sys.modules)
    """
)


def on_terminal(*words: str) -> tuple[str, str]:
    """What is written to standard output, and to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, "-c", RUN, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed: how Linux ends a terminal
                break
            if not piece:
                break
            seen += piece
        out = process.communicate()[0]
    os.close(ours)
    return out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_a_terminal_shows_stage_tiles_speed_and_time_left() -> None:
    out, err = on_terminal()
    assert out == "True\n"
    assert "predicting" in err
    assert "600 of 1,200 tiles" in err
    assert re.search(r"[\d.]+ Mpx/s", err)
    assert re.search(r"-?-?:?\d*:[\d-]+", err)  # the column of the time left
    assert "tracing polygons" in err
    assert "geoseg: warning: a.tif: no date" in [line.strip() for line in re.split(r"[\r\n]", err)]


def test_quiet_shows_nothing_and_loads_no_rich() -> None:
    assert on_terminal("quiet") == ("False\n", "")


def test_a_pipe_gets_warnings_only_and_loads_no_rich() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "geoseg: warning: a.tif: no date\n")


@pytest.mark.parametrize("stage", ["resume", "predict"])
def test_work_has_begun_once_there_is_something_to_resume(stage: str) -> None:
    with Watch("a.tif", quiet=True, verbose=False) as watch:
        watch(RowDone(chunk="0", tiles=1, pixels=1))
        before = watch.began
        watch(StageStarted(stage=stage))
        assert (before, watch.began) == (False, True)
