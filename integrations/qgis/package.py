"""Packs the plugin as QGIS installs it: ``python integrations/qgis/package.py [FOLDER]``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).resolve().parent / "geoseg_provider"
LICENSE = PLUGIN.parents[2] / "LICENSE"


def pack(folder: Path) -> Path:
    """The path of ``geoseg_provider.zip`` in `folder`, written anew; the same files give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PLUGIN.name}.zip"
    files = sorted(path for path in PLUGIN.iterdir() if path.suffix in {".py", ".svg", ".txt"})
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (*files, LICENSE):
            entry = zipfile.ZipInfo(f"{PLUGIN.name}/{path.name}", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


if __name__ == "__main__":
    print(pack(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
