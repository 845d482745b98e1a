"""How the command of a job is started: in its folder, in a group of its own, with an environment of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping

from geoseg.serve.jobs import Job
from geoseg.serve.settings import ServiceSettings

__all__ = ["start_command"]

_CHILD = "geoseg.serve.child"
_KEPT = {"GEOSEG_CACHE"}
"""Variables of ours that a job sees; the others would be options that nobody asked for."""


async def start_command(
    job: Job, settings: ServiceSettings, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """The process that does a job.

    Raises:
        OSError: It cannot be started.
    """
    words = [*job.command, *(_where(settings) if job.result == "run" else ())]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GEOSEG_") or name in _KEPT}
    with job.log.open("ab") as log, (job.folder / f"{job.result}.part").open("wb") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _CHILD, str(os.getpid()), *words),
            cwd=job.folder,
            env=own | dict(environment) | {"GEOSEG_LOG_JSON": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,
        )


def _where(settings: ServiceSettings) -> list[str]:
    """Where the work is done: no part of what was asked for, so that a job may be resumed elsewhere."""
    given = {"--workers": settings.workers, "--scheduler": settings.scheduler, "--cluster": settings.cluster}
    return [word for option, value in given.items() if value is not None for word in (option, str(value))]
