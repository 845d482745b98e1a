"""Errors travel between processes, are caught as the builtins that people know, and read as one line."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from geoseg import errors
from geoseg.errors import (
    BandError,
    ChunkError,
    ClusterError,
    ConfigError,
    GeosegError,
    GridError,
    MissingExtraError,
    SinkError,
    SourceError,
)


def every_error() -> list[type[GeosegError]]:
    return [GeosegError, *sorted(GeosegError.__subclasses__(), key=lambda cls: cls.__name__)]


def test_the_tree_is_the_exported_one() -> None:
    assert {cls.__name__ for cls in every_error()} == {name for name in errors.__all__ if name[0].isupper()}


@pytest.mark.parametrize("cls", every_error())
@pytest.mark.parametrize("clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_survives_the_way_back_from_a_worker(cls: type[GeosegError], clone: object) -> None:
    error = cls("scene.tif: band 'nir' is missing (it has: red, green). Name it with --bands nir=4")
    assert callable(clone)
    twin = clone(error)
    assert type(twin) is cls
    assert str(twin) == str(error) == error.args[0]
    assert twin.args == error.args


def test_a_chunk_error_keeps_scene_and_window() -> None:
    error = pickle.loads(pickle.dumps(ChunkError("chunk failed", "S2A", "rows 0:512, columns 0:512")))
    assert (error.scene, error.window, str(error)) == ("S2A", "rows 0:512, columns 0:512", "chunk failed")


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (SourceError, OSError),
        (BandError, KeyError),
        (GridError, ValueError),
        (ClusterError, OSError),
        (SinkError, OSError),
        (ConfigError, ValueError),
        (MissingExtraError, ImportError),
    ],
)
def test_each_is_also_the_builtin_that_people_catch(cls: type[GeosegError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise cls("what, where, what to do")


def test_a_band_error_reads_as_text_not_as_a_key() -> None:
    last = traceback.format_exception_only(BandError("no band 'nir'"))[-1]
    assert last.strip() == "geoseg.errors.BandError: no band 'nir'"
