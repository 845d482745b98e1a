"""The run directory: what was asked, what is finished, who is at work on it.

While a run lasts, everything unfinished stands in the hidden folder ``.run`` of the output directory:

- ``request.json``  what was asked, with fingerprints of inputs and model, and the plan
- ``journal.jsonl`` one line per finished chunk or seam, append-only, with size and checksum of its parts
- ``parts/``        finished pieces
- ``staging/``      final files on their way; on this machine's disk where the run lives in a bucket
- ``lock``          held by the process at work; ``locks/`` where the system has no locks

A part counts once the journal names it, with this size and checksum. Final names appear at the end, ``run.json`` last:
a directory with ``run.json`` and no request is finished. Nothing here knows whether it is a folder or a bucket
(`geoseg.store`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from geoseg.errors import ConfigError, SourceError
from geoseg.store import Place, Store, open_store
from geoseg.store.disk import Facts, describe
from geoseg.store.lock import Lease, holder_of, locked

__all__ = ["FINAL_NAMES", "Record", "RunDirectory", "differences"]

Record = dict[str, Any]
"""One line of the journal: kind, name, files, counts, seconds."""

_AT_ONCE = 16  # parts that are compared or fetched at the same time
_REQUEST, _FINISHED, _JOURNAL = "request.json", "finished.json", "journal.jsonl"
_REPORT, _ITEM = "run.json", "item.json"
_OPEN_TO_OTHERS = (".aux.xml", ".qml", ".gpkg")  # programs that show a map write into these

FINAL_NAMES = (
    "labels.tif",
    "labels.tif.aux.xml",
    "labels.qml",
    "change.tif",
    "change.tif.aux.xml",
    "change.qml",
    "confidence.tif",
    "change_probability.tif",
    "probabilities.tif",
    "scene.tif",
    "polygons.geojson",
    "polygons.geojsonl",
    "polygons.parquet",
    "polygons.fgb",
    "polygons.gpkg",
    "polygons.pmtiles",
    "preview.png",
    "compare.html",
    "view.html",
    "run.qgs",
    "item.json",
    "run.json",
)
"""Every file that a run may leave, in the order in which they get their names; ``view.html`` (`geoseg.pages.view`) and
``run.qgs`` (`geoseg.sink.qgis`) are made of a finished run and go when another takes its place."""


class RunDirectory:
    """One output directory and the state of its run."""

    def __init__(self, out: Place) -> None:
        self.store: Store = open_store(out)
        """Where the outputs go."""
        self.state = self.store.below(".run")
        """What is unfinished, and the journal."""
        self.parts = self.state.below("parts")
        """Finished pieces."""
        self._lease: Lease | None = None
        self._known: dict[str, Record] | None = None

    @property
    def out(self) -> Place:
        """Path or URL of the directory."""
        return self.store.href()

    @cached_property
    def staging(self) -> Path:
        """Local folder for the outputs while they are made."""
        return self.state.below("staging").workspace()

    @property
    def is_finished(self) -> bool:
        """Whether a run is complete here: its report is, which comes last, and no other has begun since."""
        return _REQUEST not in self.state.entries() and _read_json(self.store, _REPORT) is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and holds its lock; a run that ended without a trace leaves none behind.

        Raises:
            SinkError: Another process is at work here, or the directory cannot be made.
        """
        with self.store.made(), self.state.made(), locked(self.state) as lease:
            self._lease = lease
            try:
                yield
            finally:
                self._lease, self._known = None, None
                if not {_REQUEST, _FINISHED} & self.state.entries().keys():
                    self._forget()

    def _forget(self) -> None:
        for folder in (self.parts, self.state.below("staging"), self.state.below(_JOURNAL)):
            folder.clear()
        self.state.remove(_JOURNAL)

    def holder(self) -> int | None:
        """Number of the process that holds the lock, found without touching it; None where nobody does."""
        return holder_of(self.state)

    def stored_request(self) -> dict[str, Any] | None:
        """The request of an unfinished run; None where there is none."""
        return _read_json(self.state, _REQUEST)

    def finished_request(self) -> dict[str, Any] | None:
        """What the finished run that stands here was asked; None where there is none."""
        return _read_json(self.state, _FINISHED) if self.is_finished else None

    def last_request(self) -> dict[str, Any] | None:
        """What the run was asked that was finished here last, whatever has become of its files; None during another."""
        names = self.state.entries()
        if _REQUEST in names or _FINISHED not in names:
            return None
        return _read_json(self.state, _FINISHED) or (_read_json(self.store, _REPORT) or {}).get("request")

    def damage(self) -> str:
        """What is missing of the run that was finished here, in words; empty: nothing.

        Names and sizes are compared; nothing is read but what tells them.

        Raises:
            ConfigError: A file was changed since: making the run anew would lose that.
        """
        if _read_json(self.state, _FINISHED) is None:
            return f".run/{_FINISHED} is torn"
        report, item = (_read_json(self.store, name) for name in (_REPORT, _ITEM))
        if report is None or "outputs" not in report or item is None:
            return f"{_REPORT if item else _ITEM} is gone or torn"
        present, told = self.store.sizes(), {asset["href"]: asset for asset in item.get("assets", {}).values()}
        sizes = {name: told.get(f"./{name}", {}).get("file:size") for name in report["outputs"]}
        gone = [name for name in sizes if name not in present]
        changed = [name for name, size in sizes.items() if name in present and size not in {None, present[name]}]
        for name in changed:
            if gone or not name.endswith(_OPEN_TO_OTHERS):
                raise ConfigError(
                    f"{self.store}: {name} has {present[name]} bytes, not {sizes[name]}: it was changed or cut short "
                    "after the run; --overwrite makes all anew, and so does the same command once it is removed"
                )
        return f"{gone[0]} is gone" if gone else ""

    def distrust(self) -> None:
        """Forgets what the finished run was asked, so that the same request makes it anew; its files stay."""
        if self.is_finished:
            self.state.remove(_FINISHED)

    def check(self, asked: Mapping[str, Any], *, restart: bool, overwrite: bool) -> dict[str, Any] | None:
        """The stored request if this one continues it; None if a new run begins.

        Raises:
            ConfigError: The directory holds a finished run, files of somebody else, or a run of another request.
        """
        stored = self.stored_request()
        if stored is None or restart:
            self._demand_free(overwrite=overwrite or stored is not None)
            return None
        changed = [
            text for key in asked if key != "inputs" for text in differences(stored["asked"].get(key), asked[key], key)
        ]
        if changed:
            raise ConfigError(
                f"{self.store}: holds an unfinished run of another request ({'; '.join(changed[:5])}); "
                "give the same options to resume it, or --restart to begin anew"
            )
        return stored

    def _demand_free(self, *, overwrite: bool) -> None:
        """Refuses to replace what must stay."""
        present, links = self.store.entries(), self.store.links()
        taken = [name for name in FINAL_NAMES if name in present]
        for name in taken:
            if name in links:
                raise ConfigError(f"{self.store.href(name)}: is a symbolic link; remove it or choose another --out")
        if taken and not overwrite:
            raise ConfigError(
                f"{self.store}: already holds {taken[0]}; --overwrite replaces it, or choose another --out"
            )

    def check_inputs(self, stored: Mapping[str, Any], now: Mapping[str, str]) -> None:
        """Makes sure that the inputs are still those that the run began with.

        Raises:
            SourceError: They are not; names both fingerprints.
        """
        changed = list(differences(stored["asked"]["inputs"], dict(now)))
        if changed:
            raise SourceError(
                f"the input changed since this run began ({'; '.join(changed[:3])}); "
                f"--restart begins anew, what is done in {self.store} is of the old input"
            )

    def begin(self, request: Mapping[str, Any]) -> None:
        """Forgets an earlier unfinished run and writes down a new request."""
        self.state.remove(_REQUEST)
        self._forget()
        self.parts.workspace()
        self.state.put(_REQUEST, json.dumps(request, indent=1, sort_keys=True).encode())
        self.state.settle()
        self._known = {}

    def accept(self, *records: Record) -> None:
        """Notes finished chunks and seams, durably, with the time; several at once cost no more than one.

        Raises:
            SinkError: This process does not hold the lock any more, or the journal cannot be written.
        """
        if self._lease:
            self._lease.demand()
        self._append(*(record | {"finished_at": _now()} for record in records))
        if self._known is not None:
            self._known |= {record["name"]: record for record in records}

    def note(self, kind: str, **facts: object) -> None:
        """Notes what else happened, for whoever watches (`geoseg.status`); resuming takes no heed of it."""
        self._append({"kind": kind, "at": _now(), **facts})

    def _append(self, *lines: Mapping[str, object]) -> None:
        self.state.append(_JOURNAL, [json.dumps(line, sort_keys=True) for line in lines])

    def lines(self) -> list[Record]:
        """Every whole line of the journal, notes included; needs no lock."""
        found = []
        for line in self.state.lines(_JOURNAL):
            try:
                found.append(json.loads(line))
            except ValueError:  # the line that was being written when the process died
                continue
        return found

    def finished(self) -> dict[str, Record]:
        """Records by name whose parts are all there, whole and unchanged; damaged ones are dropped, to be redone.

        Every part is read for that. Under the lock this is done once, and what no record names is removed: leftovers of
        attempts that died, or that nobody waited for.
        """
        if self._known is None:
            records = self._whole()
            if self._lease is None:
                return records
            self._known = records
            self._sweep({name for record in records.values() for name in record["files"]})
        return dict(self._known)

    def _whole(self) -> dict[str, Record]:
        """Of several records of one name, any whose parts are what it says; which one came last does not matter."""
        records = [line for line in self.lines() if "files" in line]
        present = self.parts.entries()
        names = sorted({name for record in records for name in record["files"] if name in present})
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            facts = dict(zip(names, pool.map(self._facts, names), strict=True))
        return {
            record["name"]: record
            for record in records
            if all(facts.get(name) == expected for name, expected in record["files"].items())
        }

    def _facts(self, name: str) -> Facts | None:
        try:
            with self.parts.open(name) as file:
                return describe(file)
        except FileNotFoundError:
            return None

    def _sweep(self, wanted: set[str]) -> None:
        for name in self.parts.entries().keys() - wanted:
            self.parts.remove(name)

    def local_parts(self, names: Sequence[str]) -> list[Path]:
        """Local paths of finished parts; where they live elsewhere, they are fetched and compared with the journal.

        Raises:
            SinkError: One of them is gone or damaged.
        """
        facts = {name: facts for record in self.finished().values() for name, facts in record["files"].items()}
        return self.parts.local({name: facts[name] for name in names})

    def publish(self, files: Iterable[Path]) -> list[Place]:
        """Gives staged files their final names, `run.json` last, and clears what is no longer needed.

        Raises:
            SinkError: This process does not hold the lock any more, or a file cannot be put there.
        """
        if self._lease:
            self._lease.renew()
        names = {path.name for path in files}
        present = self.store.entries()
        self.store.remove(_REPORT)  # of the run that this one replaces: from here on it is not complete
        for name in FINAL_NAMES:
            if name in present and name not in names:
                self.store.remove(name)
        ordered = [name for name in FINAL_NAMES if name in names]
        for name in ordered:
            if name == _REPORT:
                self.store.settle()
            self.store.put(name, self.staging / name)
        self.store.settle()
        with self.state.open(_REQUEST) as request:
            self.state.put(_FINISHED, request.read())
        self.state.remove(_REQUEST)
        for folder in (self.parts, self.state.below("staging")):
            folder.clear()
        return [self.store.href(name) for name in ordered]


def _read_json(store: Store, name: str) -> dict[str, Any] | None:
    """What a file holds; None where it is missing, or torn: nothing can have been done under it."""
    try:
        with store.open(name) as file:
            value = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _now() -> str:
    """ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """What differs between two JSON values, by name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key}: {_short(before)} became {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
