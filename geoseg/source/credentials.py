"""What lets a process read what is not public: the environment's keys and tokens, and the queries of signed URLs.

None of it may stand in a graph, a log, a journal or an item. So a location holds a *ticket* in place of its query, a
random name under which this process knows it, and pickles with that. Whoever starts work elsewhere hands `Credentials`
over first, over the connection itself::

    Credentials.held().take()  # the first half here, the second where the work is done

Tickets are drawn anew in every process that parses a URL: they tell nothing about what they stand for.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from geoseg.errors import SourceError, without_secrets

__all__ = ["VARIABLES", "Credentials", "keep_out_of_logs", "query_behind", "ticket_for"]

VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_S3_ENDPOINT",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_HTTPS",
    "AWS_REQUEST_PAYER",
    "GDAL_HTTP_HEADERS",
)
"""Environment variables that travel: those that mean the same on any machine, so no profile and no path."""

_lock = threading.Lock()
_queries: dict[str, str] = {}
_tickets: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """All that one process must hand another, so that it can read the same inputs; shows none of it."""

    environment: Mapping[str, str] = field(repr=False)
    """Those of `VARIABLES` that are set."""
    queries: Mapping[str, str] = field(repr=False)
    """Queries of URLs by their tickets."""

    @classmethod
    def held(cls) -> Self:
        """What this process holds now; opening more inputs adds to it."""
        with _lock:
            queries = dict(_queries)
        return cls(environment={name: os.environ[name] for name in VARIABLES if name in os.environ}, queries=queries)

    def take(self) -> None:
        """Makes them this process's own; variables that are not among them stay as they are."""
        os.environ.update(self.environment)
        with _lock:
            _queries.update(self.queries)
            _tickets.update({query: ticket for ticket, query in self.queries.items()})


def ticket_for(query: str) -> str:
    """The name under which this process knows `query`; empty for an empty one.

    >>> query_behind(ticket_for("sig=secret"))
    'sig=secret'
    """
    with _lock:
        if query and query not in _tickets:
            ticket = secrets.token_hex(8)
            _queries[ticket], _tickets[query] = query, ticket
        return _tickets.get(query, "")


def query_behind(ticket: str) -> str:
    """The query that `ticket` stands for.

    Raises:
        SourceError: Nobody handed it to this process.
    """
    if ticket and ticket not in _queries:
        raise SourceError(
            "the query of a signed URL did not reach this process: credentials are handed to workers when a run "
            "connects; run again, or download the file first"
        )
    return _queries.get(ticket, "")


class _WithoutSecrets(logging.Filter):
    """Lets every record pass, without what it must not say."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


_FILTER = _WithoutSecrets()


def keep_out_of_logs(*loggers: str) -> None:
    """From now on these loggers write URLs without their queries, wherever their records go."""
    for name in loggers:
        logging.getLogger(name).addFilter(_FILTER)
