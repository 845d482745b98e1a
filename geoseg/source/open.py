"""The one function that opens rasters for reading, and what it finds in their headers.

A file named ``scene.tif`` can hold another format: opened bare, XML in it reads any file, writes where it likes or
makes requests. So the first bytes decide the driver, and GDAL gets exactly that one.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoseg.errors import SourceError
from geoseg.source import remote
from geoseg.source.credentials import keep_out_of_logs
from geoseg.source.header import Header, ReadAt, check_blocks, read_header, refuse_references
from geoseg.source.location import Location, parse_location, regular_file
from geoseg.types import Pixels
from geoseg.window import Window

__all__ = ["Examined", "environment", "examine", "limit_cache", "now", "open_raster", "read_window"]

SIDECARS = (".msk", ".ovr", ".aux.xml")
"""What GDAL finds beside a raster by name: a mask, overviews, metadata."""
_OF_SIDECARS = (".msk.aux.xml", ".ovr.aux.xml", ".msk.ovr")
_PROBE = 4
"""Where a byte is asked for to see what a server has: not at 0, for some send every range from there."""
_warning_lock = threading.Lock()
keep_out_of_logs("rasterio._env", "rasterio._base", "rasterio._io", "rasterio._err")  # GDAL names what it opens in full


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A raster whose first bytes were looked at: what GDAL needs to open exactly this version of it."""

    location: Location
    """Where it is."""
    driver: str
    """GDAL's driver for its format."""
    placed: bool
    """Whether it holds a transform of its own, as far as its first bytes tell."""
    identity: tuple[tuple[str, str], ...]
    """Location (no query) and fingerprint: of the raster first, then of its sidecars."""
    unsigned: bool = False
    """Whether S3 is asked without credentials."""

    @property
    def fingerprint(self) -> str:
        """The raster's own."""
        return self.identity[0][1]

    @property
    def conditions(self) -> dict[str, str]:
        """Headers that bind a server to this version; none where sidecars, of other versions, are read as well."""
        if self.location.kind == "path" or len(self.identity) > 1:
            return {}
        return remote.condition(self.fingerprint)

    @property
    def unbound(self) -> bool:
        """Whether a server may change the object between two requests, and nobody would notice."""
        return self.location.kind != "path" and not self.conditions

    def demand(self, fingerprint: str) -> None:
        """Refuses a raster that is now another one.

        Raises:
            SourceError: `fingerprint` is not the one that was examined.
        """
        if fingerprint != self.fingerprint:
            raise SourceError(
                f"{self.location}: changed since it was first opened (was {self.fingerprint}; is {fingerprint}); "
                "start again with --restart"
            )


def examine(location: Location | str | os.PathLike[str], *, unsigned: bool = False) -> Examined:
    """Format and identity of a raster, after its header and its sidecars were found harmless.

    Raises:
        SourceError: It is missing, no raster file, neither GeoTIFF nor JPEG 2000, or asks for the impossible.
        GridError: Its pixels have no size.
    """
    place = location if isinstance(location, Location) else parse_location(location)
    header, fingerprint = _look(place, unsigned=unsigned)
    found = [(place.display, fingerprint), *_sidecars(place, unsigned=unsigned)]
    return Examined(
        location=place, driver=header.driver, placed=header.placed, identity=tuple(found), unsigned=unsigned
    )


def now(examined: Examined) -> dict[str, str]:
    """The identity as it is at this moment; equal to ``dict(examined.identity)`` where nothing changed.

    Raises:
        SourceError: The raster is gone, or its server does not answer.
    """
    place, unsigned = examined.location, examined.unsigned
    return dict([(place.display, _fingerprint(place, unsigned=unsigned)), *_sidecars(place, unsigned=unsigned)])


def _fingerprint(place: Location, *, unsigned: bool) -> str:
    if place.kind == "path":
        status = regular_file(place)
        return f"size {status.st_size}, modified {status.st_mtime_ns}"
    return remote.ask(place, _PROBE, 1, unsigned=unsigned).fingerprint


