/** The map: where scenes and runs are, and the layers of one run. */

import { address, headersFor } from "./api.js";
import { by } from "./page.js";

const EMPTY = { type: "FeatureCollection", features: [] };
const HIT = 4; // pixels around a click
const SHARP = 2; // zooms below the map's own pixels at which tiles still show them as the squares that they are
const DEEPEST = 22;

let map = null;
let ready = Promise.resolve();
let run = null; // { id, classes, layers }

/** Starts the map; false where the browser, or the service, cannot have one. */
export function startMap(onPick) {
  const canvas = document.createElement("canvas");
  if (!globalThis.maplibregl) return "The service has no MapLibre, so there is no map. On its machine: pip install 'geoseg[serve]'.";
  if (!canvas.getContext("webgl2") && !canvas.getContext("webgl")) return "This browser has no WebGL, so there is no map.";
  map = new maplibregl.Map({
    container: "map",
    style: baseStyle(),
    center: [10, 25],
    zoom: 1.2,
    maxZoom: 21,
    attributionControl: false,
    dragRotate: false,
    pitchWithRotate: false,
    touchPitch: false,
    fadeDuration: 0,
    locale: { "Map.Title": "Map" },
    transformRequest: (url) => ({ url, headers: headersFor(url) }),
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-left");
  map.addControl(new maplibregl.ScaleControl(), "bottom-left");
  map.on("error", () => {}); // a tile that is missing is a hole; what matters is asked for by the page, too
  ready = new Promise((resolve) => map.once("load", resolve));
  map.on("click", (event) => onPick(pick(event.point)));
  map.on("mousemove", ({ point }) => (map.getCanvas().style.cursor = pick(point) ? "pointer" : ""));
  map.getCanvas().addEventListener("keydown", (event) => {
    if (event.key === "Enter") onPick(pick(map.project(map.getCenter())));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  map.on("dataloading", () => by("map").setAttribute("aria-busy", "true"));
  map.on("idle", () => by("map").setAttribute("aria-busy", "false"));
  return "";
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function baseStyle() {
  const line = (id, source, filter, paint) => ({ id, type: "line", source, ...(filter && { filter }), paint });
  const of = (kind) => ["==", ["get", "kind"], kind];
  return {
    version: 8,
    sources: { graticule: { type: "geojson", data: graticule(10) }, degrees: { type: "geojson", data: graticule(1) }, places: { type: "geojson", data: EMPTY } },
    layers: [
      { id: "ground", type: "background", paint: { "background-color": color("ground") } },
      line("graticule", "graticule", null, { "line-color": color("check"), "line-width": 1 }),
      { ...line("degrees", "degrees", null, { "line-color": color("check"), "line-width": 1 }), minzoom: 5 },
      { id: "places", type: "fill", source: "places", paint: { "fill-color": color("accent"), "fill-opacity": 0.12 } },
      line("scenes", "places", of("scene"), { "line-color": color("faint"), "line-width": 1.25, "line-dasharray": [3, 2] }),
      line("runs", "places", of("run"), { "line-color": color("accent"), "line-width": 2 }),
      { id: "spots", type: "circle", source: "places", filter: ["==", ["geometry-type"], "Point"], paint: spotPaint() },
    ],
  };
}

/** Areas too small to be seen are spots on a map of the world. */
function spotPaint() {
  return {
    "circle-color": color("accent"), "circle-stroke-color": color("paper"), "circle-stroke-width": 2,
    "circle-radius": ["interpolate", ["linear"], ["zoom"], 0, 6, 8, 6, 10, 0],
    "circle-stroke-opacity": ["step", ["zoom"], 1, 10, 0],
  };
}

function paint() {
  const colors = [
    ["ground", "background-color", "ground"], ["graticule", "line-color", "check"], ["degrees", "line-color", "check"], ["places", "fill-color", "accent"],
    ["scenes", "line-color", "faint"], ["runs", "line-color", "accent"], ["spots", "circle-color", "accent"],
    ["spots", "circle-stroke-color", "paper"],
  ];
  for (const [layer, property, name] of colors) map.setPaintProperty(layer, property, color(name));
}

/** Meridians and parallels, some degrees apart. */
function graticule(step) {
  const lines = [];
  for (let lon = -180; lon <= 180; lon += step) lines.push([[lon, -85], [lon, 85]]);
  for (let lat = -80; lat <= 80; lat += step) lines.push(Array.from({ length: 37 }, (_, at) => [at * 10 - 180, lat]));
  return { type: "MultiLineString", coordinates: lines };
}

/** Shows where things are: [{ kind: "scene" or "run", id, geometry, bbox }]. */
export async function showPlaces(places) {
  if (!map) return;
  await ready;
  const features = places.flatMap(({ kind, id, geometry, bbox }) => {
    const properties = { kind, id }, [west, south, east, north] = unwound(bbox);
    const middle = { type: "Point", coordinates: [(west + east) / 2, (south + north) / 2] };
    return [geometry, middle].map((shape) => ({ type: "Feature", properties, geometry: shape }));
  });
  map.getSource("places").setData({ type: "FeatureCollection", features });
}

/** Puts the layers of a run on the map in place of another's: { id, classes, layers: [{ id, json, shown, opacity }] }. */
export async function showRun(next) {
  if (!map) return;
  await ready;
  by("map").setAttribute("aria-busy", "true");
  clearRun();
  map.triggerRepaint(); // after which it tells when it is done
  run = next;
  if (!run) return;
  map.setPaintProperty("places", "fill-opacity", 0);
  for (const { id, json, shown, opacity } of run.layers) {
    const suffix = id === "polygons" ? "mvt" : "png";
    const { bounds, minzoom, maxzoom } = json;
    const tiles = [address(`runs/${run.id}/tiles/${id}/`) + `{z}/{x}/{y}.${suffix}`];
    const about = { tiles, bounds, minzoom, maxzoom };
    if (id === "polygons") addPolygons(about);
    else addRaster(id, about, json);
    setLayer(id, { shown, opacity });
  }
}

function clearRun() {
  const ours = map.getStyle().layers.filter((layer) => layer.metadata === "run").map((layer) => layer.id);
  for (const id of ours) map.removeLayer(id);
  for (const id of Object.keys(map.getStyle().sources)) if (id.startsWith("run-")) map.removeSource(id);
  map.setPaintProperty("places", "fill-opacity", 0.12);
}

function addRaster(id, about, json) {
  map.addSource(`run-${id}`, { type: "raster", tileSize: json.tileSize, ...about, maxzoom: Math.min(DEEPEST, about.maxzoom + SHARP) });
  const paint = { "raster-resampling": json.classes ? "nearest" : "linear", "raster-fade-duration": 0 };
  map.addLayer({ id: `run-${id}`, type: "raster", source: `run-${id}`, metadata: "run", paint });
}

function addPolygons(about) {
  map.addSource("run-polygons", { type: "vector", ...about });
  const layer = (id, type, paint, more = {}) =>
    map.addLayer({ id, type, source: "run-polygons", "source-layer": "polygons", metadata: "run", paint, ...more });
  layer("polygons-fill", "fill", { "fill-color": classColors(1) });
  layer("polygons-line", "line", { "line-color": classColors(0.45), "line-width": 1 });
  const chosen = { filter: ["==", ["id"], -1], layout: { "line-join": "round", "line-cap": "round" } };
  layer("chosen-below", "line", { "line-color": "#000000a0", "line-width": 5 }, chosen);
  layer("chosen", "line", { "line-color": "#ffffff", "line-width": 2.25 }, chosen);
}

/** The colour of each class, `light` below 1 darker. */
function classColors(light) {
  const dark = (hex) => `rgb(${[0, 2, 4].map((at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * light)).join(",")})`;
  const pairs = run.classes.flatMap((each) => [each.value, dark(each.color)]);
  return pairs.length ? ["match", ["get", "class_id"], ...pairs, dark("808080")] : dark("808080");
}

/** Shows or hides a layer of the run, or lets shine through what is below it. */
export function setLayer(id, { shown, opacity }) {
  if (!map) return;
  const seen = shown ? "visible" : "none";
  const ids = id === "polygons" ? ["polygons-fill", "polygons-line", "chosen-below", "chosen"] : [`run-${id}`];
  for (const each of ids) map.setLayoutProperty(each, "visibility", seen);
  if (id !== "polygons") return map.setPaintProperty(`run-${id}`, "raster-opacity", opacity);
  map.setPaintProperty("polygons-fill", "fill-opacity", opacity * 0.3);
  map.setPaintProperty("polygons-line", "line-opacity", opacity);
}

/** Draws a line around one polygon of the run; null: around none. */
export function choose(id) {
  if (!map?.getLayer("chosen")) return;
  for (const layer of ["chosen-below", "chosen"]) map.setFilter(layer, ["==", ["id"], id ?? -1]);
}

/** What is at a point of the screen: { polygon } or { place }; null where nothing is. */
function pick(point) {
  const layers = (...names) => names.filter((name) => map.getLayer(name));
  const box = [[point.x - HIT, point.y - HIT], [point.x + HIT, point.y + HIT]];
  const polygons = map.getLayer("polygons-fill") ? map.queryRenderedFeatures([point.x, point.y], { layers: ["polygons-fill"] }) : [];
  if (polygons.length) {
    const polygon = polygons.reduce((one, other) => (other.properties.area_m2 < one.properties.area_m2 ? other : one));
    return { polygon: { id: polygon.id, ...polygon.properties } };
  }
  if (run) return null;
  const places = map.queryRenderedFeatures(box, { layers: layers("spots", "runs", "places") });
  const place = places.find((each) => each.properties.kind === "run") ?? places[0];
  return place ? { place: { ...place.properties } } : null;
}

function unwound([west, south, east, north]) {
  return [west, south, east < west ? east + 360 : east, north];
}

/** Moves the map so that it shows a box, or several. */
export async function fit(boxes) {
  if (!map || !boxes.length) return;
  await ready;
  map.resize(); // the view may have changed its size
  const all = boxes.map(unwound);
  const [west, south] = [0, 1].map((at) => Math.min(...all.map((box) => box[at])));
  const [east, north] = [2, 3].map((at) => Math.max(...all.map((box) => box[at])));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  map.fitBounds([[west, south], [east, north]], { padding: { left: 64, right: 40, top: 40, bottom: 40 }, maxZoom: 17, duration: still ? 0 : 600 });
}

/** West, south, east, north of what the map shows, or null where there is no map. */
export function seenBox() {
  if (!map) return null;
  const [[west, south], [east, north]] = map.getBounds().toArray();
  const within = (value, most) => Math.max(-most, Math.min(most, value));
  return [within(west, 180), within(south, 90), within(east, 180), within(north, 90)].map((value) => Number(value.toFixed(5)));
}
