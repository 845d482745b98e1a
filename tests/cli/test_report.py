"""``--report``: a page of Dask's that can be read without a network, or a clear word about what is missing."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from geoseg.cluster import Cluster, ClusterOptions
from geoseg.errors import ConfigError, MissingExtraError
from geoseg.pipeline import segment
from geoseg.testing import LinearModel
from tests.cli.conftest import Call, FakePipeline
from tests.test_pipeline import WEIGHTS, write_tiff

HAS_BOKEH = find_spec("bokeh") is not None


@pytest.mark.skipif(HAS_BOKEH, reason="bokeh is installed")
@pytest.mark.usefixtures("fake")
def test_what_it_needs_is_said_before_any_work(call: Call, fake: FakePipeline, tmp_path: Path) -> None:
    ended = call("segment", "a.tif", "--out", tmp_path, "--workers", "2", "--report", tmp_path / "run.html")
    assert (ended.code, ended.error_lines) == (
        2,
        ["geoseg: error: --report needs the package bokeh: pip install bokeh"],
    )
    assert fake.calls == []
    with pytest.raises(MissingExtraError):
        Cluster(ClusterOptions(report=tmp_path / "run.html"))


def test_a_page_that_could_not_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.cluster.find_spec", lambda _: object())
    with pytest.raises(ConfigError, match="create it first"):
        Cluster(ClusterOptions(report=tmp_path / "no folder" / "run.html"))
    with pytest.raises(ConfigError, match="is a directory"):
        Cluster(ClusterOptions(report=tmp_path))


@pytest.mark.skipif(not HAS_BOKEH, reason="bokeh is not installed")
def test_the_page_stands_there_and_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(1, 9999, (4, 150, 150), dtype=np.uint16)
    scene = write_tiff(tmp_path / "scene.tif", pixels)
    page = tmp_path / "run.html"
    with Cluster(ClusterOptions(workers=2, report=page)) as cluster:
        segment(
            scene, model=LinearModel(WEIGHTS), out=tmp_path / "out", tile=40, overlap=6, chunk=70, vector=(),
            cluster=cluster,
        )  # fmt: skip
    text = page.read_text()
    assert "Dask Performance Report" in text
    assert not re.search(r"<script[^>]+src=", text)
    assert not re.search(r"<link[^>]+rel=.stylesheet", text)
