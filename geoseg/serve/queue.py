"""The one queue of a service: jobs wait, are done by processes of their own, and end; the disk knows it all.

Everything here belongs to one event loop. A job's process leads a group, so that what it starts can be ended with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from geoseg.errors import ConfigError, GeosegError, SinkError
from geoseg.serve.egress import Egress
from geoseg.serve.jobs import Job, JobStatus, now, read_jobs, status_of, write_job
from geoseg.serve.problems import Problem
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.starting import start_command
from geoseg.serve.tokens import Client
from geoseg.store.folder import FolderStore
from geoseg.store.lock import locked

__all__ = ["JobQueue"]

GRACE = 10.0
"""Seconds that a command has to end by itself before it is killed."""
_RETRY_AFTER = 30
_DAY = timedelta(days=1)

_log = logging.getLogger("geoseg.serve")


def tell(message: str, event: str, **facts: object) -> None:
    """Writes one line to the log."""
    _log.info("%s", message, extra={"event": event, "facts": facts})


class JobQueue:
    """The jobs of a service."""

    def __init__(self, settings: ServiceSettings) -> None:
        """Takes what bounds it; the disk is not touched yet."""
        self._settings = settings
        self._folder = settings.root / "jobs"
        self._jobs: dict[str, Job] = {}
        self._clients: dict[str, Client] = {}
        self._ended: dict[str, JobStatus] = {}
        self._working: dict[str, asyncio.subprocess.Process | None] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._set_aside: set[str] = set()
        self._entering = asyncio.Lock()
        self._held = ExitStack()
        self.egress = Egress(settings.hosts)
        """The way out for everything that the service reads."""
        self.accepting = False
        """Whether jobs are taken."""

    # --- the service's life ---

    async def start(self, clients: tuple[Client, ...] = ()) -> None:
        """Takes up the jobs that an earlier service left, each in the state that the disk tells.

        Raises:
            ConfigError: Another service is at work in this folder.
            SinkError: The folder cannot be used.
        """
        self._clients = {client.name: client for client in clients}
        _take(self._settings.root, self._held)
        self._folder.mkdir(exist_ok=True)
        await self.egress.start()
        self._jobs = {job.id: job for job in await asyncio.to_thread(read_jobs, self._folder)}
        self.accepting = True
        waiting = [job.id for job in self._jobs.values() if self.status(job).state == "accepted"]
        tell(f"{len(self._jobs)} jobs, {len(waiting)} of them to be done", "started", waiting=waiting)
        self._begin_next()

    async def stop(self) -> None:
        """Stops what is at work so that the next service resumes it."""
        self.accepting = False
        for job_id in list(self._working):
            self._signal(job_id, signal.SIGTERM)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=GRACE)
            for job_id in list(self._working) if late else ():
                self._signal(job_id, signal.SIGKILL)
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.egress.stop()
        self._held.close()

    # --- looking ---

    def list(self) -> list[Job]:
        """All jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def find(self, job_id: str) -> Job | None:
        """The job of that id; None where there is none."""
        return self._jobs.get(job_id)

    def status(self, job: Job) -> JobStatus:
        """How far a job is."""
        known = self._ended.get(job.id)
        if known is None:
            known = status_of(job, at_work=job.id in self._working)
            if known.finished is not None and job.id not in self._working:
                self._ended[job.id] = known
        return known

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        return Counter(self.status(job).state for job in self._jobs.values())

    # --- asking ---

    async def submit(self, job: Job, files: Mapping[str, bytes], client: Client) -> Job:
        """Takes a job, which is on the disk when this returns; it gets its id here.

        Raises:
            Problem: The queue is full, the client has too many jobs, or the service is about to end.
            SinkError: It cannot be written.
        """
        async with self._entering:
            self._demand_room(client)
            job = replace(job, id=secrets.token_hex(12), created=now(), client=client.name)
            job = replace(job, folder=self._folder / job.id)
            await asyncio.to_thread(write_job, job, files)
            self._jobs[job.id] = job
        self._clients.setdefault(client.name, client)
        tell(f"{job.process} accepted", "accepted", job=job.id, client=client.name, process=job.process)
        self._begin_next()
        return job

    def _demand_room(self, client: Client) -> None:
        if not self.accepting:
            raise Problem(503, "The service is about to end", headers={"Retry-After": str(_RETRY_AFTER)})
        waiting = [job for job in self._jobs.values() if self.status(job).state == "accepted"]
        since = (datetime.now(UTC) - _DAY).isoformat()
        own = [job for job in self._jobs.values() if job.client == client.name]
        today = sum(job.created > since for job in own)
        for number, limit, what in (
            (len(waiting), self._settings.queue, "jobs wait"),
            (sum(job.client == client.name for job in waiting), client.queued, "jobs of yours wait"),
            (today, client.per_day, "jobs of yours began within 24 hours"),
        ):
            if number >= limit:
                retry = str(_RETRY_AFTER if what != "jobs of yours began within 24 hours" else 3600)
                raise Problem(
                    429, "Too many jobs", f"{number} {what}; at most {limit} may", headers={"Retry-After": retry}
                )

    async def wait(self, job: Job, seconds: float) -> bool:
        """Whether a job ended within some seconds."""
        end = asyncio.get_running_loop().time() + seconds
        while self.status(job).finished is None:
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            task = self._tasks.get(job.id)
            await asyncio.wait([task] if task else [asyncio.create_task(asyncio.sleep(0.2))], timeout=left)
        return True

    async def dismiss(self, job: Job) -> JobStatus:
        """Stops a job that waits or is at work, and forgets what it did; removes one that had ended.

        Returns:
            Its last state, ``dismissed``.
        """
        before = self.status(job)
        if before.finished is not None:
            self._jobs.pop(job.id, None)
            self._ended.pop(job.id, None)
            await asyncio.to_thread(job.remove)
            tell("removed", "removed", job=job.id)
            return replace(before, state="dismissed", message="removed, with its results")
        await asyncio.to_thread(job.note, "ended", state="dismissed")
        tell("dismissed", "dismissed", job=job.id)
        if job.id in self._working:
            self._signal(job.id, signal.SIGTERM)
            asyncio.get_running_loop().call_later(GRACE, self._signal, job.id, signal.SIGKILL)
        else:
            await asyncio.to_thread(job.forget_result)
        return status_of(job, at_work=False)

    # --- working ---

    def _begin_next(self) -> None:
        """Begins the jobs that may begin now, in the order in which they came."""
        if not self.accepting:
            return
        for job in self._jobs.values():
            if len(self._working) >= self._settings.jobs:
                return
            if job.id in self._working or job.id in self._set_aside or self.status(job).state != "accepted":
                continue
            client = self._clients.get(job.client)
            busy = sum(self._jobs[job_id].client == job.client for job_id in self._working)
            if client is None or busy < client.running:
                self._working[job.id] = None
                self._tasks[job.id] = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        try:
            await asyncio.to_thread(job.note, "started")
            process = await start_command(job, self._settings, self.egress.environment())
            self._working[job.id] = process
            tell(f"{job.process} begun", "begun", job=job.id, pid=process.pid)
            if not self.accepting or job.noted("ended"):  # told to stop while it was being started
                self._signal(job.id, signal.SIGTERM)
            code = await process.wait()
            with suppress(ProcessLookupError):  # what it started and did not end
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.to_thread(self._end, job, code)
        except Exception:  # noqa: BLE001 - whatever it was, the queue goes on and the job tells
            _log.exception("a job could not be done", extra={"event": "error", "facts": {"job": job.id}})
            self._set_aside.add(job.id)  # until the service is started again: a full disk must not make it spin
            with suppress(GeosegError, OSError):
                job.note("ended", state="failed", message="the service could not do it")
        finally:
            self._working.pop(job.id, None)
            self._tasks.pop(job.id, None)
            self._begin_next()

    def _end(self, job: Job, code: int) -> None:
        """Writes down how a job ended; not where it was stopped only for the service to end."""
        if job.noted("ended").get("state") == "dismissed":
            job.forget_result()
            return
        if code == 0:
            keep_output(job)
        if code != 0 and not self.accepting:
            tell("stopped", "stopped", job=job.id, code=code)
            return
        good = code == 0 and job.has_result
        message = "" if good else job.last_error() or _unexplained(code)
        job.note("ended", state="successful" if good else "failed", code=code, message=message)
        tell(f"{job.process} {'finished' if good else 'failed'}", "ended", job=job.id, code=code, error=message)

    def _signal(self, job_id: str, number: signal.Signals) -> None:
        process = self._working.get(job_id)
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def keep_output(job: Job) -> None:
    """Gives what the command wrote its name."""
    if job.result != "run":
        with suppress(FileNotFoundError):
            (job.folder / f"{job.result}.part").replace(job.folder / job.result)


def _unexplained(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; memory may have run out"
    return f"its process ended with exit code {code}"


def _take(root: Path, held: ExitStack) -> None:
    """Makes the service's folder, and holds its lock."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(FolderStore(root=root)))
    except SinkError as error:
        raise ConfigError(
            f"{root}: another service is at work here, or it cannot be written; choose another --root"
        ) from error
    except OSError as error:
        raise ConfigError(f"{root}: cannot be made ({error.strerror}); choose another --root") from error
