"""Ctrl-C and SIGTERM: an exception in the main thread, and an end of the process within ten seconds whatever happens.

The main thread may be inside a library, where no Python handler runs. The interpreter writes every signal's number to
a pipe at once (`signal.set_wakeup_fd`), and a daemon thread that reads the pipe keeps the time.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Final, Self

from geoseg.cli.messages import formatted

__all__ = ["Interrupted", "Signals"]

GRACE: Final = 7.0
"""Seconds that a run has to end by itself after a signal."""

_SHOW_CURSOR: Final = b"\r\x1b[K\x1b[?25h"
"""Ends a progress bar, which hides the cursor, where nobody else can any more."""

_CAUGHT: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


class Signals:
    """While entered, the first SIGINT or SIGTERM raises `Interrupted`; a second one, or `GRACE`, ends the process.

    It works in the main thread only and does nothing elsewhere. A signal that was ignored at entry stays ignored.
    """

    def __init__(self) -> None:
        self.hint = "interrupted"
        """What is said if the process has to be ended; empty once the caller has said it."""
        self._arrived = threading.Event()
        self._before: dict[signal.Signals, object] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._pipe[0],), name="signals", daemon=True).start()
        for number in _CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._arrived.is_set():
            self.hint = ""  # whoever catches `Interrupted` says it; the watch goes on until the process has ended
        if self._pipe is None or self._arrived.is_set():
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])

    def _raise(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal.signal calls
        if not self._arrived.is_set():
            self._arrived.set()
            raise Interrupted(signum)

    def _watch(self, pipe: int) -> None:
        if signum := self._next(pipe):
            self._next(pipe, GRACE)
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)
            if self.hint:
                os.write(2, f"{formatted(self.hint, level=logging.ERROR, event='interrupted')}\n".encode())
            os._exit(128 + signum)
        os.close(pipe)

    @staticmethod
    def _next(pipe: int, seconds: float | None = None) -> int:
        """Number of the next signal that counts; 0 when the pipe is closed, or none came for `seconds`.

        Every other signal that has a handler in Python, like that of a child that ended, comes through the pipe too.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while select.select([pipe], [], [], None if end is None else max(0.0, end - time.monotonic()))[0]:
            data = os.read(pipe, 1)
            if not data or data[0] in _CAUGHT:
                return data[0] if data else 0
        return 0
