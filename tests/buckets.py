"""A bucket on loopback, as tests and the processes that they start see it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3

__all__ = ["SECRET", "Bucket", "bucket_server"]

SECRET = "the-secret-that-stands-nowhere"
"""Secret key of the bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket."""

    name: str
    client: Any
    """boto3's, to look behind the scenes."""
    environment: dict[str, str]
    """What a process needs in its environment to reach it."""

    @property
    def url(self) -> str:
        """A prefix for one run."""
        return f"s3://{self.name}/maps/run1"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Content by key; without the empty objects by which pyarrow marks folders."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        keys = [entry["Key"] for entry in listed if not entry["Key"].endswith("/")]
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def put(self, key: str, content: bytes) -> None:
        """Puts an object behind everybody's back."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def remove(self, key: str) -> None:
        """Removes one."""
        self.client.delete_object(Bucket=self.name, Key=key)


_SERVE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def bucket_server() -> Iterator[str]:
    """The URL of a server that speaks S3; it ends with the process that started it, however that ends.

    It has a process of its own: GDAL may wait for an answer without letting go of the interpreter.
    """
    words = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait(30)


def make_bucket(endpoint: str, name: str) -> Bucket:
    """A new bucket of a server."""
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    client = _client(endpoint)
    client.create_bucket(Bucket=name)
    return Bucket(name=name, client=client, environment=environment)


@lru_cache(maxsize=1)
def _client(endpoint: str) -> Any:
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key=SECRET, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint)
