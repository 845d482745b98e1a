"""One process at work on a run: the operating system's lock where there is one, else claims with a heartbeat.

A claim is a file of its own that its owner writes anew every few seconds. Whoever wants the lock puts a claim first and
looks second: of two that come at once, at least the later sees the other, so at most one stays. This needs no put on a
condition, only that whoever looks after a put sees what was put, as S3 and file systems promise. Ages are differences
between times of one clock, the store's: the clocks of the processes do not matter.

A claim that was not renewed for `STALE` seconds is removed by whoever comes next, and at once if its owner died on this
machine. The owner counts from before its last renewal, so it knows no later than anybody else that it lost the lock; it
then writes no more.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from geoseg.errors import SinkError
from geoseg.store import Store
from geoseg.store.disk import UNFINISHED

__all__ = ["HEARTBEAT", "STALE", "Lease", "holder_of", "locked"]

HEARTBEAT = 10.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without a sign of life after which an owner counts as dead."""
MARGIN = 5.0
"""More seconds that others wait: S3 tells times in whole seconds."""
ATTEMPTS = 3
"""How often one tries that met another claim: of two that came at once, both may have withdrawn."""

_PAUSES = (0.1, 0.3, 1.0)
"""Seconds before a claim that is there, and could not be read, is read again."""
_FOLDERS_LOST = 100  # in a row; each time, another process ended within microseconds

Owner: TypeAlias = dict[str, Any]


class Lease:
    """The lock, as long as it is held."""

    def __init__(self, store: Store, claim: str) -> None:
        """Takes the claim of this process; an empty name stands for a lock that the system guards."""
        self._store, self._claim = store, claim
        self._renewed, self._lost = _now(), False
        self._stop = threading.Event()

    def demand(self) -> None:
        """Makes sure that the lock is still held.

        Raises:
            SinkError: It was not renewed in time, so that another process may have taken it over.
        """
        if self._claim and (self._lost or _now() - self._renewed > STALE):
            self._lost = True
            raise SinkError(
                f"{self._store}: the lock was lost ({STALE:.0f} s without a sign of life); what is done is kept, "
                "the same command resumes it unless another run is at work by now"
            )

    def renew(self) -> None:
        """Gives a sign of life.

        Raises:
            SinkError: It comes too late, or cannot be given.
        """
        self.demand()
        if self._claim:
            began = _now()
            _put_claim(self._store, self._claim)
            self.demand()  # it may have taken long to get there
            self._renewed = began

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with suppress(OSError):  # the next attempt may succeed; after STALE seconds `demand` tells
                self.renew()

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Gives signs of life within the block; gives the lock back at its end."""
        if not self._claim:
            yield self
            return
        heart = threading.Thread(target=self._beat, daemon=True, name="geoseg-lock")
        heart.start()
        try:
            yield self
        finally:
            self._stop.set()
            heart.join(2.0)  # it may be waiting for a server that does not answer
            with suppress(OSError):
                self._store.remove(self._claim)


def _now() -> float:
    """Seconds that also pass while the machine sleeps, where the system counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@contextmanager
def locked(store: Store) -> Iterator[Lease]:
    """Holds the lock of a store within the block.

    Raises:
        SinkError: Another process holds it, or the store cannot be written.
    """
    guard = store.system_lock("lock", json.dumps(_owner()))
    if guard is not None:
        with guard as holder:
            if holder is not None:
                raise SinkError(_taken(store, _parsed(holder)))
            yield Lease(store, "")
        return
    claims = store.below("locks")
    with claims.made(), _claimed(claims).kept() as lease:
        yield lease


def _claimed(store: Store) -> Lease:
    claim = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    for attempt in range(1, ATTEMPTS + 1):
        lease = Lease(store, claim)
        _put_first_claim(store, claim)
        rivals = _alive(store, claim)
        if not rivals:
            return lease
        store.remove(claim)
        if attempt < ATTEMPTS:
            time.sleep(random.uniform(0.1, 0.5) * attempt)  # noqa: S311 - so that two do not meet again
    owner, age = rivals[0]
    raise SinkError(
        f"{_taken(store, owner)} (last sign of life {age:.0f} s ago; after {STALE:.0f} s it counts as dead)"
    )


def _put_first_claim(store: Store, claim: str) -> None:
    """Puts a claim into a folder that another process removes with its own, whenever that was the last."""
    for attempt in count(1):
        try:
            _put_claim(store, claim)
        except SinkError as error:
            if attempt == _FOLDERS_LOST or not isinstance(error.__cause__, FileNotFoundError):
                raise
            store.workspace()
        else:
            return


def _put_claim(store: Store, claim: str) -> None:
    store.put(claim, json.dumps(_owner()).encode())


def _alive(store: Store, own: str) -> list[tuple[Owner, float]]:
    """The owners of other claims that count, each with its age in seconds; the claims of dead owners are removed."""
    entries = {name: time for name, time in store.entries().items() if not name.endswith(UNFINISHED)}
    found, now = [], max(entries.values(), default=0.0)
    for claim in sorted(entries.keys() - {own}):
        owner, age = _read(store, claim), now - entries[claim]
        if owner is None:
            continue
        if age > STALE + MARGIN or _is_dead_here(owner):
            store.remove(claim)
        else:
            found.append((owner, age))
    return found


def _read(store: Store, claim: str) -> Owner | None:
    """What a claim says; None if it was withdrawn.

    A server says many things of what is removed or renewed just now: a claim that is still there is read again.
    """
    for pause in (*_PAUSES, None):
        try:
            with store.open(claim) as file:
                return _parsed(file.read().decode(errors="replace"))
        except OSError:
            if claim not in store.entries():
                return None
            if pause is None:
                raise
            time.sleep(pause)
    return None


def _taken(store: Store, owner: Owner) -> str:
    who = f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
    return f"{store}: another run ({who}) is at work here; wait for it or choose another --out"


def _parsed(text: str) -> Owner:
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner() -> Owner:
    process = os.getpid()
    return {
        "process": process,
        "host": socket.gethostname(),
        "machine": _machine(),
        "began": _began(process),
    }


@lru_cache(maxsize=1)
def _machine() -> str:
    """This boot of this machine, and the namespace that process numbers are counted in; empty where it is not told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - a Path would follow the link by name
    except OSError:
        return ""


def _is_dead_here(owner: Owner) -> bool:
    """Whether the owner was a process of this machine and is no more."""
    if not _is_of_here(owner):
        return False
    try:
        return bool(_began(int(owner["process"])) != owner["began"])
    except (KeyError, ValueError):
        return True


def _began(process: int) -> int | None:
    """Clock ticks from the machine's start to that of a process; None where it is gone, or the system does not tell.

    Not a time of day: those of a process that lives on change whenever somebody sets the clock.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *words = text.rpartition(")")[2].split()  # its name, before, may hold anything
    return None if state in "ZX" else int(words[18])


def _is_of_here(owner: Owner) -> bool:
    return bool(_machine()) and owner.get("machine") == _machine()


def holder_of(store: Store) -> int | None:
    """Number of the process that holds the lock, as far as one can tell without taking it; None where nobody does."""
    claims, now = store.below("locks"), time.time()
    try:
        fresh = [(claims, name) for name, last in claims.entries().items() if now - last <= STALE + MARGIN]
        owners = [_read(place, name) for place, name in [(store, "lock"), *fresh]]
    except OSError:
        return None
    return next((int(owner["process"]) for owner in owners if owner and not _is_dead_here(owner)), None)
