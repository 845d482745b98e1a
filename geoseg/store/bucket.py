"""A run that lives in a bucket: objects below a prefix of S3, or of a server that speaks like it.

An object appears whole, with the last byte of its upload, and what was put is what anybody reads or lists from then on.
There is no rename, no append, and (in pyarrow) no put on a condition; what is built on this store needs none of them.
Who may enter comes from the environment of each process, as for any other program; nothing of that is kept here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from geoseg.endpoint import s3_endpoint, s3_region
from geoseg.errors import SinkError
from geoseg.store.disk import Facts, creating, describe_file, scratch_folder

if TYPE_CHECKING:
    from geoseg.store import Store

__all__ = ["BucketStore"]

CONNECT_SECONDS = 8
STALL_SECONDS = 15
"""A transfer that does not move for so long is tried again."""
ATTEMPTS = 4
AT_ONCE = 16
"""Small objects that are fetched at the same time: each costs a round trip, and hardly more."""
_PIECE = 4 << 20
_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_S3_ENDPOINT",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_HTTPS",
)
_HINTS = {
    "NO_SUCH_BUCKET": "the bucket does not exist; create it first",
    "ACCESS_DENIED": "access is denied; check the credentials and their permission to list, get, put and delete",
    "INVALID_ACCESS_KEY_ID": "the access key is not known; check the credentials",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is wrong; check the credentials",
    "NETWORK_CONNECTION": "no connection; check AWS_ENDPOINT_URL and the network",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStore:
    """A `geoseg.store.Store` of objects, reached through pyarrow."""

    bucket: str
    """The bucket's name."""
    prefix: str
    """What the objects' names begin with, without a slash at either end."""

    def __str__(self) -> str:
        return f"s3://{self._key()}"

    def _key(self, name: str = "") -> str:
        return "/".join(word for word in (self.bucket, self.prefix, name) if word)

    @property
    def _files(self) -> Any:
        return _filesystem(self.bucket, tuple(os.environ.get(name) for name in _VARIABLES))

    def href(self, name: str = "") -> str:
        """The object's URL."""
        return f"s3://{self._key(name)}"

    def below(self, name: str) -> BucketStore:
        """The objects whose names go on with this one."""
        return BucketStore(bucket=self.bucket, prefix=f"{self.prefix}/{name}")

    def _infos(self, *, recursive: bool = False, folders: bool = False) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        wanted = FileType.Directory if folders else FileType.File
        with self._told():
            selector = FileSelector(self._key(), allow_not_found=True, recursive=recursive)
            return [info for info in self._files.get_file_info(selector) if info.type == wanted]

    def entries(self) -> dict[str, float]:
        """Objects by name, with the time of their last change by the server's clock."""
        return {info.base_name: info.mtime_ns / 1e9 for info in self._infos()}

    def sizes(self) -> dict[str, int]:
        """Objects by name, with their bytes."""
        return {info.base_name: info.size for info in self._infos()}

    def folders(self) -> list[str]:
        """What comes next in the names of objects that go on with a slash."""
        return sorted(info.base_name for info in self._infos(folders=True))

    def links(self) -> list[str]:
        """None: an object stands for itself."""
        return []

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The object, read range by range; ranges are large, because each costs a round trip."""
        with self._told(name):
            opened = self._files.open_input_file(self._key(name))
        return io.BufferedReader(_Ranges(opened, lambda: self._told(name)), _PIECE)

    def put(self, name: str, content: bytes | Path) -> None:
        """Uploads bytes or a file; the file is removed then."""
        with self._told(name):
            if isinstance(content, bytes):
                with self._files.open_output_stream(self._key(name)) as upload:
                    upload.write(content)
                return
            with content.open("rb") as file, self._files.open_output_stream(self._key(name)) as upload:
                shutil.copyfileobj(file, upload, _PIECE)
        content.unlink()

    def settle(self) -> None:
        """Nothing to do: what was put is there to stay."""

    def append(self, name: str, lines: Sequence[str]) -> None:
        """Puts the lines as an object of its own, below the log's name: objects do not grow."""
        self.below(name).put(f"{time.time_ns():020d}-{os.urandom(4).hex()}", "\n".join(lines).encode())

    def lines(self, name: str) -> list[str]:
        """The log's objects, in the order of their names."""
        log = self.below(name)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            texts = pool.map(lambda entry: self._text(f"{name}/{entry}"), sorted(log.entries()))
            return [line for text in texts for line in text.splitlines()]

    def _text(self, name: str) -> str:
        with self._told(name), self.open(name) as file:
            return file.read().decode(errors="replace")

    def local(self, files: Mapping[str, Facts]) -> list[Path]:
        """Copies in this process's scratch folder, each made once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._copy, files, files.values()))

    def _copy(self, name: str, facts: Facts) -> Path:
        folder = self.workspace()
        copy = folder / name
        if copy.exists() and describe_file(copy) == facts:
            return copy
        try:
            opened = self.open(name)
        except FileNotFoundError:
            raise SinkError(f"{self.href(name)}: is gone; the same command makes it anew") from None
        with opened as file, creating(folder, name, facts["size"]) as temporary:
            with self._told(name), temporary.open("wb") as target:
                shutil.copyfileobj(file, target, _PIECE)
            if describe_file(temporary) != facts:
                raise SinkError(f"{self.href(name)}: is damaged; the same command makes it anew")
            temporary.replace(copy)
        return copy

    def disk(self) -> Path:
        """The scratch folder."""
        return scratch_folder()

    def workspace(self) -> Path:
        """A folder of this prefix in the scratch folder of this process."""
        folder = scratch_folder() / hashlib.sha256(self._key().encode()).hexdigest()[:16]
        folder.mkdir(exist_ok=True)
        return folder

    def remove(self, name: str) -> None:
        """Removes the object."""
        with suppress(FileNotFoundError), self._told(name):
            self._files.delete_file(self._key(name))

    def clear(self) -> None:
        """Removes every object below the prefix, and the local copies."""
        shutil.rmtree(self.workspace(), ignore_errors=True)
        with suppress(FileNotFoundError), self._told():
            self._files.delete_dir(self._key())

    @contextmanager
    def made(self) -> Iterator[None]:
        """Prefixes need no making, and none is removed: what lists and removes takes what another puts meanwhile.

        So pyarrow's empty object of a prefix that once held something stays.
        """
        yield

    def system_lock(self, name: str, owner: str) -> None:
        """None: there is no operating system."""

    @contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """Turns what the server says into one clear error."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if isinstance(error, SinkError) or error.filename is not None:  # of a local file
                raise
            raise SinkError(f"{self.href(name)}: {_reason(str(error))}") from error


