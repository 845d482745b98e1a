"""Which S3 the environment of this process means: its endpoint and region, in AWS's words or in GDAL's."""

from __future__ import annotations

import os

__all__ = ["s3_endpoint", "s3_region"]


def s3_endpoint() -> str | None:
    """The URL of the endpoint that is named, in GDAL's way or in AWS's; None: Amazon's own."""
    named = os.environ.get("AWS_S3_ENDPOINT")
    if not named:
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if "://" in named:
        return named
    secure = os.environ.get("AWS_HTTPS", "YES").upper() not in {"NO", "FALSE", "OFF"}
    return f"{'https' if secure else 'http'}://{named}"


def s3_region() -> str | None:
    """The region that is named; None: nobody named one."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
