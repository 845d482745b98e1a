"""The workers of a cluster: what they are, what they can reach, and what they are handed before a run.

Everything here is asked of running workers, outside the task graph, and compared with this process: what differs is
named before any work begins.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from threading import Thread
from typing import Any, TypeVar
from uuid import uuid4

from distributed import WorkerPlugin
from packaging.requirements import Requirement

from geoseg import __version__
from geoseg.errors import ClusterError
from geoseg.source.credentials import Credentials
from geoseg.source.location import Location, regular_file
from geoseg.source.remote import ask
from geoseg.store import Store

__all__ = [
    "PACKAGES",
    "HandOver",
    "Worker",
    "ask_workers",
    "blind_workers",
    "clock_of",
    "differences",
    "marks_of",
    "run_on",
    "several",
    "strangers",
    "versions_here",
]

PACKAGES = ("torch", "rasterio", "numpy", "distributed")
"""Packages whose versions are compared, beside geoseg's and Python's."""
_REFUSED = ("geoseg", "torch")
"""Whose versions must be the same: they decide the bytes of a run."""
ANSWER_SECONDS = 60.0
"""A worker that does not answer for so long is not there; the first one to be asked for its GPUs loads torch."""
_NAMED = 3
_MARK = "reach-"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process, as it describes itself."""

    address: str
    """Where it listens."""
    name: str = ""
    """What the cluster calls it."""
    host: str = ""
    """Address of its machine."""
    threads: int = 1
    """Chunks that it runs at once."""
    memory_limit: int = 0
    """Bytes after which its nanny ends it; 0: none."""
    resources: Mapping[str, float]
    """What it declares to have (``GPU``)."""
    versions: Mapping[str, str]
    """Package -> version; what is missing is not there."""
    missing: tuple[str, ...] = ()
    """Requirements of geoseg that are not met there."""
    gpus: tuple[str, ...] = ()
    """CUDA devices that torch can use there; empty where it was not asked."""
    trouble: str = ""
    """Why it could not answer."""


def several(addresses: Iterable[str]) -> str:
    """One or more workers, by name.

    >>> several(["tcp://a:1"]), several(["tcp://a:1", "tcp://b:1"])
    ('worker tcp://a:1', 'workers tcp://a:1, tcp://b:1')
    >>> several(f"tcp://a:{port}" for port in range(5))
    'workers tcp://a:0, tcp://a:1, tcp://a:2 and 2 more'
    """
    names = list(addresses)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"worker{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"


