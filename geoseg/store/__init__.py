"""Where a run lives: a folder on a local or shared disk, or objects below a prefix of a bucket.

Whoever keeps the state of a run, or leaves a part of it, knows a `Store` only. A store is a small value that pickles:
what opens the door to a bucket comes from the environment of each process and is kept nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from geoseg.errors import ConfigError, SinkError
from geoseg.store.disk import Facts

__all__ = ["Place", "Store", "open_store"]

Place: TypeAlias = Path | str
"""Where a reader finds something: the path of a file, or the URL of an object."""


class Store(Protocol):
    """Files by name, each there whole or not at all; names have no folders in them, `below` leads to those."""

    def __str__(self) -> str:
        """Path or URL, for messages."""
        ...

    def href(self, name: str = "") -> Place:
        """Where readers find a file of this name; without a name, all of them."""
        ...

    def below(self, name: str) -> Store:
        """The store in the folder of this name."""
        ...

    def entries(self) -> dict[str, float]:
        """Names of the files here, and when each was last written, in seconds of one clock."""
        ...

    def sizes(self) -> dict[str, int]:
        """Names of the files here, and how many bytes each has; of a link those of what it stands for."""
        ...

    def folders(self) -> Sequence[str]:
        """Names of the folders here, sorted."""
        ...

    def links(self) -> Sequence[str]:
        """Names that stand for something elsewhere, which must not be replaced."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to read, at any place in it.

        Raises:
            FileNotFoundError: There is none of this name.
        """
        ...

    def put(self, name: str, content: bytes | Path) -> None:
        """Makes `content` the file of this name, in one step; a path names a local file, which is moved.

        Raises:
            SinkError: It cannot be put there.
        """
        ...

    def settle(self) -> None:
        """Returns once no power cut can take back what was put."""
        ...

    def append(self, name: str, lines: Sequence[str]) -> None:
        """Adds lines to a log, durably, in a time that does not depend on those that are there."""
        ...

    def lines(self, name: str) -> list[str]:
        """The lines of a log, in their order; the last may be torn."""
        ...

    def local(self, files: Mapping[str, Facts]) -> list[Path]:
        """Local paths of files: where they are, or copies, each compared with its facts on its way.

        Raises:
            SinkError: One is missing, or is not what its facts say.
        """
        ...

    def disk(self) -> Path:
        """An existing local folder on the disk that has to hold what is in the making."""
        ...

    def workspace(self) -> Path:
        """A local folder to write in what is put here later; it exists."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file; harmless where there is none."""
        ...

    def clear(self) -> None:
        """Removes everything here and below."""
        ...

    def made(self) -> AbstractContextManager[None]:
        """The store exists within the block; it goes again if it was made there and nothing was put into it.

        Raises:
            SinkError: It cannot be made.
        """
        ...

    def system_lock(self, name: str, owner: str) -> AbstractContextManager[str | None] | None:
        """The operating system's lock on a file of this name; None where there is no such thing.

        The block is given None if this process holds the lock, with `owner` in the file; else its holder's `owner`.
        """
        ...


def open_store(place: Place) -> Store:
    """The store that a person means by `place`: ``s3://BUCKET/PREFIX``, or a folder.

    Raises:
        ConfigError: It is empty, or the URL of something else.
        SinkError: It names no prefix in the bucket.

    >>> str(open_store("S3://bucket/maps/run1/"))
    's3://bucket/maps/run1'
    """
    if not str(place).strip():
        raise ConfigError("results go to a folder or to s3://BUCKET/PREFIX, and neither is named (. is this folder)")
    scheme, found, rest = str(place).partition("://")
    if isinstance(place, Path) or not found:
        from geoseg.store.folder import FolderStore

        return FolderStore(root=Path(place))
    if scheme.lower() != "s3":
        raise ConfigError(f"{scheme}://{rest.partition('?')[0]}: results go to a folder or to s3://BUCKET/PREFIX")
    from geoseg.store.bucket import BucketStore

    bucket, _, prefix = rest.partition("/")
    words = [word for word in prefix.split("/") if word]
    if not bucket or not words or {".", ".."} & set(words) or re.search(r"[\x00-\x1f\x7f?#]", rest):
        raise SinkError(f"s3://{rest.partition('?')[0]}: results go to a prefix of a bucket: write s3://BUCKET/PREFIX")
    return BucketStore(bucket=bucket, prefix="/".join(words))
