"""One process at a time is at work on a run, with and without the operating system's help; the dead hold nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from geoseg.errors import SinkError
from geoseg.journal import RunDirectory
from geoseg.store import Place, Store, lock, open_store
from geoseg.store.bucket import BucketStore
from geoseg.store.folder import FolderStore
from geoseg.store.lock import holder_of, locked
from tests.buckets import Bucket

ELSEWHERE = {"process": 7, "host": "elsewhere", "machine": "another", "began": 1.0}


def _no_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture(params=["flock", "claims", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of each kind of lock."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        return open_store(bucket.url)
    if request.param == "claims":
        monkeypatch.setattr(fcntl, "flock", _no_flock)
    return open_store(tmp_path)


@pytest.fixture(params=["claims", "bucket"])
def unguarded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose lock is made of claims."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        return open_store(bucket.url)
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    return open_store(tmp_path)


def _claim(store: Store, owner: dict[str, Any]) -> None:
    store.below("locks").workspace()
    store.below("locks").put("theirs", json.dumps(owner).encode())


def test_a_second_is_refused_and_told_by_whom(store: Store) -> None:
    with locked(store):
        assert holder_of(store) == os.getpid()
        with pytest.raises(SinkError, match=rf"another run \(process {os.getpid()} on .*\) is at work here"):
            locked(store).__enter__()
    assert holder_of(store) is None
    with locked(store) as lease:
        lease.renew()
        lease.demand()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_gets_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(open_store(tmp_path)):
        [claim] = (tmp_path / "locks").iterdir()
        assert json.loads(claim.read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_another_trouble_with_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(SinkError, match="cannot be locked"):
        locked(open_store(tmp_path)).__enter__()


def test_a_fresh_claim_from_elsewhere_counts_and_a_stale_one_is_taken_over(
    unguarded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _claim(unguarded, ELSEWHERE)
    with pytest.raises(
        SinkError, match=r"process 7 on elsewhere\).*sign of life .* s ago; after 60 s it counts as dead"
    ):
        locked(unguarded).__enter__()
    assert unguarded.below("locks").entries().keys() == {"theirs"}
    entries = type(unguarded).entries

    def aged(self: Any) -> dict[str, float]:
        return {name: at - 100 * (name == "theirs") for name, at in entries(self).items()}

    monkeypatch.setattr(type(unguarded), "entries", aged)
    assert holder_of(unguarded) is None
    with locked(unguarded):
        assert "theirs" not in unguarded.below("locks").entries()


def test_a_claim_nobody_can_read_counts_while_it_is_fresh(unguarded: Store) -> None:
    _claim(unguarded, ELSEWHERE)
    unguarded.below("locks").put("theirs", b"{torn")
    with pytest.raises(SinkError, match=r"process \? on \?"):
        locked(unguarded).__enter__()


@pytest.mark.parametrize("times", [1, 2, 9])
def test_a_claim_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    monkeypatch.setattr(lock, "_PAUSES", (0.0, 0.0))
    store, opened, failed = open_store(tmp_path), FolderStore.open, list[str]()
    _claim(store, ELSEWHERE)

    def open_late(self: FolderStore, name: str) -> Any:
        if len(failed) < times:
            failed.append(name)
            raise SinkError(f"{name}: Failed to flush response stream")
        return opened(self, name)

    monkeypatch.setattr(FolderStore, "open", open_late)
    with pytest.raises(SinkError, match="flush" if times > 2 else "process 7 on elsewhere"):
        locked(store).__enter__()


def _hold(place: Place, environment: dict[str, str], ready: Any, *, flock: bool) -> None:
    os.environ.update(environment)
    if not flock:
        fcntl.flock = _no_flock
    with RunDirectory(place).locked():
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("kind", ["flock", "claims", "bucket"])
def test_the_lock_of_a_process_that_was_killed_is_free_at_once(
    kind: str, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Place = bucket.url if kind == "bucket" else tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(place, bucket.environment, ready), kwargs={"flock": kind == "flock"})
    holder.start()
    assert ready.wait(60)
    if kind == "claims":
        monkeypatch.setattr(fcntl, "flock", _no_flock)
    directory = RunDirectory(place)
    assert directory.holder() == holder.pid
    with pytest.raises(SinkError, match=rf"process {holder.pid} on"), directory.locked():
        pass
    holder.kill()
    holder.join()
    assert directory.holder() is None
    with directory.locked():
        assert directory.holder() == os.getpid()
    assert directory.state.entries() == {}


def test_a_process_lives_on_when_the_clock_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    pslinux = pytest.importorskip("psutil._pslinux", reason="Linux tells when processes began")
    with locked(open_store(tmp_path)):
        boot_time = pslinux.boot_time()
        monkeypatch.setattr(pslinux, "boot_time", lambda: boot_time + 1)
        with pytest.raises(SinkError, match=rf"process {os.getpid()} on"):
            locked(open_store(tmp_path)).__enter__()


def test_who_leaves_takes_no_claim_that_comes_meanwhile(bucket: Bucket) -> None:
    store = open_store(bucket.url)
    came: list[bool] = []
    assert isinstance(store, BucketStore)
    listed = BucketStore._infos

    def come() -> None:
        if not came:
            came.append(True)
            bucket.put("maps/run1/locks/theirs", b"{}")

    def late(self: BucketStore, **options: bool) -> list[Any]:
        found = listed(self, **options)
        come()
        return found

    with pytest.MonkeyPatch.context() as patch:
        with locked(store):
            patch.setattr(BucketStore, "_infos", late)
        come()
    with pytest.raises(SinkError, match="is at work here"):
        locked(store).__enter__()


def test_of_many_that_come_at_once_one_at_most_holds_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ATTEMPTS", 2)
    inside, most, refused, held = 0, 0, [], []
    guard = threading.Lock()

    def come() -> None:
        nonlocal inside, most
        try:
            with locked(store):
                with guard:
                    inside += 1
                    most = max(most, inside)
                held.append(1)
                time.sleep(0.05)
                with guard:
                    inside -= 1
        except SinkError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(held) + len(refused) == 5
    assert most <= 1
    assert not [text for text in refused if "is at work here" not in text]


@pytest.mark.parametrize("times", [1, 3])
def test_the_folder_of_claims_may_go_with_the_claim_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock)
    put = FolderStore.put
    gone: list[str] = []

    def late(self: FolderStore, name: str, content: bytes | Path) -> None:
        if len(gone) < times:
            self.root.rmdir()
            gone.append(name)
        put(self, name, content)

    monkeypatch.setattr(FolderStore, "put", late)
    with locked(open_store(tmp_path)) as lease:
        assert len(gone) == times
        assert [file.name for file in (tmp_path / "locks").iterdir()] == gone[-1:]
        lease.renew()
    assert not list(tmp_path.iterdir())


def test_a_claim_that_cannot_be_written_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_flock)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(SinkError, match=r"cannot be written \(.*Read-only file system"):
        locked(open_store(tmp_path)).__enter__()
    assert not list(tmp_path.iterdir())


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lock, "_now", made)
    return made


def test_an_owner_without_a_sign_of_life_knows_that_it_lost_the_lock(unguarded: Store, clock: Clock) -> None:
    with locked(unguarded) as lease:
        clock.now += lock.STALE - 1
        lease.renew()
        clock.now += lock.STALE - 1
        lease.demand()
        clock.now += 2
        with pytest.raises(SinkError, match="the lock was lost"):
            lease.renew()
        clock.now -= 2
        with pytest.raises(SinkError, match="the lock was lost"):
            lease.demand()


def test_a_sign_of_life_that_took_too_long_comes_too_late(
    unguarded: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(unguarded).put

    def slow(self: Any, name: str, content: Any) -> None:
        put(self, name, content)
        clock.now += lock.STALE + 1

    with locked(unguarded) as lease:
        monkeypatch.setattr(type(unguarded), "put", slow)
        with pytest.raises(SinkError, match="the lock was lost"):
            lease.renew()


def test_signs_of_life_are_given_and_trouble_is_survived(unguarded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    put, puts = type(unguarded).put, []

    def flaky(self: Any, name: str, content: Any) -> None:
        puts.append(name)
        if len(puts) % 2:
            raise SinkError("no connection")
        put(self, name, content)

    with locked(unguarded) as lease:
        monkeypatch.setattr(type(unguarded), "put", flaky)
        deadline = time.monotonic() + 30
        while len(puts) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lease.demand()
    assert unguarded.below("locks").entries() == {}


def test_who_lost_the_lock_notes_and_publishes_nothing(unguarded: Store, clock: Clock) -> None:
    directory = RunDirectory(unguarded.href())
    with directory.locked():
        directory.begin({"asked": {}})
        clock.now += lock.STALE + 1
        with pytest.raises(SinkError, match="the lock was lost"):
            directory.accept({"name": "a", "files": {}})
        (directory.staging / "run.json").write_text("{}")
        with pytest.raises(SinkError, match="the lock was lost"):
            directory.publish([directory.staging / "run.json"])
    assert directory.lines() == []
    assert not directory.is_finished