def versions_here() -> dict[str, str]:
    """Versions in this process."""
    found = {"geoseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def differences(workers: Sequence[Worker], here: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What must not differ between workers and this process but does, and what may; a sentence for each package.

    Builds of one version (2.9.0+cpu, 2.9.0+cu128) count as the same.
    """
    wrong: list[str] = []
    odd: list[str] = []
    for name, mine in here.items():
        groups: dict[str, list[str]] = {}
        for worker in workers:
            groups.setdefault(worker.versions.get(name, "none"), []).append(worker.address)
        for theirs, addresses in groups.items():
            if theirs.partition("+")[0] != mine.partition("+")[0]:
                say = wrong if name in _REFUSED or theirs == "none" else odd
                say.append(f"{name} is {theirs} on {several(addresses)}, but {mine} here")
    return wrong, odd


def run_on(client: Any, function: Callable[..., T], *args: Any, workers: Iterable[str]) -> dict[str, T | Exception]:
    """What `function` gives on each worker, or what it raised there; runs beside whatever they are busy with.

    A function of the standard library runs on a worker that has no geoseg, too. Workers that went meanwhile are left
    out: clusters that adapt shrink at any time.

    Raises:
        ClusterError: One of them does not answer.
    """
    answers: dict[str, T | Exception] = {}
    asked = list(workers)

    def ask() -> None:
        with suppress(Exception):  # the scheduler is gone, or the client was closed: no answer either
            answers.update(client.run(asyncio.to_thread, function, *args, workers=asked, on_error="return"))

    if asked:
        # Dask waits for ever for a worker that hangs, so somebody else waits for Dask.
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ANSWER_SECONDS)
    if silent := [address for address in asked if address not in answers]:
        raise ClusterError(
            f"no answer from {several(silent)} within {ANSWER_SECONDS:.0f} s: end what hangs there, and try again"
        )
    if any(isinstance(answer, Exception) for answer in answers.values()):
        there = client.scheduler_info(n_workers=-1)["workers"]
        return {address: answer for address, answer in answers.items() if address in there}
    return answers


def ask_workers(client: Any, *, gpus: bool) -> list[Worker]:
    """Every worker that the scheduler knows, as it describes itself.

    Args:
        client: A `distributed.Client`.
        gpus: Whether they are asked for their CUDA devices, for which they load torch.

    Raises:
        ClusterError: One of them does not answer.
    """
    known = client.scheduler_info(n_workers=-1)["workers"]
    answers = run_on(client, _describe, gpus, workers=known)
    absent = [address for address, answer in answers.items() if isinstance(answer, Exception)]
    without = run_on(client, metadata.version, "geoseg", workers=absent)
    return [_worker(address, known[address], answer, without.get(address)) for address, answer in answers.items()]


def _worker(address: str, info: Mapping[str, Any], answer: Any, version: Any) -> Worker:
    facts: dict[str, Any] = {"versions": {}}
    if not isinstance(answer, Exception):
        facts = answer
    elif isinstance(version, metadata.PackageNotFoundError):
        facts["trouble"] = "geoseg is not installed there"
    else:
        facts["trouble"] = f"{type(answer).__name__}: {' '.join(str(answer).split())}"
        facts["versions"] = {} if isinstance(version, Exception) else {"geoseg": version}
    return Worker(
        address=address,
        name=str(info["name"]),
        host=str(info["host"]),
        threads=int(info["nthreads"]),
        memory_limit=int(info["memory_limit"] or 0),
        resources=dict(info["resources"]),
        **facts,
    )


def _describe(gpus: bool) -> dict[str, Any]:
    return {"versions": versions_here(), "missing": tuple(_unmet()), "gpus": _gpus() if gpus else ()}


def _unmet() -> Iterator[str]:
    """Requirements of geoseg that are not installed, or too old; found without importing any."""
    for text in metadata.requires("geoseg") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            if not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
                yield f"{requirement.name}{requirement.specifier}"
        except metadata.PackageNotFoundError:
            yield requirement.name


def _gpus() -> tuple[str, ...]:
    """Names of the CUDA devices; torch is asked as the library that will use them."""
    cuda = import_module("torch").cuda
    return tuple(cuda.get_device_name(i) for i in range(cuda.device_count())) if cuda.is_available() else ()


def clock_of(client: Any, workers: Sequence[Worker]) -> dict[str, float]:
    """Seconds by which each worker's clock is ahead of this machine's, for certain."""
    asked = time.time()
    answers = run_on(client, time.time, workers=[worker.address for worker in workers])
    answered = time.time()
    return {
        address: max(0.0, told - answered) or min(0.0, told - asked)
        for address, told in answers.items()
        if not isinstance(told, Exception)
    }


def blind_workers(client: Any, workers: Iterable[str], look: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """Workers that cannot read what this process reads, or that see another version of it, and why.

    Args:
        client: A `distributed.Client`.
        workers: Their addresses.
        look: What identifies the inputs, place by place (`Source.identity`); pickles.
    """
    here = look()
    blind: dict[str, str] = {}
    for address, seen in run_on(client, look, workers=workers).items():
        if isinstance(seen, Exception):
            blind[address] = str(seen)
        elif other := [place for place, mark in seen.items() if here.get(place) != mark]:
            blind[address] = f"{other[0]}: is another file there ({seen[other[0]]}; here {here.get(other[0])})"
    return blind


def marks_of(location: Location) -> dict[str, str]:
    """What identifies the file or object at a place.

    Raises:
        SourceError: It cannot be read.
    """
    if location.kind != "path":
        return {str(location): ask(location).fingerprint}
    status = regular_file(location)
    return {str(location): f"{status.st_size} bytes of {status.st_mtime_ns}"}


class HandOver(WorkerPlugin):
    """Gives credentials to every worker, those that join later too, and takes them back when it is taken away."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._before: dict[str, str | None] = {}

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - distributed's signature
        """On a worker."""
        self._before = {name: os.environ.get(name) for name in self.credentials.environment}
        self.credentials.take()

    def teardown(self, worker: Any) -> None:  # noqa: ARG002 - distributed's signature
        """On a worker."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def strangers(client: Any, workers: Iterable[str], store: Store) -> dict[str, str]:
    """Workers that cannot write where a run lives, or write somewhere else, and why."""
    wrote = run_on(client, _write, store, workers=workers)
    found = store.entries()
    for name in [name for name in found if name.startswith(_MARK)]:
        store.remove(name)
    return {
        address: str(name) if isinstance(name, Exception) else "what it writes does not arrive here"
        for address, name in wrote.items()
        if name not in found
    }


def _write(store: Store) -> str:
    name = f"{_MARK}{uuid4().hex}"
    store.put(name, b"")
    return name