def _look(place: Location, *, unsigned: bool) -> tuple[Header, str]:
    """Header and fingerprint."""
    if place.kind == "path":
        fingerprint = _fingerprint(place, unsigned=unsigned)
        with _reader(place) as read:
            return read_header(str(place), read), fingerprint
    first = remote.ask(place, unsigned=unsigned)
    return read_header(str(place), _remote_reader(place, first, unsigned=unsigned)), first.fingerprint


@contextmanager
def _reader(place: Location) -> Iterator[ReadAt]:
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{place}: {error.strerror}; check its permissions") from error
    try:
        yield lambda offset, length: _pread(descriptor, offset, length)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    return os.pread(descriptor, length, offset) if offset < 2**63 else b""


def _remote_reader(place: Location, first: remote.Answer, *, unsigned: bool) -> ReadAt:
    def read(offset: int, length: int) -> bytes:
        if offset >= first.size:
            return b""
        end = min(offset + length, first.size)
        if end <= len(first.body):
            return first.body[offset:end]
        return remote.ask(place, offset, end - offset, unsigned=unsigned).body

    return read


def _sidecars(place: Location, *, unsigned: bool) -> list[tuple[str, str]]:
    """The sidecars that are there, each with its fingerprint, after a look at what they hold."""
    found = [entry for suffix in SIDECARS if (entry := _sidecar(place, suffix, unsigned=unsigned))]
    if len(found) == 0:
        return []
    return found + [entry for suffix in _OF_SIDECARS if (entry := _sidecar(place, suffix, unsigned=unsigned))]


def _sidecar(place: Location, suffix: str, *, unsigned: bool) -> tuple[str, str] | None:
    beside = place.beside(suffix)
    if beside is None:
        return None
    if beside.kind == "path":
        if not os.path.lexists(beside.href):
            return None
        fingerprint = _fingerprint(beside, unsigned=unsigned)
        with _reader(beside) as read:
            _check_sidecar(beside, read)
        return beside.display, fingerprint
    try:
        answer = remote.ask(beside, unsigned=unsigned)
    except remote.RefusedError:  # 404; or 403, where S3 lists nothing; or a page that says "not found"
        return None
    _check_sidecar(beside, _remote_reader(beside, answer, unsigned=unsigned))
    return beside.display, answer.fingerprint


def _check_sidecar(beside: Location, read: ReadAt) -> None:
    """GDAL opens masks and overviews with any driver: they must be TIFFs, and metadata must name no other file."""
    if beside.href.endswith(".aux.xml"):
        refuse_references(str(beside), read(0, 1 << 24))
    else:
        read_header(str(beside), read)


@contextmanager
def environment(examined: Examined) -> Iterator[None]:
    """GDAL's configuration while `examined` is opened or read."""
    options = remote.gdal_options(examined.location, examined.conditions)
    session = remote.gdal_session(examined.location, unsigned=examined.unsigned)
    # Without sidecars GDAL shall look for none: each look is a request, or a file that nobody checked.
    listing = "TRUE" if len(examined.identity) > 1 else "EMPTY_DIR"
    with rasterio.Env(session, GDAL_DISABLE_READDIR_ON_OPEN=listing, GTIFF_IMPLICIT_JPEG_OVR="NO", **options):
        yield


def open_raster(
    raster: Examined | Location | str | os.PathLike[str], *, unsigned: bool = False, threads: int = 1
) -> Any:
    """The open rasterio dataset of a GeoTIFF or JPEG 2000; close it, or use it in a ``with``.

    Args:
        raster: What to open; an `Examined` one is opened in exactly the version that was examined.
        unsigned: Whether S3 is asked without credentials.
        threads: How many threads decode the blocks of one read.

    Raises:
        SourceError: It cannot be opened, or is not what was examined.
    """
    known = raster if isinstance(raster, Examined) else examine(raster, unsigned=unsigned)
    if isinstance(raster, Examined) and known.location.kind == "path":
        recheck(known)
    options: dict[str, Any] = {"GEOREF_SOURCES": "PAM,INTERNAL"} if known.driver == "GTiff" else {}
    if threads > 1:
        options["NUM_THREADS"] = threads
    with environment(known):
        dataset = _opened(known, lambda: rasterio.open(_name(known.location), driver=known.driver, **options))
    try:
        _check_dataset(known, dataset)
    except SourceError:
        dataset.close()
        raise
    return dataset


