"""Locations: three kinds are read, everything else that GDAL would take is refused."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import SourceError
from geoseg.source.location import parse_location, regular_file


@pytest.mark.parametrize(
    ("text", "kind", "gdal"),
    [
        ("/data/a b.tif", "path", "/data/a b.tif"),
        ("HTTP://Example.org/a.tif", "http", "/vsicurl/http://Example.org/a.tif"),
        ("https://example.org/a b.tif?x=1&y=%20", "http", "/vsicurl/https://example.org/a%20b.tif?x=1&y=%20"),
        ("S3://bucket/a/b.tif", "s3", "/vsis3/bucket/a/b.tif"),
        ("file:///data/a%20b.tif", "path", "/data/a b.tif"),
    ],
)
def test_three_kinds_are_read(text: str, kind: str, gdal: str) -> None:
    location = parse_location(text)
    assert (location.kind, location.gdal) == (kind, gdal)
    assert pickle.loads(pickle.dumps(location)) == location


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a\nb.tif",
        "a\x00.tif",
        "https://example.org/a\r\nHost: b",
        "<VRTDataset/>",
        "  <GDAL_WMS>",
        "/vsicurl/http://example.org/a.tif",
        "/vsizip/a.zip/a.tif",
        "/vsimem/a.tif",
        "GTIFF_DIR:1:/data/a.tif",
        "HDF5:a.h5://x",
        'NETCDF:"a.nc":b',
        "PG:dbname=x",
        "WMS:http://example.org",
        "ftp://example.org/a.tif",
        "gs://bucket/a.tif",
        "javascript:alert(1)",
        "http:///a.tif",
        "https://user:word@example.org/a.tif",
        "s3://bucket",
        "s3:///a.tif",
        "file://elsewhere/a.tif",
    ],
)
def test_all_else_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_location(text)
    assert "\n" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_a_relative_path_that_would_become_a_vsi_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(SourceError, match="virtual"):
        parse_location("vsimem/a.tif")


@given(st.text(max_size=40))
def test_any_text_gives_a_location_or_a_clean_error(text: str) -> None:
    try:
        location = parse_location(text)
    except SourceError:
        return
    assert not location.gdal.startswith("/vsi") or location.kind != "path"
    assert "\n" not in location.gdal


def test_a_query_is_never_shown_and_sidecars_stand_beside() -> None:
    signed = parse_location("https://example.org/a.tif?sig=SECRET")
    assert "SECRET" not in signed.display + str(signed) + signed.stem
    assert "SECRET" in signed.gdal
    assert signed.beside(".msk") is None
    plain = parse_location("https://example.org/scenes/a.tif").beside(".msk")
    assert plain is not None
    assert plain.href.endswith("/scenes/a.tif.msk")


@pytest.mark.parametrize(
    ("document", "href", "expected"),
    [
        ("/data/items/i.json", "../b.tif", "/data/b.tif"),
        ("/data/items/i.json", "/other/b.tif", "/other/b.tif"),
        ("https://example.org/items/i.json?sig=x", "./b.tif", "https://example.org/items/b.tif"),
        ("https://example.org/items/i.json", "../b.tif?sig=y", "https://example.org/b.tif?sig=y"),
        ("https://example.org/items/i.json", "/b.tif", "https://example.org/b.tif"),
        ("s3://bucket/items/i.json", "../b.tif", "s3://bucket/b.tif"),
        ("s3://bucket/items/i.json", "https://example.org/b.tif", "https://example.org/b.tif"),
    ],
)
def test_hrefs_inside_a_document_are_relative_to_it(document: str, href: str, expected: str) -> None:
    assert parse_location(document).relative(href).href == expected


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo, link, plain = tmp_path / "fifo.tif", tmp_path / "link.tif", tmp_path / "plain.tif"
    os.mkfifo(fifo)
    plain.write_bytes(b"x")
    link.symlink_to(plain)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, words in [
            (fifo, "fifo"),
            (tmp_path, "directory"),
            (tmp_path / "s", "socket"),
            (Path(os.devnull), "device"),
            (tmp_path / "none.tif", "No such file"),
        ]:
            with pytest.raises(SourceError, match=words):
                regular_file(parse_location(path))
    assert regular_file(parse_location(link)).st_size == 1
