"""A run in one terminal, looked at and ended from another: real processes and workers, a scene behind a slow server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import rasterio.shutil
from distributed import Client

from geoseg.testing import write_scene
from geoseg.testing.server import Asked, Fault, RangeServer, range_server

GEOSEG = str(Path(sys.executable).with_name("geoseg"))
SECRET = "sig=0123456789abcdef"
HEADER_BYTES = 20_000
TILES = 64
OPTIONS = ("--tile", "64", "--overlap", "0", "--chunk", "64", "--vector", "none")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A scene of 64 blocks."""
    folder = tmp_path_factory.mktemp("scene")
    whole, blocks = write_scene(folder / "whole.tif", 512, 512, seed=2), folder / "scene.tif"
    rasterio.shutil.copy(whole, blocks, driver="GTiff", tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    return blocks.read_bytes()


@pytest.fixture
def slow(content: bytes) -> Iterator[RangeServer]:
    """Serves the scene, each block after a while; `fault` set to None makes it quick."""

    def wait(asked: Asked) -> Fault | None:
        return Fault(delay=0.2) if (asked.start or 0) > HEADER_BYTES else None

    with range_server({"/scene.tif": content}) as server:
        server.fault = wait
        yield server


@contextlib.contextmanager
def running(server: RangeServer, out: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The run, in a session of its own; whatever it leaves behind is killed at the end."""
    command = [GEOSEG, "segment", f"{server.url}/scene.tif?{SECRET}", "--out", str(out), *OPTIONS, *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def status(out: Path) -> dict[str, Any]:
    done = subprocess.run([GEOSEG, "status", str(out), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 2}, done.stderr
    assert done.returncode == 0 or "is no run directory" in done.stderr
    return json.loads(done.stdout) if done.returncode == 0 else {"state": "none", "chunks_done": 0}


def wait_for(look: Callable[[], Any], seconds: float = 90) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return answer


def journalled(out: Path) -> int:
    """Chunks in the journal: a quicker look than `status`."""
    with contextlib.suppress(FileNotFoundError):
        return (out / ".run" / "journal.jsonl").read_text().count('"files"')
    return 0


def nobody_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_a_second_terminal_sees_a_run_go_on_stop_and_finish(slow: RangeServer, tmp_path: Path) -> None:
    out = tmp_path / "map"
    with running(slow, out, "--workers", "2") as process:
        wait_for(lambda: journalled(out) >= 4)
        told = tmp_path / "followed.txt"
        with told.open("w") as stdout:
            follow = subprocess.Popen([GEOSEG, "status", str(out), "--follow"], stdout=stdout)
        wait_for(lambda: "predicting" in told.read_text())
        seen = status(out)
        assert (seen["state"], seen["process"], seen["stage"]) == ("running", process.pid, "predict")
        assert 0 < seen["tiles_done"] < seen["tiles"] == TILES
        assert seen["pixels_per_second"] > 0
        assert seen["seconds_left"] > 0
        assert 1 <= len(seen["workers"]) <= 2
        wait_for(lambda: status(out)["tiles_done"] > seen["tiles_done"])
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    nobody_left(children)
    stopped = status(out)
    assert (stopped["state"], stopped["process"], stopped["seconds_left"]) == ("interrupted", None, None)
    assert 0 < stopped["tiles_done"] < TILES
    assert follow.wait(timeout=60) == 1
    followed = told.read_text()
    assert re.search(r"^state +running by process \d+ on \S+: predicting$", followed, re.MULTILINE)
    assert re.search(r"^state +interrupted; the same command resumes it$", followed, re.MULTILINE)

    slow.fault = lambda _: None
    with running(slow, out, "--workers", "2") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    finished = status(out)
    assert (finished["state"], finished["tiles_done"], finished["forward_passes"]) == ("finished", TILES, TILES)
    report = json.loads((out / "run.json").read_text())
    assert report["gauge"] == {"lattice": TILES, "run": TILES, "forward_passes": TILES}
    assert sum(worker["tiles"] for worker in report["workers"]) == TILES
    for file in [out / "run.json", *(out / ".run").iterdir()]:
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit code and lines on standard error of a run that has just got a signal."""
    out, err = process.communicate(timeout=10)
    assert out == ""
    return process.returncode, err.splitlines()


RESUMES = "geoseg: interrupted; the same command resumes"


def test_ctrl_c_ends_a_run_with_workers_here(slow: RangeServer, tmp_path: Path) -> None:
    """A terminal sends it to every process of the run."""
    out = tmp_path / "map"
    with running(slow, out, "--workers", "2") as process:
        wait_for(lambda: journalled(out) >= 2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)
        code, lines = ended(process)
    assert code == 130
    assert lines in ([RESUMES], [f"{RESUMES} what stands in {out}"])
    nobody_left(children)
    seen = status(out)
    assert seen["state"] == "interrupted"
    assert seen["chunks_done"] == journalled(out) >= 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Path, list[psutil.Process]]]:
    """A scheduler and two workers that stand on their own; the file that names them, and the workers."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    dask = [sys.executable, "-m", "dask"]
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[bytes]] = []

        def start(*words: str) -> None:
            process = subprocess.Popen([*dask, *words], **quiet)  # type: ignore[call-overload]
            started.append(process)
            stack.callback(_end, process)

        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        for _ in range(2):
            start("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        yield file, [psutil.Process(process.pid) for process in started[1:]]


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_sigterm_ends_a_run_on_a_cluster_and_leaves_the_cluster(
    slow: RangeServer, cluster: tuple[Path, list[psutil.Process]], tmp_path: Path
) -> None:
    out, (file, workers) = tmp_path / "map", cluster
    with running(slow, out, "--scheduler-file", str(file), "-v") as process:
        wait_for(lambda: journalled(out) >= 2)
        process.terminate()
        code, lines = ended(process)
    assert code == 143
    assert lines[-1].startswith(RESUMES)
    assert len([line for line in lines if " at tcp://127.0.0.1:" in line]) == 1
    assert all(worker.is_running() for worker in workers)
    with Client(scheduler_file=str(file), timeout=30, set_as_default=False) as client:

        def tasks(dask_scheduler: Any = None) -> list[str]:
            return [str(key) for key in dask_scheduler.tasks if "geoseg" in str(key)]

        wait_for(lambda: client.run_on_scheduler(tasks) == [], 30)
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
    seen = status(out)
    assert (seen["state"], seen["chunks_done"]) == ("interrupted", journalled(out))
