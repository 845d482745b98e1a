"""Files that appear on a disk whole or not at all, and the folder of this process for what is on its way."""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from geoseg.errors import SinkError

__all__ = [
    "Facts",
    "creating",
    "demand_space",
    "describe",
    "describe_file",
    "durable",
    "move",
    "scratch_folder",
    "sync",
    "writing",
]

Facts: TypeAlias = dict[str, Any]
"""Size in bytes and SHA-256 (hexadecimal) of a file."""

UNFINISHED = ".partial"
"""How the names of files end that are not finished yet."""

_PIECE = 4 << 20
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.EACCES, errno.EISDIR, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def writing(path: Path, needed: int = 0, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into one clear error.

    Args:
        path: File that is being written.
        needed: Bytes that it needs, about; 0 if unknown.
        errors: What the library that writes may raise.

    Raises:
        SinkError: No space is left, or the file cannot be written.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, SinkError):
            raise
        full = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}
        if full or _free_bytes(path.parent) < max(needed, 1 << 20):
            raise SinkError(_no_space(path, needed)) from error
        raise SinkError(f"{path}: cannot be written ({error})") from error


def demand_space(path: Path, needed: int) -> None:
    """Refuses to begin a file that will find no space.

    Raises:
        SinkError: There is less than `needed` bytes beside `path`.
    """
    if _free_bytes(path.parent) < needed:
        raise SinkError(_no_space(path, needed))


def _no_space(path: Path, needed: int) -> str:
    about = f", need about {max(1, needed >> 20)} MB" if needed else ""
    return f"no space left on {path.parent}{about}; free some and run the same command again"


def _free_bytes(folder: Path) -> int:
    try:
        stats = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return stats.f_bavail * stats.f_frsize


@contextmanager
def creating(folder: Path, name: str, needed: int = 0) -> Iterator[Path]:
    """A name in `folder` to write to, of this attempt alone; the file goes at the end, if it is still there.

    Two workers may write the same part at once, where one of them was thought dead: neither may touch the other's file.

    Raises:
        SinkError: No space is left, or the file cannot be written.
    """
    attempt = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
    temporary = folder / f".{name}.{attempt}{UNFINISHED}"
    try:
        with writing(folder / name, needed):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def durable(path: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary name to write to; on success it is synced and renamed to `path`, on failure it is removed.

    Raises:
        SinkError: No space is left, or the file cannot be written.
    """
    with creating(path.parent, path.name, needed) as temporary:
        yield temporary
        move(temporary, path)


def move(path: Path, target: Path) -> None:
    """Gives a file its final name on the same disk, once its content is there."""
    sync(path)
    path.replace(target)


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):  # some file systems have no such thing
            raise
    finally:
        os.close(handle)


def describe(file: BinaryIO) -> Facts:
    """Size and checksum of what is left to read in an open file."""
    size, digest = 0, hashlib.sha256()
    while piece := file.read(_PIECE):
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def describe_file(path: Path) -> Facts:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""
    with path.open("rb") as file:
        return describe(file)


@lru_cache(maxsize=1)
def _scratch_of(process: int, parent: str) -> Path:
    """A folder of this process; those of processes that ended without tidying up are removed first."""
    home = Path(parent) / f"geoseg-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise SinkError(f"{home}: belongs to somebody else; set TMPDIR to a folder of your own")
    for lock in home.glob("*.lock"):
        _remove_if_dead(lock)
    name = f"{process}-{os.urandom(4).hex()}"
    handle = os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # held until the process ends
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = home / name
    folder.mkdir(mode=0o700)
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not where it was forked
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def _remove_if_dead(lock: Path) -> None:
    with suppress(OSError):
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
        finally:
            os.close(handle)


def scratch_folder() -> Path:
    """A local folder of this process (below ``TMPDIR``) for what goes elsewhere later.

    Raises:
        SinkError: It cannot be made.
    """
    parent = tempfile.gettempdir()
    try:
        folder = _scratch_of(os.getpid(), parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if isinstance(error, SinkError):
            raise
        raise SinkError(f"{parent}: no scratch folder can be made there ({error.strerror}); set TMPDIR") from error
    return folder
