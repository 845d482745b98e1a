"""What schemathesis makes up of the service's own description never breaks it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Start

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method",
)  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis")
@pytest.mark.parametrize("phase", ["fuzzing", pytest.param("coverage", marks=pytest.mark.slow)])
def test_no_request_breaks_the_service_or_its_promises(start: Start, tmp_path: Path, phase: str) -> None:
    """A few requests for each operation; the benchmark of the service makes 10,000."""
    live = start(pretending=True, rate=1e6, burst=1_000_000, queue=50)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{live.url}/api", "--checks", ",".join(CHECKS),
        "--phases", phase, "--max-examples", "3", "--seed", "1", "--no-color",
        "--generation-database", "none", "--request-timeout", "30", "--continue-on-failure",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:]
