"""A service whose jobs only pretend: nothing is computed, so that hundreds of them take no time.

``python -m tests.serve.pretend serve ...`` is ``geoseg serve`` with such jobs. What a job does is its option ``tile``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from geoseg.journal import RunDirectory
from geoseg.status import noted

SUCCEED, FAIL, WAIT, STUBBORN, NOTHING, DIE = 1, 2, 3, 4, 5, 6
"""What a job does: waits for the file ``go`` in the service's folder; does not listen; leaves no result; is killed."""
MODULE = "tests.serve.pretend"


def pretend() -> int:
    """One command of geoseg; the finished run that it leaves is a copy of $PRETEND_RUN."""
    options = json.loads(Path("options.yaml").read_text())
    kind = options.get("tile", SUCCEED)
    if kind == FAIL:
        told = {"event": "error", "message": f"{Path.cwd()}/scene.tif: has no band nir; /etc/passwd has"}
        sys.stderr.write(f"{json.dumps(told)}\n")
        return 2
    if kind == DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == STUBBORN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == NOTHING:
        return 0
    directory = RunDirectory("run")
    with directory.locked(), noted(directory, lambda _: None):
        if directory.stored_request() is None:
            totals = {"scene": "s", "chunks": 2, "tiles": 2, "pixels": 100}
            directory.begin({"asked": {"inputs": {}}, "totals": totals})
        counts = {"tiles": 1, "pixels": 50, "forward_passes": 1}
        half = {
            "kind": "chunk",
            "name": "0",
            "files": {},
            "counts": counts,
            "seconds": 0.1,
            "peak_memory": 1,
            "process": 1,
        }
        directory.accept(half)
        while kind in {WAIT, STUBBORN} and not Path("../../go").exists():
            time.sleep(0.02)
        made = Path(os.environ["PRETEND_RUN"])
        staging = directory.staging
        for file in made.iterdir():
            shutil.copy(file, staging / file.name)
        directory.publish(staging.iterdir())
    return 0


def use() -> None:
    """Has services of this process start jobs that pretend."""
    from geoseg.serve import starting

    starting._CHILD = MODULE


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from geoseg.cli import run

        use()
        sys.exit(run(sys.argv[1:]))
    if sys.argv[1].isdecimal():
        from geoseg.serve import child

        child._PROGRAM = MODULE
        child._become(int(sys.argv[1]), sys.argv[2:])
    sys.exit(pretend())
