"""Weights that torchgeo knows the addresses of, by the names of its enums.

Of an enum only what it says is used: address, bands, classes, encoder. Its transforms are not run; what they do to
reflectance is written here, by data set.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from geoseg.errors import MissingExtraError, ModelError, SourceError, without_secrets
from geoseg.models.checkpoints import plain_data
from geoseg.models.convert import cache_dir
from geoseg.models.foreign import Net
from geoseg.scene import Scaling

if TYPE_CHECKING:
    from torchvision.models._api import WeightsEnum

__all__ = ["fetched", "net_of_enum"]

_DATASETS: Mapping[str, Mapping[str, Any]] = {
    # Two Sentinel-2 scenes of one growing season; stored numbers / 3000, that is reflectance / 0.3.
    "FTW": {
        "dates": 2,
        "value_scaling": [{"type": "scale", "value": 0.3}],
        "assume_scaling": Scaling(scale=1e-4),
        "tile": 256,
        "description": "agricultural fields (Fields of The World) from two Sentinel-2 scenes of one growing season",
    },
    # 8-bit aerial pictures, their numbers as they are.
    "OAM-TCD": {"value_scaling": [], "tile": 1024, "description": "tree canopy on 8-bit pictures of 10 cm per pixel"},
}
_FIELDS = {2: ["background", "field"], 3: ["background", "field", "boundary"]}
_HASH = re.compile(r"-([a-f0-9]{8,64})\.\w+$")
_WAIT = 60.0
"""Seconds without an answer after which a server counts as gone."""


def net_of_enum(name: str, place: str | None = None) -> Net:
    """The net of a weights enum, its weights fetched once and kept in the user's cache.

    Args:
        name: ``Unet_Weights.SENTINEL2_3CLASS_FTW``.
        place: File or URL of the weights, in place of the enum's own address.

    Raises:
        ModelError: There is no such enum, or it is of an encoder, which gives no classes.
        SourceError: The weights cannot be fetched.
        MissingExtraError: torchgeo is not installed.
    """
    entry = _enum(name)
    meta: dict[str, Any] = entry.meta
    known = _DATASETS.get(meta.get("dataset", ""))
    if meta.get("model") != "U-Net" or "num_classes" not in meta or known is None:
        raise ModelError(f"{name} is no net that gives classes: {', '.join(_listed())} can be imported")
    dates = known.get("dates", 1)
    channels = meta["in_chans"] // dates
    bands = list(meta["bands"])[:channels]
    promised = _HASH.search(entry.url)
    own = place is None or urlsplit(place).path.endswith(_file_name(entry.url))
    state = plain_data(fetched(place or entry.url, promised[1] if promised and own else None))
    arguments = {"encoder_name": meta["encoder"], "in_channels": channels, "classes": meta["num_classes"]}
    links = {key: meta[key] for key in ("license", "publication", "repo") if meta.get(key)}
    return Net(
        architecture="FCEF" if dates == 2 else "Unet",
        arguments=arguments | ({"dates": dates} if dates > 1 else {}),
        state=state,
        channels=channels,
        outputs=meta["num_classes"],
        known={
            **known,
            "bands": bands,
            "classes": list(meta.get("classes") or _FIELDS[meta["num_classes"]]),
            "properties": {"license": links.pop("license", None), "geoseg:origin": {"weights": entry.url, **links}},
        },
    )


def _enums() -> dict[str, WeightsEnum]:
    try:
        from torchgeo.models import Unet_Weights
    except ImportError as error:
        raise MissingExtraError(f"torchgeo cannot be imported ({error}): pip install 'geoseg[torchgeo]'") from error
    return {f"Unet_Weights.{each.name}": each for each in Unet_Weights.__members__.values()}


def _listed() -> list[str]:
    return sorted(_enums())


def _enum(name: str) -> WeightsEnum:
    enums = _enums()
    if name not in enums:
        raise ModelError(f"{name} is no net of torchgeo that gives classes: there are {', '.join(sorted(enums))}")
    return enums[name]


def _file_name(url: str) -> str:
    return "/" + urlsplit(url).path.rpartition("/")[2]


def fetched(place: str, digest: str | None = None) -> Path:
    """A file by its path, or of a URL its copy in the user's cache.

    Args:
        place: Path or URL.
        digest: What its SHA-256 begins with, hexadecimal; None: nobody knows.

    Raises:
        SourceError: It cannot be fetched, or has another hash.
    """
    address = urlsplit(place)
    if not address.scheme:
        if not Path(place).is_file():
            raise SourceError(f"{place}: no such file")
        _check_hash(Path(place), place, digest)
        return Path(place)
    if address.scheme not in ("http", "https"):
        raise SourceError(f"{without_secrets(place)}: weights are fetched over http and https only")
    folder = cache_dir() / "weights"
    target = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}{_file_name(place).replace('/', '-')}"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(place, target, digest)
    return target


def _fetch(url: str, target: Path, digest: str | None) -> None:
    number, name = tempfile.mkstemp(dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(number, "wb") as file, urlopen(url, timeout=_WAIT) as answer:  # noqa: S310 - http(s) only
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
        if expected is not None and draft.stat().st_size != int(expected):
            raise SourceError(f"{without_secrets(url)}: {draft.stat().st_size} of {expected} bytes came; try again")
        _check_hash(draft, url, digest)
        draft.replace(target)
    except (OSError, HTTPException) as error:
        if isinstance(error, SourceError):
            raise
        if isinstance(error, HTTPError):
            error.close()
        raise SourceError(
            f"{without_secrets(url)}: cannot be fetched ({error}); name a copy of the file with --weights FILE"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _check_hash(path: Path, place: str, digest: str | None) -> None:
    if digest is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digest):
        raise SourceError(
            f"{without_secrets(place)}: its SHA-256 should begin with {digest} and is {found[:12]}...: "
            "the file is damaged or was replaced"
        )
