"""Objects in buckets: asked for with boto3, which finds credentials as everywhere; read by GDAL under the same ones."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from geoseg.endpoint import s3_endpoint, s3_region
from geoseg.source.answers import (
    CONNECT_SECONDS,
    STALL_SECONDS,
    Answer,
    BusyError,
    RefusedError,
    refusal,
    whole_size,
)
from geoseg.source.credentials import Credentials
from geoseg.source.location import Location

__all__ = ["ask_s3", "gdal_session", "s3_options"]

_KEYS_REFUSED = frozenset({"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


def ask_s3(location: Location, offset: int, length: int, *, unsigned: bool) -> Answer:
    """A range of an object's bytes, with what identifies it; one attempt.

    Raises:
        RefusedError: The service says no.
        BusyError: It may say something else in a moment.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location.bucket_key
    payer = {"RequestPayer": "requester"} if os.environ.get("AWS_REQUEST_PAYER") else {}
    try:
        reply = _s3_client(unsigned=unsigned).get_object(
            Bucket=bucket, Key=key, Range=f"bytes={offset}-{offset + length - 1}", **payer
        )
        body = reply["Body"].read()
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        told = error.response.get("Error", {})
        about_keys = told.get("Code") in _KEYS_REFUSED
        raise refusal(location, status, str(told.get("Message", "")), about_keys=about_keys) from None
    except BotoCoreError as error:
        text = str(error).splitlines()[0]
        if "credentials" in text.lower():
            raise RefusedError(f"{location}: {text}; set AWS credentials, or --aws-no-sign-request") from None
        raise BusyError(text) from None
    size = whole_size(location, reply.get("ContentRange", ""), body, (offset, length))
    return Answer(body=body, etag=reply.get("ETag", ""), modified=str(reply.get("LastModified", "")), size=size)


def _aws_session() -> Any:
    return _session_under(frozenset(Credentials.held().environment.items()))


@lru_cache(maxsize=2)
def _session_under(environment: frozenset[tuple[str, str]]) -> Any:  # noqa: ARG001  (what it was made under)
    """boto3's session; another one when other credentials were taken."""
    import boto3

    return boto3.Session(region_name=s3_region())


def _s3_client(*, unsigned: bool) -> Any:
    return _client_of(_aws_session(), unsigned=unsigned, endpoint=s3_endpoint())


@lru_cache(maxsize=4)
def _client_of(session: Any, *, unsigned: bool, endpoint: str | None) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    addressing = "path" if endpoint else "auto"
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=STALL_SECONDS,
        retries={"total_max_attempts": 2, "mode": "standard"},
        s3={"addressing_style": addressing},
        **({"signature_version": UNSIGNED} if unsigned else {}),
    )
    return session.client("s3", endpoint_url=endpoint, config=config)


def s3_options() -> dict[str, str]:
    """GDAL's configuration for the endpoint that the environment names."""
    endpoint = s3_endpoint()
    if endpoint is None:
        return {}
    scheme, _, host = endpoint.rstrip("/").partition("://")
    return {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": "NO" if scheme == "http" else "YES", "AWS_VIRTUAL_HOSTING": "FALSE"}


def gdal_session(location: Location, *, unsigned: bool) -> Any:
    """Who GDAL is to S3: whom boto3 finds (profiles, single sign-on, roles); nobody elsewhere."""
    from rasterio.session import AWSSession, DummySession

    if location.kind != "s3":
        return DummySession()
    payer = bool(os.environ.get("AWS_REQUEST_PAYER"))
    return AWSSession(_aws_session(), aws_unsigned=unsigned, requester_pays=payer)