def _name(location: Location) -> str | Path:
    """A path as such: rasterio would look for schemes and archives in a string."""
    return location.path if location.kind == "path" else location.gdal


def recheck(known: Examined) -> None:
    """Refuses a raster that is no longer the one that was examined, or that its server no longer gives.

    Raises:
        SourceError: It changed, is gone, or its server does not answer.
    """
    known.demand(_fingerprint(known.location, unsigned=known.unsigned))


def _opened(known: Examined, opening: Callable[[], Any]) -> Any:
    try:
        if known.location.kind != "path":
            return remote.patiently(lambda: _quietly(known, opening), lambda: _look_again(known))
        return _quietly(known, opening)
    except (RasterioError, ValueError, IndexError, UnicodeDecodeError) as error:
        often = "" if known.location.kind == "path" else f" ({remote.ATTEMPTS} attempts)"
        raise SourceError(f"{known.location}: cannot be opened{often}: {reason(error, known.location)}") from None


def _look_again(known: Examined) -> None:
    """As `recheck`, but for all that GDAL needs to open: whatever keeps it from that is met here, and has a name."""
    known.demand(remote.ask(known.location, unsigned=known.unsigned).fingerprint)


def _quietly(known: Examined, opening: Callable[[], Any]) -> Any:
    """Rasterio warns of every file without a transform; whether it needs one is decided elsewhere."""
    if known.placed and known.location.kind != "path":
        return opening()  # may take long, and other threads open theirs meanwhile
    with _warning_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return opening()


def reason(error: Exception, location: Location) -> str:
    """GDAL's own words on one line, without a URL's query and without the name, which stands before them anyway."""
    text = str(getattr(error, "__cause__", None) or error) or type(error).__name__
    names = (location.gdal, location.href, location.display, PurePosixPath(location.display).name)
    for name in (*names, "".join(location.href.partition("?")[1:])):
        text = text.replace(name, "") if name else text
    return " ".join(text.split()).strip(" ':,").rstrip(".") or type(error).__name__


def _check_dataset(known: Examined, dataset: Any) -> None:
    """What the header alone did not tell."""
    name = str(known.location)
    if dataset.count < 1 or min(dataset.shape) < 1:
        raise SourceError(f"{name}: holds no bands; give a raster with pixels")
    for dtype, (rows, cols) in zip(dataset.dtypes, dataset.block_shapes, strict=True):
        if dtype.startswith("complex"):
            raise SourceError(f"{name}: holds complex numbers ({dtype}); convert them to amplitude or reflectance")
        check_blocks(name, rows, cols, np.dtype(dtype).itemsize)


def limit_cache(size: int) -> None:
    """Sets the bytes that GDAL keeps of decoded blocks, for this process; the default, 5 % of all memory, is too much.

    Two rows of the blocks of what is read are enough where reads follow one another downwards.
    """
    from rasterio._env import set_gdal_config

    set_gdal_config("GDAL_CACHEMAX", max(size, 1 << 24))


def read_window(
    path: str | os.PathLike[str], window: Window | None = None, *, bands: list[int] | None = None
) -> Pixels:
    """Stored numbers (band, row, col) of a raster that geoseg wrote itself; the whole of it without `window`.

    Raises:
        SourceError: It cannot be opened or read.
    """
    examined = examine(path)
    with open_raster(examined) as dataset, environment(examined):
        place = None if window is None else ((window.row_off, window.row_stop), (window.col_off, window.col_stop))
        try:
            return np.asarray(dataset.read(bands, window=place))
        except RasterioError as error:
            raise SourceError(f"{path}: cannot be read: {reason(error, parse_location(path))}") from None
