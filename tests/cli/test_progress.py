"""Progress: stage, tiles, chunks, speed, time left and workers on a terminal; nothing of it on a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import textwrap

import pytest

from geoseg.cli.progress import Watch
from geoseg.events import RowDone, StageStarted

RUN = textwrap.dedent(
    """
    import logging, sys, time
    from geoseg.cli.messages import set_up_messages
    from geoseg.cli.progress import Watch
    from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, RowDone, StageStarted, Warned

    verbose, quiet, workers = "verbose" in sys.argv, "quiet" in sys.argv, 12 if "many" in sys.argv else 2
    set_up_messages(verbose=verbose, quiet=quiet, as_json="json" in sys.argv)
    with Watch("a.tif", quiet=quiet, verbose=verbose) as watch:
        watch(ClusterReady(address="tcp://10.0.0.1:8786", workers=workers, dashboard="http://10.0.0.1:8787/status"))
        watch(StageStarted(stage="predict", total_tiles=1200, done_tiles=300, total_chunks=40, done_chunks=9))
        for worker in range(workers):
            watch(RowDone(chunk=f"c{worker}", tiles=30, pixels=500_000 * (worker + 1), worker=f"w{worker}"))
        watch(ChunkDone(chunk="c1", seconds=1.5, tiles=30, pixels=1, worker="w1"))
        time.sleep(0.5)  # a terminal is painted eight times a second
        for number in range(40):
            watch(Warned(message=f"no date in {number}: " + "long " * 40))
            logging.getLogger("distributed.core").error("lost %d: %s", number, "words " * 40)
            print(f"printed {number}", file=sys.stderr)
        watch(StageStarted(stage="vectorize"))
        time.sleep(0.3)
    print("rich" in sys.modules)
    """
)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*words: str, columns: int = 120) -> tuple[str, list[str]]:
    """What is written to standard output, and the lines of standard error, where that is a terminal."""
    out, seen = raw(RUN, *words, columns=columns)
    return out, [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", seen))]


def raw(script: str, *words: str, columns: int = 120) -> tuple[str, str]:
    """What a script writes to standard output, and all that it writes to standard error, a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment | {"TERM": "xterm-256color"}
    ) as process:
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
    return out, seen.decode()


def test_a_terminal_shows_stage_tiles_chunks_speed_time_left_and_workers() -> None:
    out, lines = on_terminal()
    assert out == "True\n"
    [bar, *_] = [line for line in lines if line.startswith("predicting")]
    assert "390 of 1,200 tiles, " not in bar, "c1 is finished: its tiles count once"
    assert "360 of 1,200 tiles, 10 of 40 chunks, " in bar
    assert re.search(r"[\d.]+ Mpx/s, [\d.]+ (s|min [\d.]+ s) left, 2 workers$", bar)
    assert any(line.startswith("tracing polygons") for line in lines)
    assert lines.count("geoseg: 2 workers at tcp://10.0.0.1:8786, dashboard at http://10.0.0.1:8787/status") == 1


def test_nothing_is_torn_where_lines_come_in_between() -> None:
    _, lines = on_terminal("verbose")
    for number in range(40):
        assert f"geoseg: warning: a.tif: no date in {number}: " + "long " * 39 + "long" in lines
        assert f"distributed.core: lost {number}: " + "words " * 39 + "words" in lines
        assert f"printed {number}" in lines


def test_verbose_shows_every_worker_the_slowest_first() -> None:
    _, lines = on_terminal("verbose")
    tables = [
        lines[i + 1 : i + 3] for i, line in enumerate(lines) if line.startswith("predicting") and "2 workers" in line
    ]
    assert re.fullmatch(r"  w0  0 chunks  [\d.]+ Mpx/s", tables[-1][0])
    assert re.fullmatch(r"  w1  1 chunks  [\d.]+ Mpx/s", tables[-1][1])
    assert "geoseg: c1 done in 1.5 s by w1" in lines


def test_many_workers_become_one_line() -> None:
    _, lines = on_terminal("verbose", "many")
    assert any(
        re.fullmatch(r"  workers: [\d.]+ Mpx/s at the median; slowest w0 with [\d.]+ Mpx/s", line) for line in lines
    )


def test_a_narrow_terminal_keeps_one_line() -> None:
    _, lines = on_terminal(columns=60)
    bars = [line for line in lines if "360 of 1,200 tiles" in line]
    assert bars
    assert max(map(len, bars)) <= 60


def test_a_run_that_has_to_be_ended_leaves_the_cursor_visible() -> None:
    """Two signals while the main thread is inside a library, where nothing can close the bar."""
    script = textwrap.dedent(
        """
        import ctypes, os, signal, threading, time
        from geoseg.cli.progress import Watch
        from geoseg.cli.signals import Signals
        from geoseg.events import StageStarted

        def twice():
            for _ in range(2):
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGTERM)

        with Signals() as signals, Watch("a.tif", quiet=False, verbose=False) as watch:
            signals.hint = "interrupted; the same command resumes"
            watch(StageStarted(stage="predict", total_tiles=10))
            threading.Thread(target=twice, daemon=True).start()
            mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)  # waits for ever, and no signal wakes it
        """
    )
    _, seen = raw(script)
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "geoseg: interrupted; the same command resumes" in seen


def test_quiet_shows_nothing_of_geoseg_and_loads_no_rich() -> None:
    out, lines = on_terminal("quiet")
    assert out == "False\n"
    assert [line for line in lines if line and not line.startswith("printed")] == []


def test_a_json_log_has_no_bar_even_on_a_terminal() -> None:
    out, lines = on_terminal("json")
    assert out == "False\n"
    assert all(line.startswith(("{", "printed")) for line in lines if line)


def test_a_pipe_gets_warnings_only_and_loads_no_rich() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    said = [line for line in done.stderr.splitlines() if not line.startswith("printed")]
    assert said == [f"geoseg: warning: a.tif: no date in {number}: " + "long " * 39 + "long" for number in range(40)]


@pytest.mark.parametrize("stage", ["resume", "predict"])
def test_work_has_begun_once_there_is_something_to_resume(stage: str) -> None:
    with Watch("a.tif", quiet=True, verbose=False) as watch:
        watch(RowDone(chunk="0", tiles=1, pixels=1))
        before = watch.began
        watch(StageStarted(stage=stage))
        assert (before, watch.began) == (False, True)
