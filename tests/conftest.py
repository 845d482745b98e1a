"""What every test may rely on: a cache of its own, one thread, and the shared data where there is some."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.buckets import Bucket, bucket_server, make_bucket

# Before torch or numpy are imported: tests run side by side, so each takes one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell that starts tests in the background has them ignore Ctrl-C, and with them every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no finding, so no deadline; TEST_EXAMPLES looks harder (CI and laptops: 50 examples a property).
hypothesis.settings.register_profile(
    "geoseg",
    deadline=None,
    max_examples=int(os.environ.get("TEST_EXAMPLES", "50")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("geoseg")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this test run, so that nobody's own is read or written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOSEG_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real scenes, odd files and foreign model packages: the folder TEST_SHARED names, or ../shared."""
    folder = Path(os.environ.get("TEST_SHARED") or CHECKOUT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}: set TEST_SHARED to the folder that holds data/ and models/")
    return folder


@pytest.fixture(scope="session")
def bucket_endpoint() -> Iterator[str]:
    """A server that speaks S3, for the whole session."""
    with bucket_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(bucket_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket of the test's own, which the environment leads to."""
    made = make_bucket(bucket_endpoint, f"bucket-{os.urandom(6).hex()}")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(params=["folder", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a run may live: nothing stands there yet, but what it needs to stand in."""
    if request.param == "folder":
        return tmp_path / "out"
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.url
