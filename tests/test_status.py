"""How far a run is: what a run notes while it lasts, and what is read of it at any moment, without touching it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ChunkError, SinkError
from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, Event, StageStarted
from geoseg.journal import RunDirectory
from geoseg.pipeline import segment
from geoseg.status import RunStatus, noted, read_status, worker_figures
from geoseg.testing import LinearModel
from tests.test_pipeline import WEIGHTS, write_tiff

START = datetime(2024, 6, 14, 10, 0, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"tile": 40, "overlap": 6, "chunk": 70, "vector": ()}


class Dying(LinearModel):
    """A net that raises what it is told to, at its fifth tile."""

    error: BaseException = ChunkError("boom at https://host/a.tif?sig=secret", "scene", "w")
    seen = 0

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        Dying.seen += 1
        if Dying.seen == 5:
            raise Dying.error
        return super().predict(batch)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(1, 9999, (4, 150, 150), dtype=np.uint16)
    return write_tiff(tmp_path / "scene.tif", pixels)


def status_of(out: Path) -> RunStatus:
    status = read_status(RunDirectory(out))
    assert status is not None
    return status


def test_a_finished_run_tells_everything(scene: Path, tmp_path: Path) -> None:
    result = segment(scene, model=LinearModel(WEIGHTS), out=tmp_path / "out", **OPTIONS)
    status = status_of(tmp_path / "out")
    assert (status.state, status.process, status.error, status.stage) == ("finished", None, "", "describe")
    assert (status.scene, status.model) == ("scene", "fake-linear")
    assert status.tiles == status.tiles_done == status.forward_passes == result.counts["tiles"]
    assert status.chunks == status.chunks_done > result.counts["chunks"], "seams count too"
    assert status.pixels == status.pixels_done == 150 * 150
    assert (status.pixels_per_second, status.seconds_left) == (None, None)
    [worker] = status.workers
    assert (worker.name, worker.chunks, worker.tiles) == (str(os.getpid()), status.chunks, status.tiles)
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["workers"] == [worker.document()]
    assert report["gauge"] == {"lattice": 25, "run": 25, "forward_passes": 25}


def test_watching_from_within_sees_every_chunk_grow_the_journal(scene: Path, tmp_path: Path) -> None:
    """Read at every event, as a second terminal could: never more than is done, never less than is durable."""
    seen: list[RunStatus] = []

    def look(event: Event) -> None:
        if isinstance(event, ChunkDone):
            seen.append(status_of(tmp_path / "out"))

    segment(scene, model=LinearModel(WEIGHTS), out=tmp_path / "out", on_event=look, **OPTIONS)
    done = [status.chunks_done for status in seen]
    assert len(done) == done[-1] == seen[0].chunks
    assert done == sorted(done)  # seams share a job, so that several are noted at once
    assert all(durable >= number for number, durable in enumerate(done, start=1))
    assert {status.state for status in seen} == {"running"}
    assert {status.process for status in seen} == {os.getpid()}
    assert {status.stage for status in seen} == {"predict"}
    parts = [status.part_bytes for status in seen]
    assert parts == sorted(parts)
    assert parts[0] > 0
    assert all(status.pixels_per_second and status.pixels_per_second > 0 for status in seen)
    assert seen[-1].seconds_left == 0.0


def test_an_interrupted_run_says_so_and_goes_on(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(Dying, "seen", 0)
    monkeypatch.setattr(Dying, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        segment(scene, model=Dying(WEIGHTS), out=out, **OPTIONS)
    before = status_of(out)
    assert (before.state, before.process, before.seconds_left) == ("interrupted", None, None)
    assert 0 < before.tiles_done < before.tiles
    events: list[Event] = []
    segment(scene, model=Dying(WEIGHTS), out=out, on_event=events.append, **OPTIONS)
    [began] = [event for event in events if isinstance(event, StageStarted) and event.stage == "predict"]
    assert (began.done_chunks, began.total_chunks) == (before.chunks_done, before.chunks)
    after = status_of(out)
    assert after.state == "finished"
    assert after.forward_passes == after.tiles_done == after.tiles


def test_a_failed_run_tells_its_error_without_secrets(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dying, "seen", 0)
    with pytest.raises(ChunkError):
        segment(scene, model=Dying(WEIGHTS), out=tmp_path / "out", **OPTIONS)
    status = status_of(tmp_path / "out")
    assert (status.state, status.error) == ("failed", "boom at https://host/a.tif")
    assert "secret" not in (tmp_path / "out" / ".run" / "journal.jsonl").read_text()


def test_a_refused_call_leaves_the_journal_of_a_finished_run_as_it_is(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(scene, model=LinearModel(WEIGHTS), out=out, **OPTIONS)
    before = (out / ".run" / "journal.jsonl").read_bytes()
    with pytest.raises(Exception, match="already holds"):
        segment(scene, model=LinearModel(WEIGHTS), out=out, **OPTIONS)
    assert (out / ".run" / "journal.jsonl").read_bytes() == before
    assert status_of(out).state == "finished"


@pytest.mark.parametrize("what", ["nothing", "empty", "files", "file"])
def test_what_is_no_run_directory_has_no_status(what: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.write_text("x")
    elif what != "nothing":
        place.mkdir()
    if what == "files":
        (place / "labels.tif").write_text("x")
        (place / "run.json").write_text("{}")
    assert read_status(RunDirectory(place)) is None


# --- journals made by hand ---


def journal(out: Path, lines: list[dict[str, Any]]) -> RunDirectory:
    """A run directory with these lines."""
    state = out / ".run"
    state.mkdir(parents=True, exist_ok=True)
    totals = {"scene": "s", "chunks": 10, "tiles": 100, "pixels": 1000}
    (state / "request.json").write_text(json.dumps({"asked": {"model": {"name": "net"}}, "totals": totals}))
    (state / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunDirectory(out)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def began(seconds: float = 0.0, **facts: Any) -> dict[str, Any]:
    return {"kind": "began", "at": at(seconds), "process": 1, "host": "h", **facts}


def record(name: str, seconds: float, *, took: float = 10.0, pixels: int = 100, worker: str = "w") -> dict[str, Any]:
    return {
        "kind": "chunk",
        "name": name,
        "files": {f"{name}.labels.tif": {"size": 7, "sha256": "x"}},
        "counts": {"pixels": pixels, "tiles": 10, "forward_passes": 9},
        "seconds": took,
        "process": 1,
        "worker": worker,
        "peak_memory": 5,
        "finished_at": at(seconds),
    }


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunDirectory, "holder", lambda _: 4711)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("lines", "now", "speed"),
    [
        ([began()], 5, None),
        ([began(), record("a", 10)], 10, 10.0),
        ([began(), record("a", 10), record("b", 20)], 20, 10.0),
        # An hour between two calls is not taken for work, nor is what was done before it for speed.
        ([began(), record("a", 10), record("b", 20), began(3600), record("c", 3610)], 3610, 10.0),
        ([began(), *[record(f"c{n}", n * 10) for n in range(1, 9)], began(3600)], 3605, None),
        # After the window a slower pace is told as it is: 100 pixels a minute.
        (
            [began(), *[record(f"c{n}", n) for n in range(1, 60)], *[record(f"d{n}", n * 60) for n in range(2, 12)]],
            660,
            5 / 3,
        ),
        # Chunks of ten minutes on three workers: the window grows with them.
        (
            [began(), *[record(f"c{n}", n * 200, took=600, worker=f"w{n % 3}") for n in range(3, 13)]],
            2400,
            0.5,
        ),
    ],
    ids=["none", "first", "second", "resumed", "resumed without any", "slower", "long chunks"],
)  # fmt: skip
def test_speed_is_that_of_the_last_minutes_of_this_call(
    lines: list[dict[str, Any]], now: float, speed: float | None, tmp_path: Path
) -> None:
    status = read_status(journal(tmp_path, lines), now=START + timedelta(seconds=now))
    assert status is not None
    assert (status.state, status.process) == ("running", 4711)
    assert status.pixels_per_second == (None if speed is None else pytest.approx(speed, rel=0.05))
    if speed is not None:
        left = max(0, 1000 - status.pixels_done)
        assert status.seconds_left == pytest.approx(left / status.pixels_per_second)  # type: ignore[operator]


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path: Path) -> None:
    status = read_status(journal(tmp_path, [began(), record("a", 10)]))
    assert status is not None
    assert (status.state, status.process, status.chunks_done, status.last_activity) == ("interrupted", None, 1, at(10))


@pytest.mark.usefixtures("running")
def test_a_process_that_lives_on_after_its_run_is_not_at_work(tmp_path: Path) -> None:
    """As a notebook does."""
    ended = {"kind": "ended", "at": at(20), "state": "failed", "error": "boom"}
    status = read_status(journal(tmp_path, [began(), ended]))
    assert status is not None
    assert (status.state, status.error) == ("failed", "boom")
    again = read_status(journal(tmp_path, [began(), ended, began(30)]))
    assert again is not None
    assert (again.state, again.error) == ("running", "")


@given(cut=st.integers(0, 2000))
def test_a_line_that_is_being_written_is_left_out(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    lines = [began(), record("a", 10), record("b", 20)]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    out = tmp_path_factory.mktemp("torn")
    directory = journal(out, [])
    (out / ".run" / "journal.jsonl").write_text(whole[:cut])
    status = read_status(directory)
    assert status is not None
    ends = [
        whole.index(f'"finished_at": "{at(second)}"}}') + len(f'"finished_at": "{at(second)}"}}') for second in (10, 20)
    ]
    assert status.chunks_done == sum(end <= cut for end in ends)


def test_a_chunk_that_was_done_twice_counts_once(tmp_path: Path) -> None:
    """Its first parts were found damaged."""
    status = read_status(journal(tmp_path, [began(), record("a", 10), record("a", 20, worker="v")]))
    assert status is not None
    assert (status.chunks_done, status.tiles_done, [worker.name for worker in status.workers]) == (1, 10, ["v"])


def test_figures_of_workers_add_up() -> None:
    records = [record("a", 1, took=2.0), record("b", 2, took=3.0), record("c", 3, worker="v")]
    v, w = worker_figures(records)
    assert (v.name, v.chunks, v.seconds, v.pixels_per_second) == ("v", 1, 10.0, 10.0)
    assert (w.name, w.chunks, w.tiles, w.pixels, w.seconds, w.pixels_per_second) == ("w", 2, 20, 200, 5.0, 40.0)


def test_events_are_noted_and_passed_on(tmp_path: Path) -> None:
    directory = journal(tmp_path, [])
    passed: list[Event] = []
    events = (
        ClusterReady(address="tcp://h:1", workers=3, dashboard="http://h:2/status"),
        StageStarted(stage="predict"),
        ChunkRetried(chunk="a", reason="503 of https://h/a.tif?sig=secret", worker="w"),
        StageStarted(stage="assemble"),
    )
    with noted(directory, passed.append) as tell:
        for event in events:
            tell(event)
        status = read_status(directory)
    assert passed == list(events)
    assert status is not None
    assert (status.stage, status.retries, status.host) == ("assemble", 1, os.uname().nodename)
    assert "secret" not in (tmp_path / ".run" / "journal.jsonl").read_text()


def test_a_full_disk_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SinkError("no space left")

    monkeypatch.setattr(RunDirectory, "note", full)
    with pytest.raises(ZeroDivisionError), noted(journal(tmp_path, []), lambda _: None):
        _ = 1 / 0


def test_the_lock_is_looked_at_and_not_taken(tmp_path: Path) -> None:
    """Whoever holds it is seen; whoever comes next still gets it; a dead holder counts for nothing."""
    code = (
        "import sys, time; from pathlib import Path; from geoseg.journal import RunDirectory\n"
        "directory = RunDirectory(Path(sys.argv[1]))\n"
        "with directory.locked():\n"
        "    directory.begin({'asked': {}, 'totals': {}}); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        directory = RunDirectory(tmp_path / "out")
        assert directory.holder() == process.pid
        opened = {Path(file.path) for file in psutil.Process().open_files()}
        assert tmp_path / "out" / ".run" / "lock" not in opened
        assert status_of(tmp_path / "out").state == "running"
        process.kill()
        process.wait()
        assert directory.holder() is None
        assert status_of(tmp_path / "out").state == "interrupted"
    with directory.locked():
        assert directory.holder() == os.getpid()
