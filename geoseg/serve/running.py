"""A service as a process: uvicorn with patient connections, until it is told to end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from uvicorn import Config, Server

from geoseg.serve.app import create_app
from geoseg.serve.connections import patient_for
from geoseg.serve.settings import ServiceSettings

__all__ = ["run_service"]

_GRACE = 3
"""Seconds that answers under way have when the service ends; jobs at work have ten more."""


class _Server(Server):
    """Says when it listens."""

    def __init__(self, config: Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def run_service(settings: ServiceSettings, listening: socket.socket, *, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError: The settings contradict each other, or another service has the folder.
        ModelError: A model cannot be used.
        SinkError: The folder cannot be used.
    """
    app = create_app(settings)
    config = Config(
        app,
        http=patient_for(settings.slowness),
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=int(settings.slowness),
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=1 << 14,
    )
    server = _Server(config, on_ready)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # uvicorn raises them again when it is done: that is the end as asked
        signal.signal(number, lambda _number, _frame: None)
    try:
        server.run([listening])
    except SystemExit:
        if app.state.failure is None:
            raise
    if app.state.failure is not None:
        raise app.state.failure
