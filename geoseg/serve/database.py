"""A database of polygons behind the service: a few connections, none that waits for ever, no word of it to clients."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoseg.serve.problems import Problem
from geoseg.sink.postgis import Destination, parse_destination

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Database"]

_MOST = 4  # connections at once
_PATIENCE = 5  # seconds for a connection, and for one to become free
_LONGEST = 15  # seconds of a question

_log = logging.getLogger("geoseg.serve")


class Database:
    """A table of PostGIS that is only read; any number of threads may ask."""

    def __init__(self, address: str) -> None:
        """Nothing is asked of the server yet.

        Raises:
            ConfigError: It is no address.
            MissingExtraError: psycopg is not installed.
        """
        self._to: Destination = parse_destination(address)
        self._free: queue.LifoQueue[Connection[Any]] = queue.LifoQueue()
        self._room = threading.BoundedSemaphore(_MOST)

    def ask(self, statement: str, values: Sequence[Any] = (), **names: Any) -> list[Any]:
        """The rows that a statement gives, with ``{table}`` and other `names` put in as identifiers.

        Raises:
            Problem: The database does not answer, or not in time.
        """
        from psycopg.sql import SQL, Identifier

        table = Identifier(*([self._to.schema] if self._to.schema else []), self._to.table)
        with self._connection() as connection:
            found = connection.execute(SQL(statement).format(table=table, **names), list(values) or None)
            return found.fetchall() if found.description else []

    def demand(self) -> None:
        """Asks for nothing, to see whether there is an answer.

        Raises:
            Problem: There is none.
        """
        self.ask("SELECT 1 FROM {table} LIMIT 0")

    def close(self) -> None:
        """Ends the connections that are not at work."""
        while True:
            try:
                self._free.get_nowait().close()
            except queue.Empty:
                return

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        import psycopg

        if not self._room.acquire(timeout=_PATIENCE):
            raise _silent()
        try:
            connection = self._opened()
            try:
                yield connection
            except psycopg.Error:
                connection.close()
                raise
            self._free.put(connection)
        except psycopg.Error as error:
            facts = {"database": self._to.shown, "error": type(error).__name__, "code": error.sqlstate}
            _log.warning(
                "%s: no answer (%s)", self._to.shown, type(error).__name__, extra={"event": "database", "facts": facts}
            )
            raise _silent() from None
        finally:
            self._room.release()

    def _opened(self) -> Connection[Any]:
        """A connection that is free and still stands, or a new one."""
        import psycopg

        while True:
            try:
                connection = self._free.get_nowait()
            except queue.Empty:
                break
            try:
                connection.execute("SELECT 1")
            except psycopg.Error:  # the server has gone, and perhaps come back
                connection.close()
            else:
                return connection
        connection = psycopg.connect(
            self._to.address, connect_timeout=_PATIENCE, fallback_application_name="geoseg", autocommit=True
        )
        connection.execute(f"SET statement_timeout = '{_LONGEST}s'")
        connection.execute("SET default_transaction_read_only = on")
        return connection


def _silent() -> Problem:
    told = "the database of polygons does not answer; ask again later"
    return Problem(503, "Service Unavailable", told, headers={"Retry-After": "10"})
