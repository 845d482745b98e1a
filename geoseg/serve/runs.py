"""Finished runs that a service shows: those of its jobs, and those that were put below ``runs``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geoseg.journal import RunDirectory

__all__ = ["RUN_ID", "FinishedRun", "Runs"]

RUN_ID = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""What the id of a job or a run looks like: nothing that leads out of a folder."""

_OWN = {"run.json": "application/json", "item.json": "application/geo+json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """One run that is complete."""

    id: str
    """Of the job that made it, or the name of its folder below ``runs``."""
    folder: Path
    """Its run directory."""
    item: dict[str, Any]
    """Its STAC item, as it stands in ``item.json``."""
    report: dict[str, Any]
    """Its ``run.json``."""

    @property
    def kind(self) -> Literal["segment", "change"]:
        """What made it."""
        return "change" if "change.tif" in self.report["outputs"] else "segment"

    def files(self) -> dict[str, str]:
        """Name -> media type of every file that may be fetched: those that item and report name, and no other."""
        types = {asset["href"].removeprefix("./"): asset.get("type") for asset in self.item["assets"].values()}
        names = [name for name in dict.fromkeys([*self.report["outputs"], *types]) if "/" not in name]
        return {name: types.get(name) or "application/octet-stream" for name in names} | _OWN


class Runs:
    """The finished runs of a service, looked up on disk; each is read once, and again when it was made anew."""

    def __init__(self, root: Path) -> None:
        """Takes the service's folder."""
        self._jobs, self._given = root / "jobs", root / "runs"
        self._known: dict[Path, tuple[int, FinishedRun]] = {}

    def list(self) -> list[FinishedRun]:
        """All of them, the newest first."""
        found = [(folder, self._read(id_, folder)) for id_, folder in self._folders()]
        runs = [(self._known[folder][0], run) for folder, run in found if run is not None]
        return [run for _, run in sorted(runs, key=lambda pair: (-pair[0], pair[1].id))]

    def find(self, run_id: str) -> FinishedRun | None:
        """The run of that id; None where there is none, or it is not finished."""
        if not re.fullmatch(RUN_ID, run_id):
            return None
        places = (self._jobs / run_id / "run", self._given / run_id)
        return next((run for folder in places if (run := self._read(run_id, folder)) is not None), None)

    def _folders(self) -> Iterator[tuple[str, Path]]:
        for parent, below in ((self._jobs, "run"), (self._given, "")):
            for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
                if re.fullmatch(RUN_ID, folder.name):
                    yield folder.name, folder / below if below else folder

    def _read(self, run_id: str, folder: Path) -> FinishedRun | None:
        try:
            made = (folder / "run.json").stat().st_mtime_ns
            known = self._known.get(folder)
            if known is not None and known[0] == made:
                return known[1]
            if not RunDirectory(folder).is_finished:
                return None
            item, report = (json.loads((folder / name).read_bytes()) for name in ("item.json", "run.json"))
            run = FinishedRun(id=run_id, folder=folder, item=item, report=report)
            run.files()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or being removed, or no run of ours
            self._known.pop(folder, None)
            return None
        self._known[folder] = (made, run)
        return run
