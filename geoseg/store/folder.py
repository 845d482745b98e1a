"""A run that lives in a folder, on a local disk or one that is shared (NFS, Lustre, a cluster's own)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from geoseg.errors import SinkError
from geoseg.store.disk import Facts, durable, move, sync

if TYPE_CHECKING:
    from geoseg.store import Store

__all__ = ["FolderStore"]

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What file systems say that cannot lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStore:
    """A `geoseg.store.Store` whose files appear by rename."""

    root: Path
    """The folder."""

    def __str__(self) -> str:
        return str(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FolderStore, root=self.root.absolute()), ()  # other processes may work in another folder

    def href(self, name: str = "") -> Path:
        """The file's path."""
        return self.root / name

    def below(self, name: str) -> FolderStore:
        """The folder of this name."""
        return FolderStore(root=self.root / name)

    def entries(self) -> dict[str, float]:
        """Files by name, with the time of their last change; folders are none."""
        found: dict[str, float] = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as files:
            for file in files:
                with suppress(FileNotFoundError):  # gone since the folder was read
                    if not file.is_dir(follow_symlinks=False):
                        found[file.name] = file.stat(follow_symlinks=False).st_mtime
        return found

    def sizes(self) -> dict[str, int]:
        """Files by name, with their bytes; a link that leads nowhere is none."""
        found: dict[str, int] = {}
        for name in self.entries():
            with suppress(FileNotFoundError):
                found[name] = (self.root / name).stat().st_size
        return found

    def folders(self) -> list[str]:
        """Folders, links to some included."""
        with suppress(OSError), os.scandir(self.root) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
        return []

    def links(self) -> list[str]:
        """Symbolic links among the files."""
        return sorted(name for name in self.entries() if (self.root / name).is_symlink())

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The file, to read."""
        return (self.root / name).open("rb")

    def put(self, name: str, content: bytes | Path) -> None:
        """Renames a file, which is on the same disk, or writes one and renames it."""
        if isinstance(content, Path):
            move(content, self.root / name)
            return
        with durable(self.root / name, len(content)) as temporary:
            temporary.write_bytes(content)

    def settle(self) -> None:
        """Forces the names onto the disk; the content of each file is there before it has its name."""
        sync(self.root)

    def append(self, name: str, lines: Sequence[str]) -> None:
        """Writes at the end of the file; a line that a dying process left torn ends first."""
        with (self.root / name).open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
            file.write(b"\n" * torn + "".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def lines(self, name: str) -> list[str]:
        """The file's lines; none where there is no file."""
        try:
            return (self.root / name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def local(self, files: Mapping[str, Facts]) -> list[Path]:
        """The files themselves: what is not copied is not compared."""
        return [self.root / name for name in files]

    def disk(self) -> Path:
        """The folder, or what it will stand in."""
        return self.root if self.root.exists() else self.root.absolute().parent

    def workspace(self) -> Path:
        """The folder itself, so that renaming is possible."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root

    def remove(self, name: str) -> None:
        """Removes the file, or the link."""
        (self.root / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def made(self) -> Iterator[None]:
        """Makes the folder; its parent exists."""
        if self.root.is_symlink():
            raise SinkError(f"{self.root}: is a symbolic link; give the directory itself to --out")
        existed = self.root.exists()
        try:
            self.root.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            parent = self.root.parent
            raise SinkError(f"{self.root}: its parent directory does not exist; create {parent} first") from error
        except OSError as error:
            raise SinkError(f"{self.root}: cannot be made ({error.strerror}); choose another --out") from error
        try:
            yield
        finally:
            if not existed:
                with suppress(OSError):
                    self.root.rmdir()

    def system_lock(self, name: str, owner: str) -> AbstractContextManager[str | None] | None:
        """flock, which the system frees when the process dies; None where the file system has none."""
        path = self.root / name
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SinkError(f"{self.root}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                return _closing(handle, os.pread(handle, 1024, 0).decode(errors="replace"))
            os.close(handle)
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                return None
            raise SinkError(f"{self.root}: cannot be locked ({error.strerror}); choose another --out") from error
        if not _is_open(path, handle):  # its last holder has removed it meanwhile
            os.close(handle)
            return self.system_lock(name, owner)
        return _holding(path, handle, owner)


@contextmanager
def _closing(handle: int, holder: str | None) -> Iterator[str | None]:
    try:
        yield holder
    finally:
        os.close(handle)


@contextmanager
def _holding(path: Path, handle: int, owner: str) -> Iterator[None]:
    """Tells others who it is, as long as the block lasts; the file goes before it is free."""
    with _closing(handle, None):
        with suppress(OSError):  # a full disk
            os.ftruncate(handle, 0)
            os.pwrite(handle, owner.encode(), 0)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_open(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


if TYPE_CHECKING:
    _: type[Store] = FolderStore