class _Ranges(io.RawIOBase):
    """pyarrow's open object, as the standard library's readers want it."""

    def __init__(self, opened: Any, told: Callable[[], AbstractContextManager[None]]) -> None:
        self._opened, self._told = opened, told

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads as much as fits."""
        with self._told():
            return int(self._opened.readinto(buffer))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Asks nobody."""
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        """The place of the next byte."""
        return int(self._opened.tell())

    def close(self) -> None:
        """Lets go of the connection."""
        self._opened.close()
        super().close()


def _reason(text: str) -> str:
    """What went wrong, in a few words.

    >>> _reason("When uploading key 'x': AWS Error NO_SUCH_BUCKET during PutObject operation: The bucket ...")
    'the bucket does not exist; create it first'
    """
    found = re.search(r"AWS Error (\w+) during (\w+) operation: ([^(]*)", text)
    if found is None:
        return " ".join(text.split())
    code, operation, words = found.groups()
    return _HINTS.get(code, f"{code} ({operation}): {' '.join(words.split())}")


@lru_cache(maxsize=8)
def _filesystem(bucket: str, _environment: tuple[str | None, ...]) -> Any:
    """The door to S3, with the keys that the environment holds at this moment; never without any."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    endpoint, region = s3_endpoint(), s3_region()
    if region is None:
        region = "us-east-1" if endpoint else resolve_s3_region(bucket)
    return S3FileSystem(
        anonymous=False,
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=STALL_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # what is small goes up in one request
        background_writes=False,  # else a large file waits in memory for a slow network
    )


if TYPE_CHECKING:
    _: type[Store] = BucketStore
