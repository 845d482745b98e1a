"""Whether a catalog tells the truth: valid documents, links that lead somewhere, files that are what they were.

Any static STAC catalog on a disk or in a bucket can be examined. Nothing is asked of web servers: links to them are
taken as they are.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.catalog.table import read_table, table_of
from geoseg.catalog.tree import GEOJSON, ROOT, TABLE, reached
from geoseg.errors import ConfigError, MissingExtraError, SinkError, SourceError
from geoseg.store import Place, open_store
from geoseg.store.disk import describe

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["examine_catalog"]

_ANEW = "geoseg catalog add RUNDIR writes it anew"
_SHA256 = "1220"
"""How a multihash of SHA-256 begins."""
_KINDS = {"Catalog": "CATALOG", "Collection": "COLLECTION", "Feature": "ITEM"}
"""Type of a document -> what pystac calls it."""


def examine_catalog(catalog: Place, *, schemas: Path | None = None, checksums: bool = True) -> list[str]:
    """Everything that is wrong with a catalog, a line each; empty if nothing is.

    Args:
        catalog: Folder or prefix that holds ``catalog.json``.
        schemas: Folder of extensions' JSON schemas as ``NAME/VERSION/schema.json``; those that are not there, and
            without a folder all of them, are left out. The core's schemas come with pystac.
        checksums: Whether assets are read whole and compared with their checksums; else only their sizes are.

    Raises:
        ConfigError: `schemas` is no folder.
        MissingExtraError: The packages that validate are not installed.
    """
    if schemas is not None and not schemas.is_dir():
        raise ConfigError(f"{schemas}: is no folder; name one that holds NAME/VERSION/schema.json")
    examination = _Examination(reached(".", open_store(catalog).href()), _Schemas(schemas), checksums=checksums)
    examination.walk()
    return examination.findings


class _Schemas:
    """Validation without a network."""

    def __init__(self, folder: Path | None) -> None:
        try:
            from pystac.validation.stac_validator import JsonSchemaSTACValidator

            self._validator = JsonSchemaSTACValidator()
        except ImportError as error:
            raise MissingExtraError("validation needs jsonschema: pip install 'geoseg[catalog]'") from error
        self._known = set()
        for path in sorted(folder.glob("*/*/schema.json")) if folder else ():
            place = path.parent.relative_to(folder).as_posix() if folder else ""
            uri = f"https://stac-extensions.github.io/{place}/schema.json"
            self._validator.schema_cache[uri] = json.loads(path.read_text(encoding="utf-8"))
            self._known.add(uri)

    def findings(self, document: dict[str, Any]) -> Iterator[str]:
        """What the schemas say against a document."""
        import pystac
        from pystac.validation.stac_validator import GetSchemaError

        told = pystac.STACObjectType[_KINDS[document["type"]]], str(document.get("stac_version"))
        extensions = sorted(self._known & set(document.get("stac_extensions") or ()))
        checks = [partial(self._validator.validate_core, document, *told)]
        checks += [partial(self._validator.validate_extension, document, *told, uri) for uri in extensions]
        for check in checks:
            try:
                check()
            except pystac.STACValidationError as error:
                yield " ".join(str(error).split())[:300]
            except GetSchemaError as error:
                yield f"its schema is not at hand ({' '.join(str(error).split())[:200]})"


class _Examination:
    """One walk over the documents of a catalog."""

    def __init__(self, catalog: Place, schemas: _Schemas, *, checksums: bool) -> None:
        self.findings: list[str] = []
        self._home, self._root = catalog, reached(ROOT, catalog)
        self._schemas, self._checksums = schemas, checksums
        self._names: dict[str, set[str]] = {}
        self._placed: list[dict[str, Any]] = []

    def walk(self) -> None:
        """Examines the root and all that it links to."""
        waiting: list[tuple[Place, Place | None]] = [(self._root, None)]
        seen = set()
        while waiting:
            place, parent = waiting.pop()
            if str(place) in seen:
                self._say(place, "is linked twice")
                continue
            seen.add(str(place))
            document = self._read(place)
            if document is None:
                continue
            for text in self._schemas.findings(document):
                self._say(place, text)
            links = [link for link in document["links"] if link.get("href")]
            self._examine_links(place, parent, document, links)
            below = [link["href"] for link in links if link.get("rel") in {"child", "item"}]
            waiting += [(reached(href, _folder(place)), place) for href in reversed(below)]
            if document["type"] == "Feature":
                self._examine_assets(place, document)
                self._placed.append(self._as_listed(place, document))
        if TABLE in self._entries(self._home):
            self._examine_table()

    def _say(self, place: Place, text: str) -> None:
        self.findings.append(f"{place}: {text}")

    def _entries(self, folder: Place) -> set[str]:
        """Names of the files in a folder, which is listed once."""
        key = str(folder)
        if key not in self._names:
            self._names[key] = set(open_store(folder).entries())
        return self._names[key]

    def _is_there(self, place: Place) -> bool:
        return _scheme(place) not in {"", "s3"} or _name(place) in self._entries(_folder(place))

    def _read(self, place: Place) -> dict[str, Any] | None:
        if _scheme(place) not in {"", "s3"}:
            self._say(place, "is on a web server and was not examined")
            return None
        try:
            with open_store(_folder(place)).open(_name(place)) as file:
                document = json.load(file)
        except FileNotFoundError:
            self._say(place, "is gone")
        except (OSError, ValueError) as error:
            self._say(place, f"cannot be read ({' '.join(str(error).split())[:200]})")
        else:
            if (
                isinstance(document, dict)
                and document.get("type") in _KINDS
                and isinstance(document.get("links"), list)
            ):
                return document
            self._say(place, "is no catalog, collection or item")
        return None

    def _examine_links(
        self, place: Place, parent: Place | None, document: Mapping[str, Any], links: Sequence[Mapping[str, Any]]
    ) -> None:
        """Each leads somewhere; those to root, parent and collection lead where the walk came from."""
        expected = {"root": self._root, "parent": parent, "collection": parent}
        for link in links:
            relation, target = link.get("rel"), reached(str(link["href"]), _folder(place))
            if relation in expected and str(target) != str(expected[relation] or target):
                self._say(place, f"its link {relation} leads to {target}, not to {expected[relation]}")
            elif relation not in {"child", "item"} and not self._is_there(target):  # those are read anyway
                self._say(place, f"its link {relation} leads to {target}, which is gone")
        folder = "" if parent is None else _name(_folder(parent))
        if document["type"] == "Feature" and parent is not None and document.get("collection") not in {None, folder}:
            self._say(place, f"says that it is of the collection {document['collection']}, not of {folder}")

    def _examine_assets(self, place: Place, document: Mapping[str, Any]) -> None:
        for key, asset in document.get("assets", {}).items():
            target = reached(str(asset["href"]), _folder(place))
            if not self._is_there(target):
                self._say(place, f"its asset {key} is gone: {target}")
            elif _scheme(target) in {"", "s3"}:
                for text in self._file_findings(target, asset):
                    self._say(place, f"its asset {key} is not the file that it was: {text}: {target}")

    def _file_findings(self, place: Place, asset: Mapping[str, Any]) -> Iterator[str]:
        """Size first, which costs nothing."""
        size, checksum = asset.get("file:size"), str(asset.get("file:checksum", ""))
        with open_store(_folder(place)).open(_name(place)) as file:
            found = file.seek(0, SEEK_END)
            if size is not None and found != size:
                yield f"{found} bytes, not {size}"
            elif self._checksums and checksum.startswith(_SHA256):
                file.seek(0)
                if describe(file)["sha256"] != checksum.removeprefix(_SHA256):
                    yield "another checksum"

    def _as_listed(self, place: Place, document: Mapping[str, Any]) -> dict[str, Any]:
        """The item as its row in the table has it."""
        own = {"rel": "self", "href": f"./{posixpath.relpath(str(place), str(self._home))}", "type": GEOJSON}
        return {**document, "links": [own, *document["links"]]}

    def _examine_table(self) -> None:
        """The table says what the files say."""
        place = reached(TABLE, self._home)
        try:
            expected, stored = table_of(self._placed), read_table(open_store(self._home))
        except (SinkError, SourceError) as error:
            self._say(place, str(error).removeprefix(f"{place}: "))
            return
        rows, found = _by_id(stored), _by_id(expected)
        for key in sorted(rows.keys() | found.keys()):
            if key not in found:
                self._say(place, f"lists {key[1]}, which the catalog does not; {_ANEW}")
            elif rows.get(key) != found[key]:
                self._say(place, f"{'says something else of' if key in rows else 'lacks'} {key[1]}; {_ANEW}")


def _by_id(table: pa.Table | None) -> dict[tuple[str, str], Any]:
    """Rows by collection and id, without nulls and empty objects: a table cannot tell them from what is not there."""
    rows = [] if table is None else table.to_pylist()
    return {(str(row.get("collection")), str(row["id"])): _there(row) for row in rows}


def _there(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: kept for key, each in value.items() if (kept := _there(each)) not in (None, {})}
    return [_there(each) for each in value] if isinstance(value, list) else value


def _folder(place: Place) -> Place:
    folder = str(place).rpartition("/")[0]
    return folder if _scheme(place) else Path(folder)


def _name(place: Place) -> str:
    return str(place).rpartition("/")[2]


def _scheme(place: Place) -> str:
    scheme, found, _ = str(place).partition("://")
    return scheme if found else ""
