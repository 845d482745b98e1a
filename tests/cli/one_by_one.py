"""``python -m tests.cli.one_by_one``: many command lines in one process, one after the other, in bounded memory.

Standard input holds one JSON list of words per line; standard output gets one JSON report for each as it ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MORE_BYTES = 1 << 30
"""Address space that one command line may take on top of what the loaded libraries hold."""


def report(words: list[str]) -> dict[str, Any]:
    """How one command line ended: exit code, what it wrote to both descriptors, seconds."""
    from geoseg.cli import run

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        since = time.monotonic()
        code = _redirected(lambda: run(words), out.fileno(), err.fileno())
        seconds = time.monotonic() - since
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"code": code, "out": texts[0], "err": texts[1], "seconds": seconds}


def _redirected(work: Callable[[], int], out: int, err: int) -> int:
    kept = os.dup(1), os.dup(2)
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        return work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """The first line is a command line that must work: it loads the libraries before memory is bounded."""
    for number, line in enumerate(sys.stdin):
        print(json.dumps(report(json.loads(line))), flush=True)
        if number == 0:
            limit = _address_space() + MORE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
