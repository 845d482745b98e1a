"""Items of a STAC API by place, time and whatever else it knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geoseg.errors import MissingExtraError, SourceError, without_secrets

__all__ = ["search_api"]

_PATIENCE = 60.0
"""Seconds that a server may take for one answer."""


def search_api(
    url: str,
    *,
    bbox: Sequence[float] | None = None,
    times: str | None = None,
    where: str | None = None,
    collections: Sequence[str] = (),
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The items that a server finds, in its order, as JSON values; page after page until `limit` is reached.

    Args:
        url: The landing page of a STAC API.
        bbox: West, south, east, north in degrees.
        times: As `geoseg.catalog.search.interval_of` takes them.
        where: CQL2 text, such as ``eo:cloud_cover < 10``, for servers that filter.
        collections: Ids of collections; empty: all.
        limit: How many at most.

    Raises:
        SourceError: The server cannot be reached, is no STAC API, or refuses.
        MissingExtraError: pystac-client is not installed.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from requests import RequestException
    except ImportError as error:
        raise MissingExtraError("searches on servers need pystac-client: pip install 'geoseg[catalog]'") from error
    asked: dict[str, Any] = {"bbox": bbox, "datetime": times, "max_items": limit, "collections": collections or None}
    if where is not None:
        asked |= {"filter": where, "filter_lang": "cql2-text"}
    try:
        return list(Client.open(url, timeout=_PATIENCE).search(**asked).items_as_dicts())
    except (APIError, RequestException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        shown, _, query = url.partition("?")
        what = " ".join(str(error).replace(f"?{query}", "").split())[:200]
        raise SourceError(f"{without_secrets(shown)}: cannot be searched ({what}); name a STAC API") from error
