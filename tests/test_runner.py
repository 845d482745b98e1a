"""Jobs on real worker processes: accounted for exactly once, however their workers die, hang, or come and go."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client

from geoseg.errors import ChunkError, ClusterError, ConfigError, GeosegError, SourceError
from geoseg.events import ChunkRetried, Event, RowDone
from geoseg.exchange import OnRow, Shared
from geoseg.journal import Record
from geoseg.processes import LocalProcesses
from geoseg.runner import DaskRunner, InlineRunner, Runner
from tests.clusters import until

ROWS, TILES, PIXELS = 5, 7, 1000
"""Tile rows of every job here, and what each row counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A job that notes each start in a file, and may go wrong in its third row."""

    name: str
    notes: Path
    trouble: str = ""
    times: int = 10**9
    seconds: float = 0.0
    shared: Shared[bytes] | None = None

    @property
    def place(self) -> tuple[str, str]:
        return "scene", f"window of {self.name}"

    @property
    def starts(self) -> list[int]:
        """Process numbers, one per start."""
        file = self.notes / self.name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def run(self, on_row: OnRow | None = None) -> list[Record]:
        assert on_row is not None
        with (self.notes / self.name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        length = 0 if self.shared is None else len(self.shared.value)
        for row in range(ROWS):
            time.sleep(self.seconds)
            if row == 2 and len(self.starts) <= self.times:
                self._stumble()
            on_row(TILES, PIXELS)
        counts = {"tiles": ROWS * TILES, "pixels": ROWS * PIXELS, "length": length}
        return [{"name": self.name, "files": {}, "seconds": 0.0, "counts": counts, "process": os.getpid()}]

    def _stumble(self) -> None:
        if self.trouble:
            time.sleep(0.2)  # the reports of the rows before are on their way
        if self.trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.trouble == "hang":
            time.sleep(600)
        elif self.trouble == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.trouble == "geoseg":
            raise SourceError("a.tif: is gone")
        elif self.trouble == "python":
            raise ZeroDivisionError("one line\nand another")


@contextmanager
def cluster_of(workers: int, **settings: Any) -> Iterator[tuple[LocalProcesses, Client]]:
    """Worker processes with nannies, as `geoseg.cluster` starts them."""
    with (
        dask.config.set({"distributed.worker.daemon": True} | settings),
        LocalProcesses(workers=workers, memory_limit=0) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LocalProcesses, Client]]:
    with cluster_of(2) as both:
        yield both


@pytest.fixture
def client(pair: tuple[LocalProcesses, Client]) -> Client:
    pair[1].wait_for_workers(2, timeout=60)
    return pair[1]


def work_through(runner: Runner, jobs: Sequence[Trial], into: list[Record] | None = None) -> list[Record]:
    """Records in the order in which they came; a failure is raised after what came before it."""
    runner.submit(jobs)
    records = [] if into is None else into
    while len(records) < len(jobs):
        records += runner.next_done()
    return records


def totals(events: Sequence[Event]) -> dict[str, tuple[int, int]]:
    """Tiles and pixels by job, summed over what was told row by row."""
    rows = [event for event in events if isinstance(event, RowDone)]
    return {
        name: (
            sum(row.tiles for row in rows if row.chunk == name),
            sum(row.pixels for row in rows if row.chunk == name),
        )
        for name in {row.chunk for row in rows}
    }


ALL = (ROWS * TILES, ROWS * PIXELS)


def test_rows_are_told_while_the_job_runs_and_come_to_its_total(client: Client, tmp_path: Path) -> None:
    events: list[Event] = []
    jobs = [Trial(name=f"job{number}", notes=tmp_path, seconds=0.12) for number in range(4)]
    with closing(DaskRunner(client, events.append)) as runner:
        records = work_through(runner, jobs)
    assert totals(events) == dict.fromkeys((job.name for job in jobs), ALL)
    assert sum(isinstance(event, RowDone) for event in events) > len(jobs)  # not only with the record
    workers = {event.worker for event in events if isinstance(event, RowDone)}
    assert workers == {"0", "1"} == {record["worker"] for record in records}
    assert {record["retries"] for record in records} == {0}


def test_a_job_whose_worker_died_is_done_again_and_counted_once(client: Client, tmp_path: Path) -> None:
    events: list[Event] = []
    jobs = [Trial(name="deadly", notes=tmp_path, trouble="die", times=2, seconds=0.12)]
    jobs += [Trial(name=f"calm{number}", notes=tmp_path, seconds=0.05) for number in range(4)]
    with closing(DaskRunner(client, events.append)) as runner:
        records = {record["name"]: record for record in work_through(runner, jobs)}
    assert totals(events) == dict.fromkeys((job.name for job in jobs), ALL)
    assert records["deadly"]["retries"] == 2 == len(jobs[0].starts) - 1
    retried = [event for event in events if isinstance(event, ChunkRetried) and event.chunk == "deadly"]
    assert [event.attempt for event in retried] == [2, 3]


def test_a_job_that_kills_every_worker_ends_the_run_and_is_named(client: Client, tmp_path: Path) -> None:
    poison = Trial(name="poison", notes=tmp_path, trouble="die")
    calm = [Trial(name=f"calm{number}", notes=tmp_path, seconds=0.02) for number in range(3)]
    records: list[Record] = []
    with (
        closing(DaskRunner(client, lambda event: None)) as runner,
        pytest.raises(ChunkError, match=r"scene: chunk poison \(window of poison\) killed its worker") as caught,
    ):
        work_through(runner, [*calm, poison], into=records)
    assert (caught.value.scene, caught.value.window) == poison.place
    assert 3 <= len(poison.starts) <= 4  # Dask hands it on at once, and may be faster than the news of the third death
    assert {record["name"] for record in records} == {job.name for job in calm}


def test_no_setting_of_the_scheduler_decides_how_often_a_job_is_tried(tmp_path: Path) -> None:
    job = Trial(name="deadly", notes=tmp_path, trouble="die", times=2)
    with cluster_of(2, **{"distributed.scheduler.allowed-failures": 0}) as (_, client):
        with closing(DaskRunner(client, lambda event: None)) as runner:
            assert [record["name"] for record in work_through(runner, [job])] == ["deadly"]
        assert len(job.starts) == 3
        poison = Trial(name="poison", notes=tmp_path, trouble="die")
        client.wait_for_workers(2, timeout=60)
        with (
            closing(DaskRunner(client, lambda event: None)) as runner,
            pytest.raises(ChunkError, match="killed its worker again and again"),
        ):
            work_through(runner, [poison])
        assert len(poison.starts) <= 4


@pytest.mark.parametrize("trouble", ["hang", "stop"])
def test_a_job_that_hangs_is_taken_from_its_worker(client: Client, tmp_path: Path, trouble: str) -> None:
    events: list[Event] = []
    jobs = [Trial(name="hanging", notes=tmp_path, trouble=trouble, times=1, seconds=0.12)]
    jobs += [Trial(name=f"calm{number}", notes=tmp_path, seconds=0.05) for number in range(8)]
    with closing(DaskRunner(client, events.append, patience=3)) as runner:
        work_through(runner, jobs)
    assert totals(events) == dict.fromkeys((job.name for job in jobs), ALL)
    hung, again = jobs[0].starts
    assert hung != again
    assert not psutil.pid_exists(hung)
    retried = [event for event in events if isinstance(event, ChunkRetried) and event.chunk == "hanging"]
    assert [event.attempt for event in retried] == [2]
    assert "no tile row for 3 s" in retried[0].reason


def test_a_job_that_hangs_twice_ends_the_run(client: Client, tmp_path: Path) -> None:
    job = Trial(name="hanging", notes=tmp_path, trouble="hang")
    with (
        closing(DaskRunner(client, lambda event: None, patience=1)) as runner,
        pytest.raises(
            ChunkError, match=r"chunk hanging \(window of hanging\) finished no tile row for 1 s, on tcp:.* and"
        ),
    ):
        work_through(runner, [job])
    assert len(job.starts) == 2


def test_a_job_that_waits_in_the_queue_does_not_hang(client: Client, tmp_path: Path) -> None:
    events: list[Event] = []
    jobs = [Trial(name=f"job{number}", notes=tmp_path, seconds=0.2) for number in range(12)]  # 6 s on two workers
    with closing(DaskRunner(client, events.append, patience=2)) as runner:
        work_through(runner, jobs)
    assert not any(isinstance(event, ChunkRetried) for event in events)
    assert all(len(job.starts) == 1 for job in jobs)


def test_errors_of_geoseg_come_back_as_themselves_and_others_with_their_window(client: Client, tmp_path: Path) -> None:
    for trouble, kind, text in (
        ("geoseg", SourceError, "a.tif: is gone"),
        ("python", ChunkError, "scene: chunk job (window of job) failed on its worker: ZeroDivisionError: one line"),
    ):
        (tmp_path / trouble).mkdir()
        with closing(DaskRunner(client, lambda event: None)) as runner, pytest.raises(kind) as caught:
            work_through(runner, [Trial(name="job", notes=tmp_path / trouble, trouble=trouble)])
        assert str(caught.value) == text


def test_scenes_that_share_a_cluster_do_not_mix(client: Client, tmp_path: Path) -> None:
    events: dict[str, list[Event]] = {"one": [], "two": []}
    folders = {name: tmp_path / name for name in events}
    for folder in folders.values():
        folder.mkdir()
    with (
        closing(DaskRunner(client, events["one"].append)) as one,
        closing(DaskRunner(client, events["two"].append)) as two,
    ):
        jobs = {name: [Trial(name=f"job{n}", notes=folder) for n in range(3)] for name, folder in folders.items()}
        one.submit(jobs["one"])
        records = work_through(two, jobs["two"])
        assert {record["name"] for record in records} == {"job0", "job1", "job2"}
        rest: list[Record] = []
        while len(rest) < 3:
            rest += one.next_done()
    assert totals(events["one"]) == totals(events["two"]) == dict.fromkeys(("job0", "job1", "job2"), ALL)
    assert all(len(job.starts) == 1 for several in jobs.values() for job in several)


class Counted:
    """Something large that notes each time it is unpickled."""

    def __init__(self, notes: Path) -> None:
        self.notes, self.weight = notes, os.urandom(3_000_000)

    def __len__(self) -> int:
        return len(self.weight)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()}\n")


def test_what_jobs_share_is_loaded_once_per_process_and_never_travels_with_them(client: Client, tmp_path: Path) -> None:
    with closing(DaskRunner(client, lambda event: None)) as runner:
        shared: Any = runner.share(Counted(tmp_path / "loads"))
        jobs = [Trial(name=f"job{number}", notes=tmp_path, shared=shared, seconds=0.05) for number in range(8)]
        assert max(len(pickle.dumps(job)) for job in jobs) < 1000
        records = work_through(runner, jobs)
    assert {record["counts"]["length"] for record in records} == {3_000_000}
    loads = (tmp_path / "loads").read_text().split()
    assert sorted(loads) == sorted({str(record["process"]) for record in records})


def test_what_cannot_travel_is_refused_before_anything_begins(client: Client) -> None:
    class Bound:
        def __reduce__(self) -> tuple[Any, ...]:
            raise RuntimeError("holds a file")

    with closing(DaskRunner(client, lambda event: None)) as runner, pytest.raises(ConfigError, match="--workers 1"):
        runner.share(Bound())


def test_slots_follow_workers_that_come_and_go(tmp_path: Path) -> None:
    with cluster_of(1) as (cluster, client), closing(DaskRunner(client, lambda event: None)) as runner:
        assert runner.slots == 3
        cluster.scale(2)  # type: ignore[no-untyped-call]
        client.wait_for_workers(2, timeout=60)
        time.sleep(1.1)  # the runner looks once a second
        work_through(runner, [Trial(name="first", notes=tmp_path)])
        assert runner.slots == 6
        cluster.scale(1)  # type: ignore[no-untyped-call]
        until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)  # else the one that leaves may begin it
        job = Trial(name="second", notes=tmp_path, seconds=0.5)
        work_through(runner, [job])
        assert runner.slots == 3
        assert len(job.starts) == 1


def test_workers_that_never_come_back_end_the_run(tmp_path: Path) -> None:
    with (
        cluster_of(1) as (cluster, client),
        closing(DaskRunner(client, lambda event: None, worker_timeout=2)) as runner,
    ):
        cluster.scale(0)  # type: ignore[no-untyped-call]
        with pytest.raises(ClusterError, match="has had no worker for 2 s"):
            work_through(runner, [Trial(name="job", notes=tmp_path)])


@contextmanager
def scheduler_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A scheduler of its own, and a worker with a nanny."""
    quiet = os.environ | {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error"}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*command, "--no-dashboard"], stderr=subprocess.PIPE, text=True, env=quiet | INFO
    ) as scheduler:
        assert scheduler.stderr is not None
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"],
            stderr=subprocess.DEVNULL,
            env=quiet | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        try:
            yield scheduler, address
        finally:
            scheduler.kill()
            worker.wait(timeout=60)  # it ends with its scheduler


INFO = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "info"}


def test_a_lost_scheduler_ends_the_run_soon(tmp_path: Path) -> None:
    with scheduler_process() as (scheduler, address), Client(address) as client:
        client.wait_for_workers(1, timeout=60)
        with closing(DaskRunner(client, lambda event: None)) as runner:
            runner.submit([Trial(name="job", notes=tmp_path, seconds=60)])
            scheduler.kill()
            began = time.monotonic()
            with pytest.raises(ClusterError, match=f"scheduler {address}: is lost"):
                runner.next_done()
            assert time.monotonic() - began < 30


def test_this_process_runs_one_after_the_other(tmp_path: Path) -> None:
    events: list[Event] = []
    runner = InlineRunner(events.append)
    jobs = [Trial(name=f"job{number}", notes=tmp_path) for number in range(3)]
    assert [record["name"] for record in work_through(runner, jobs)] == [job.name for job in jobs]
    assert totals(events) == dict.fromkeys((job.name for job in jobs), ALL)
    assert runner.share(jobs).value is jobs
    with pytest.raises(GeosegError, match="is gone"):
        work_through(runner, [Trial(name="bad", notes=tmp_path, trouble="geoseg")])
