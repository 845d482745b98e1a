"""An S3 service on loopback, and the environment that leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

SECRET = "wJalrXUtnFEMI-secret-key"


@contextmanager
def s3_environment(endpoint: str) -> Iterator[None]:
    """While it lasts, the environment names the endpoint and holds credentials for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_S3_ENDPOINT": endpoint.removeprefix("http://"),
            "AWS_HTTPS": "NO",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }.items():
            patch.setenv(name, value)
        yield


@contextmanager
def s3_service() -> Iterator[tuple[Any, str]]:
    """A client and the endpoint's URL; while it runs, the environment names it and holds credentials for it."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        with s3_environment(endpoint):
            yield boto3.client("s3", endpoint_url=endpoint), endpoint
    finally:
        running.stop()
