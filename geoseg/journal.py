"""The run directory: what was asked, what is finished, who is at work on it.

While a run lasts, everything unfinished stands in the hidden folder ``.run`` of the output directory:

- ``request.json``  what was asked, with fingerprints of inputs and model, and the plan
- ``journal.jsonl`` one line per finished chunk or seam, append-only, with size and checksum of its parts
- ``parts/``        finished pieces
- ``staging/``      final files on their way
- ``lock``          held by the process at work; the operating system frees it when that process dies

Final names appear by rename, ``run.json`` last: a directory with ``run.json`` is finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geoseg.errors import ConfigError, SinkError, SourceError
from geoseg.sink.parts import describe_file, durable, sync

__all__ = ["FINAL_NAMES", "Record", "RunDirectory"]

Record = dict[str, Any]
"""One line of the journal: kind, name, files, counts, seconds."""

FINAL_NAMES = (
    "labels.tif",
    "labels.tif.aux.xml",
    "labels.qml",
    "confidence.tif",
    "probabilities.tif",
    "polygons.geojson",
    "polygons.parquet",
    "polygons.fgb",
    "polygons.gpkg",
    "polygons.pmtiles",
    "preview.png",
    "item.json",
    "run.json",
)
"""Every file that a run may leave, in the order in which they get their names."""


class RunDirectory:
    """One output directory and the state of its run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state = out / ".run"
        self.parts = self.state / "parts"
        self.staging = self.state / "staging"
        self._request = self.state / "request.json"
        self._journal = self.state / "journal.jsonl"

    @property
    def is_finished(self) -> bool:
        """Whether a complete run stands here."""
        return (self.out / "run.json").exists() and not self._request.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and holds its lock; a run that ended without a trace leaves none behind.

        Raises:
            SinkError: Another process is at work here, or the directory cannot be made.
        """
        if self.out.is_symlink():
            raise SinkError(f"{self.out}: is a symbolic link; give the directory itself to --out")
        try:
            existed = self.out.exists()
            self.out.mkdir(exist_ok=True)
            self.state.mkdir(exist_ok=True)
            handle = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            raise SinkError(
                f"{self.out}: its parent directory does not exist; create {self.out.parent} first"
            ) from error
        except OSError as error:
            raise SinkError(f"{self.out}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            self._take_lock(handle)
            yield
        finally:
            os.close(handle)
            self._leave_no_empty_folder(remove_out=not existed)

    def _take_lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            raise SinkError(
                f"{self.out}: another run (process {holder}) is at work here; wait for it or choose another --out"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)

    def _leave_no_empty_folder(self, *, remove_out: bool) -> None:
        """A run refused before it began leaves no trace."""
        if self._request.exists() or self._journal.exists():
            return
        shutil.rmtree(self.state, ignore_errors=True)
        if remove_out and not any(self.out.iterdir()):
            self.out.rmdir()

    def stored_request(self) -> dict[str, Any] | None:
        """The request of an unfinished run; None where there is none."""
        return _read_json(self._request)

    def finished_request(self) -> dict[str, Any] | None:
        """What the finished run that stands here was asked; None where there is none."""
        return _read_json(self.state / "finished.json") if self.is_finished else None

    def check(self, asked: Mapping[str, Any], *, restart: bool, overwrite: bool) -> dict[str, Any] | None:
        """The stored request if this one continues it; None if a new run begins.

        Raises:
            ConfigError: The directory holds a finished run, files of somebody else, or a run of another request.
        """
        stored = self.stored_request()
        if stored is None or restart:
            taken = [name for name in FINAL_NAMES if os.path.lexists(self.out / name)]
            links = [name for name in taken if (self.out / name).is_symlink()]
            if links:
                raise ConfigError(f"{self.out / links[0]}: is a symbolic link; remove it or choose another --out")
            if taken and not overwrite and stored is None:
                raise ConfigError(
                    f"{self.out}: already holds {taken[0]}; --overwrite replaces it, or choose another --out"
                )
            return None
        changed = [
            text for key in asked if key != "inputs" for text in _differences(stored["asked"].get(key), asked[key], key)
        ]
        if changed:
            raise ConfigError(
                f"{self.out}: holds an unfinished run of another request ({'; '.join(changed[:5])}); "
                "give the same options to resume it, or --restart to begin anew"
            )
        return stored

    def check_inputs(self, stored: Mapping[str, Any], now: Mapping[str, str]) -> None:
        """Makes sure that the inputs are still those that the run began with.

        Raises:
            SourceError: They are not; names both fingerprints.
        """
        changed = list(_differences(stored["asked"]["inputs"], dict(now)))
        if changed:
            raise SourceError(
                f"the input changed since this run began ({'; '.join(changed[:3])}); "
                f"--restart begins anew, what is done in {self.out} is of the old input"
            )

    def begin(self, request: Mapping[str, Any]) -> None:
        """Forgets an earlier unfinished run and writes down a new request."""
        for folder in (self.parts, self.staging):
            shutil.rmtree(folder, ignore_errors=True)
        self._journal.unlink(missing_ok=True)
        self.parts.mkdir(parents=True)
        with durable(self._request) as temporary:
            temporary.write_text(json.dumps(request, indent=1, sort_keys=True))
        sync(self.state)

    def accept(self, record: Record) -> None:
        """Notes a finished chunk or seam, durably."""
        with self._journal.open("a") as journal:
            journal.write(json.dumps(record, sort_keys=True) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def finished(self) -> dict[str, Record]:
        """Records by name whose parts are all there, whole and unchanged; damaged ones are dropped, to be redone."""
        records: dict[str, Record] = {}
        for record in self._lines():
            records[record["name"]] = record
        return {name: record for name, record in records.items() if self._is_whole(record)}

    def _lines(self) -> Iterator[Record]:
        if not self._journal.exists():
            return
        for line in self._journal.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the line that was being written when the process died
                continue

    def _is_whole(self, record: Record) -> bool:
        for name, expected in record["files"].items():
            path = self.parts / name
            if not path.exists() or describe_file(path) != expected:
                return False
        return True

    def publish(self, files: Iterable[Path]) -> list[Path]:
        """Gives staged files their final names, `run.json` last, and clears what is no longer needed."""
        names = {path.name for path in files}
        for name in FINAL_NAMES[:-1]:
            if name not in names and os.path.lexists(self.out / name):
                (self.out / name).unlink()  # of the run that this one replaces
        ordered = [name for name in FINAL_NAMES if name in names]
        for name in ordered:
            sync(self.staging / name)
            (self.staging / name).replace(self.out / name)
        sync(self.out)
        shutil.rmtree(self.parts, ignore_errors=True)
        shutil.rmtree(self.staging, ignore_errors=True)
        self._request.replace(self.state / "finished.json")
        return [self.out / name for name in ordered]


def _read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None where it is missing, or torn: nothing can have been done under it."""
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """What differs between two JSON values, by name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key}: {_short(before)} became {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
