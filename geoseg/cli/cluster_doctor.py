"""``geoseg doctor`` of a cluster: every worker, what differs from this machine, and where a run would fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import say
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.text import byte_text, table
from geoseg.events import Event, Warned

if TYPE_CHECKING:
    from geoseg.settings import ClusterOptions
    from geoseg.source.location import Location
    from geoseg.store import Store
    from geoseg.workers import Worker

__all__ = ["Finding", "examine_cluster"]

_ODD_SECONDS = 2.0
_WRONG_SECONDS = 300.0
"""Object stores refuse requests that were signed by a clock that is far off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about workers that differs."""

    text: str
    """What, and where."""
    fatal: bool
    """Whether a run would fail of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """What was found."""

    workers: Sequence[Worker]
    clocks: dict[str, float]
    """Seconds by which each is ahead."""
    reached: dict[str, dict[str, str]]
    """Place -> workers that do not reach it, and why."""


def examine_cluster(options: ClusterOptions, places: Sequence[str], *, as_json: bool) -> int:
    """Asks every worker of a cluster and prints what it says; returns the exit code."""
    from geoseg.cluster import Cluster

    targets = {place: _target(place) for place in places}
    with Cluster(options) as cluster:
        client, workers = cluster.inspect()
        if targets and not any(worker.trouble for worker in workers):
            cluster.hand_over(_tell)  # as a run does, which reaches nothing private without
        picture = _looked(client, workers, targets)
    findings = list(_findings(picture))
    fatal = [finding for finding in findings if finding.fatal]
    if as_json:
        click.echo(json.dumps(_document(picture, findings), indent=2))
    else:
        click.echo(_page(picture, [finding for finding in findings if not finding.fatal]))
    for finding in fatal:
        say(finding.text, event="error", level=logging.ERROR)
    return CHECK_FAILED if fatal else DONE


def _tell(event: Event) -> None:
    if isinstance(event, Warned):
        say(event.message, event="warning", level=logging.WARNING)


def _target(place: str) -> Store | Location:
    """What every worker must write to, a folder or a prefix (which ends with a slash); or what it must read."""
    from geoseg.source.location import parse_location
    from geoseg.store import open_store

    return open_store(place) if place.endswith("/") or Path(place).is_dir() else parse_location(place)


def _looked(client: Any, workers: Sequence[Worker], targets: Mapping[str, Store | Location]) -> _Picture:
    from geoseg.workers import clock_of

    able = [worker.address for worker in workers if not worker.trouble]
    reached = {place: _without_reach(client, able, target) for place, target in targets.items()}
    return _Picture(workers=workers, clocks=clock_of(client, workers), reached=reached)


def _without_reach(client: Any, addresses: Sequence[str], target: Store | Location) -> dict[str, str]:
    from geoseg.source.location import Location
    from geoseg.workers import blind_workers, marks_of, strangers

    if isinstance(target, Location):
        return blind_workers(client, addresses, partial(marks_of, target))
    return strangers(client, addresses, target)


def _findings(picture: _Picture) -> Iterator[Finding]:
    from geoseg.workers import differences, several, versions_here

    for worker in picture.workers:
        name = several([worker.address])
        if worker.trouble:
            yield Finding(text=f"{name}: {worker.trouble}", fatal=True)
        if worker.missing:
            yield Finding(text=f"{name} lacks {', '.join(worker.missing)}", fatal=True)
        if worker.resources.get("GPU") and not worker.gpus and not worker.trouble:
            yield Finding(text=f"{name} declares a GPU, but torch finds none there", fatal=True)
    wrong, odd = differences([worker for worker in picture.workers if not worker.trouble], versions_here())
    yield from (Finding(text=text, fatal=True) for text in wrong)
    yield from (Finding(text=text, fatal=False) for text in odd)
    for address, seconds in picture.clocks.items():
        if abs(seconds) > _ODD_SECONDS:
            text = f"the clock of {several([address])} is {_clock_text(seconds)} of this machine's"
            yield Finding(text=text, fatal=abs(seconds) > _WRONG_SECONDS)
    for place, blind in picture.reached.items():
        for reason in dict.fromkeys(blind.values()):
            names = several(address for address, why in blind.items() if why == reason)
            yield Finding(text=f"{names} cannot reach {place} ({reason})", fatal=True)
    if len({bool(worker.gpus) for worker in picture.workers}) > 1:
        names = several(worker.address for worker in picture.workers if not worker.gpus)
        yield Finding(text=f"{names} without a GPU will be idle where others have one", fatal=False)


def _clock_text(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}" if abs(seconds) > _ODD_SECONDS else "same"


def _row(worker: Worker, picture: _Picture) -> tuple[str, ...]:
    unreached = sum(worker.address in blind for blind in picture.reached.values())
    return (
        worker.name or "-",
        worker.address,
        *(worker.versions.get(name, "-") for name in ("geoseg", "python", "torch")),
        ", ".join(worker.gpus) or "-",
        str(worker.threads),
        byte_text(worker.memory_limit) if worker.memory_limit else "no limit",
        ", ".join(f"{name}={count:g}" for name, count in worker.resources.items()) or "-",
        _clock_text(picture.clocks.get(worker.address, 0.0)),
        f"{len(picture.reached) - unreached} of {len(picture.reached)}" if picture.reached else "-",
    )


_COLUMNS = ("name", "address", "geoseg", "python", "torch", "GPU", "threads", "memory", "resources", "clock", "reaches")


def _page(picture: _Picture, odd: Sequence[Finding]) -> str:
    lines = ["workers", table([_COLUMNS, *(_row(worker, picture) for worker in picture.workers)], indent=2)]
    if odd:
        lines += ["differences", *(f"  {finding.text}" for finding in odd)]
    return "\n".join(lines)


def _document(picture: _Picture, findings: Sequence[Finding]) -> dict[str, Any]:
    workers = [
        asdict(worker)
        | {"clock_ahead_seconds": picture.clocks.get(worker.address)}
        | {
            "unreached": {
                place: blind[worker.address] for place, blind in picture.reached.items() if worker.address in blind
            }
        }
        for worker in picture.workers
    ]
    healthy = not any(finding.fatal for finding in findings)
    return {"healthy": healthy, "workers": workers, "findings": [asdict(finding) for finding in findings]}
