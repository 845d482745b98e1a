"""Windows that are mapped while a person waits: ``POST /segment``.

torch and GDAL are loaded when the first window is asked for, and then the model stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Header, Request, Response
from pydantic import Field, create_model

from geoseg.config import RunConfig
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.serve.inputs import Inputs, model_field
from geoseg.serve.nets import Nets
from geoseg.serve.problems import Problem, problem_responses
from geoseg.serve.service import Service
from geoseg.window import GeoBox, Window, crop_geobox

__all__ = ["WindowRequest", "router"]

_T = TypeVar("_T")

_GEOJSON = "application/geo+json"
_MEDIA_TYPES = ("image/tiff", "image/png", _GEOJSON)
"""In the order of preference of a client that has none."""
_TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
_INSIDE = 128
"""Requests that are waited for at once; each costs next to nothing until it is its turn."""
_OPENING = 4
"""Scenes that are opened at once."""
_SCENES = 16
"""Scenes that stay open."""
_RETRY_AFTER = {"Retry-After": "2"}

_Coordinate = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
"""Of whatever unit: beyond that lies no place on the Earth, and arithmetic may overflow."""


class WindowRequest(Inputs):
    """A window of a scene, and the model that maps it."""

    scene: Annotated[str, Field(min_length=1, max_length=200, description="Id of a scene that the service lists.")]
    model: Annotated[str, Field(description="The model that makes the map, by name.")]
    bbox: Annotated[
        list[_Coordinate],
        Field(
            min_length=4,
            max_length=4,
            description="West, south, east, north: in degrees, or as `crs` has x and y. Pixels whose centres lie "
            "inside are mapped.",
        ),
    ]
    crs: Annotated[
        str | None, Field(pattern=r"^EPSG:[0-9]{4,6}$", description="CRS of the bbox. Default: degrees, WGS 84.")
    ] = None


class _Windows:
    """What answers: the models that are loaded, and the scenes that are open."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nets = Nets(service.places, service.settings.device)
        self._opening = ThreadPoolExecutor(_OPENING, "geoseg-opening")
        self._scenes: OrderedDict[tuple[str, tuple[str, ...]], tuple[Scene[Source], Mapping[str, str]]] = OrderedDict()
        self._lock = threading.Lock()
        self._inside = 0

    def close(self) -> None:
        """Ends all threads and lets the models go."""
        self._opening.shutdown(cancel_futures=True)
        self._nets.close()

    async def answer(self, asked: WindowRequest, kind: str) -> Response:
        """The file of a window.

        Raises:
            Problem: The window is too large, lies elsewhere, or too many wait.
            GeosegError: The scene cannot be read, or the model does not run.
        """
        with self._counted():
            scene, window = await asyncio.wrap_future(self._opening.submit(self._find, asked))
            net = await asyncio.wrap_future(self._nets.get(asked.model))
            from geoseg.serve.window_map import FILES, chunk_of, map_window

            chunk = chunk_of(scene, net.spec, window)
            with net.batcher.turn(chunk.tiles) as turn:

                def make() -> bytes:
                    return FILES[kind](map_window(scene, chunk, net, turn, confidence=kind == _GEOJSON))

                content = await asyncio.wrap_future(net.threads.submit(make))
        place = _place(crop_geobox(scene.geobox, window)) if kind != _GEOJSON else {}
        return Response(content, media_type=_TIFF if kind == "image/tiff" else kind, headers=place)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._inside >= _INSIDE:
            raise Problem(503, "Too busy", f"{_INSIDE} windows wait already; ask again", headers=_RETRY_AFTER)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _find(self, asked: WindowRequest) -> tuple[Scene[Source], Window]:
        """Scene and window of a request."""
        scene = self._scene(asked.scene, self._service.models[asked.model].bands)
        window = _window(asked, scene.geobox)
        side = self._service.settings.window_side
        if max(window.shape) > side:
            height, width = window.shape
            raise Problem(
                422,
                "Window too large",
                f"the bbox holds {height} x {width} pixels; at most {side} a side are answered at once, the process "
                "segment maps more",
                height=height,
                width=width,
                limit=side,
            )
        return scene, window

    def _scene(self, scene_id: str, bands: tuple[str, ...]) -> Scene[Source]:
        """An open scene; one whose files have changed since is opened again."""
        catalogued = self._service.scenes.find(scene_id)
        if catalogued is None:
            raise Problem(400, "No such scene", "the service lists no scene of that id; GET /scenes lists them")
        key = (scene_id, bands)
        with self._lock:
            scene, identity = self._scenes.get(key, (None, {}))
        if scene is None or scene.source.identity() != identity:
            from geoseg.source import open_scene

            scene = open_scene(catalogued.listed, bands=bands)
            identity = scene.source.identity()
        with self._lock:
            self._scenes[key] = scene, identity
            self._scenes.move_to_end(key)
            while len(self._scenes) > _SCENES:
                self._scenes.popitem(last=False)
        return scene


