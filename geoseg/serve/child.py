"""Run as a process: becomes one command of geoseg that lives no longer than the service, and is alone in its folder.

::

    python -m geoseg.serve.child SERVICE WORDS...

SERVICE is the process that starts it. The lock on the folder's file ``work.lock`` goes over to the command, and to none
of its own processes; whoever comes next waits until a command that is dying has gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1
_PROGRAM = "geoseg"


def _become(service: int, words: list[str]) -> None:
    # SIGKILL, for nothing is lost by it but chunks in flight, and the next service need not wait for a slow end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != service:  # it died before the kernel knew what to do then
        return
    handle = os.open("work.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    os.execv(sys.executable, [sys.executable, "-m", _PROGRAM, *words])  # noqa: S606 - no shell


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