def router(service: Service) -> APIRouter:
    """``/segment``, if there is a model of one date."""
    names = [name for name, spec in service.models.items() if spec.dates == 1]
    if not names:
        return APIRouter()
    windows = _Windows(service)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(windows.close)

    routes = APIRouter(tags=["windows"], lifespan=closing)

    async def segment(
        request: Request,
        body: WindowRequest,
        accept: Annotated[str, Header(max_length=500)] = "*/*",
    ) -> Response:
        kind = _chosen(accept)
        return await _while_asked(request, windows.answer(body, kind), service.settings.patience)

    segment.__annotations__["body"] = _request_of(names)
    answer = {"description": "The map of the window.", "content": {kind: {} for kind in _MEDIA_TYPES}}
    routes.add_api_route(
        "/segment",
        segment,
        methods=["POST"],
        summary="Map a window at once",
        responses={200: answer, **problem_responses(400, 406, 413, 422, 429, 500, 501, 503)},
        response_class=Response,
    )
    return routes


def _request_of(names: Sequence[str]) -> type[WindowRequest]:
    return create_model("Window", __base__=WindowRequest, model=model_field(names, RunConfig))


def _chosen(accept: str) -> str:
    """The media type that a client likes best.

    >>> _chosen("image/png;q=0.5, application/geo+json"), _chosen("*/*"), _chosen("image/*;q=0.1, image/png")
    ('application/geo+json', 'image/tiff', 'image/png')

    Raises:
        Problem: It takes none of them.
    """
    best = max(_MEDIA_TYPES, key=lambda kind: _quality(kind, accept))
    if _quality(best, accept) <= 0:
        raise Problem(406, "Not Acceptable", f"a window comes as {', '.join(_MEDIA_TYPES)}")
    return best


def _quality(kind: str, accept: str) -> float:
    """How much a client wants a media type, from 0 to 1: its most specific word on it counts (RFC 9110)."""
    ranges = ("*/*", f"{kind.partition('/')[0]}/*", kind)
    said = (-1, 0.0)
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name in ranges:
            weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
            said = max(said, (ranges.index(name), _number(weight)))
    return said[1]


def _number(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _window(asked: WindowRequest, geobox: GeoBox) -> Window:
    """The pixels of a scene whose centres lie in the bbox.

    Raises:
        Problem: The bbox is none, or its CRS is unknown.
        GridError: It holds no pixel of the scene.
    """
    import shapely
    from pyproj.exceptions import CRSError

    from geoseg.source.area import Area, area_of_bbox

    west, south, east, north = asked.bbox
    if not south < north or west == east or (asked.crs is not None and not west < east):
        raise Problem(400, "Not a box", "bbox: west, south, east, north, with south below north")
    if asked.crs is None:
        return area_of_bbox((west, south, east, north), geobox)
    try:
        return Area(geometry=shapely.box(west, south, east, north), crs=asked.crs, geobox=geobox).window
    except CRSError:
        raise Problem(400, "Unknown CRS", f"{asked.crs} is no CRS that this service knows") from None


def _place(geobox: GeoBox) -> dict[str, str]:
    """Where a picture lies, in the headers of OGC API - Maps."""
    box = ",".join(f"{value:.15g}" for value in geobox.boundingbox.bbox)
    code = geobox.crs.to_epsg() if geobox.crs is not None else None
    named = {} if code is None else {"Content-Crs": f"<http://www.opengis.net/def/crs/EPSG/0/{code}>"}
    return {"Content-Bbox": box, **named}


async def _while_asked(request: Request, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """What `work` gives, unless the client goes away or it takes too long: then it is cancelled.

    Raises:
        Problem: It took too long.
    """
    doing, gone = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({doing, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if gone.done():
            raise Problem(400, "Bad Request", "the client has gone")
        raise Problem(503, "Too slow", f"the window took longer than {seconds:g} s; ask again", headers=_RETRY_AFTER)
    finally:
        doing.cancel()
        gone.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
