"use strict";

const by = (id) => document.getElementById(id);
const facts = JSON.parse(by("facts").textContent);
const { width, height } = facts;
const map = by("map");
const pen = map.getContext("2d");
const stage = by("stage");

// --- what the page holds: base64 of deflated bytes ---

async function unpacked(id) {
  const text = atob(by(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function pictureOf(id) {
  const picture = new Image();
  picture.src = "data:image/webp;base64," + by(id).textContent;
  await picture.decode();
  return picture;
}

function readOutlines(bytes, count, steps) {
  let place = 0;
  const next = () => { // 7 bits a byte, the lowest first
    let value = 0, unit = 1, byte;
    do {
      byte = bytes[place++];
      value += (byte & 127) * unit;
      unit *= 128;
    } while (byte > 127);
    return value;
  };
  const firstRing = new Uint32Array(count + 1);
  for (let i = 0; i < count; i++) firstRing[i + 1] = firstRing[i] + next();
  const rings = firstRing[count];
  const firstPoint = new Uint32Array(rings + 1);
  for (let i = 0; i < rings; i++) firstPoint[i + 1] = firstPoint[i] + next();
  const xy = new Float32Array(2 * firstPoint[rings]);
  const at = [0, 0];
  for (let i = 0; i < xy.length; i++) {
    const value = next();
    at[i & 1] += value & 1 ? -(value + 1) / 2 : value / 2;
    xy[i] = at[i & 1] / steps;
  }
  return { firstRing, firstPoint, xy };
}

/** Boxes and sizes (in pixels) of polygons, and their order from the largest on. */
function measure({ firstRing, firstPoint, xy }, count) {
  const box = new Float32Array(4 * count), size = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    let west = Infinity, north = Infinity, east = -Infinity, south = -Infinity, sum = 0;
    for (let ring = firstRing[i]; ring < firstRing[i + 1]; ring++) {
      const stop = 2 * firstPoint[ring + 1];
      let [x0, y0] = [xy[stop - 2], xy[stop - 1]];
      for (let at = 2 * firstPoint[ring]; at < stop; at += 2) {
        const x = xy[at], y = xy[at + 1];
        west = Math.min(west, x), east = Math.max(east, x), north = Math.min(north, y), south = Math.max(south, y);
        sum += x0 * y - x * y0; // holes turn the other way
        x0 = x, y0 = y;
      }
    }
    box.set([west, north, east, south], 4 * i);
    size[i] = Math.abs(sum) / 2;
  }
  return { box, size, order: Uint32Array.from(size.keys()).sort((one, other) => size[other] - size[one]) };
}

async function readPolygons() {
  if (!facts.polygons) return null;
  const { count, steps } = facts.polygons;
  const [bytes, text] = await Promise.all([unpacked("outlines"), unpacked("attributes")]);
  const columns = JSON.parse(new TextDecoder().decode(text));
  const outlines = readOutlines(bytes, count, steps);
  const place = new Map(facts.classes.map((each, at) => [each.value, at]));
  const kinds = Int32Array.from(columns.class_id.numbers, (value) => place.get(value) ?? -1);
  return { count, columns, kinds, ...outlines, ...measure(outlines, count) };
}

async function readLabels() {
  const bytes = await unpacked("labels");
  return facts.labels.bytes === 1 ? bytes : new Uint16Array(bytes.buffer);
}

// --- what is shown ---

const layers = facts.layers.map((each) => ({ ...each, box: by("show-" + each.id), slider: by("opacity-" + each.id) }));
const buttons = new Map([...document.querySelectorAll(".class")].map((button) => [Number(button.dataset.place), button]));
const shown = facts.classes.map((each) => each.shown);
const view = { x: width / 2, y: height / 2, scale: 1 }; // centre in pixels of the map; screen pixels per row of it
const screen = { width: 0, height: 0, dense: 1 };
let labels, polygons, chosen = -1, fit = 1;

const across = () => view.scale * facts.aspect; // screen pixels per column
const onScreen = (x, y) => [(x - view.x) * across() + screen.width / 2, (y - view.y) * view.scale + screen.height / 2];
const onMap = (x, y) => [(x - screen.width / 2) / across() + view.x, (y - screen.height / 2) / view.scale + view.y];

function classPicture() {
  const canvas = new OffscreenCanvas(facts.labels.width, facts.labels.height);
  const brush = canvas.getContext("2d");
  const image = brush.createImageData(canvas.width, canvas.height);
  const palette = new Uint32Array(facts.classes.length + 1); // nothing, where there is no label
  const bytes = new Uint8Array(palette.buffer);
  facts.classes.forEach((each, at) => {
    const color = parseInt(each.color, 16);
    if (shown[at]) bytes.set([color >> 16, (color >> 8) & 255, color & 255, 255], 4 * (at + 1));
  });
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = palette[labels[at]];
  brush.putImageData(image, 0, 0);
  return canvas;
}

/** A class's colour; `light` below 1 is darker. */
function colorOf(kind, light = 1) {
  const color = parseInt(facts.classes[kind]?.color ?? "808080", 16);
  return `rgb(${[16, 8, 0].map((bits) => Math.round(((color >> bits) & 255) * light)).join(" ")})`;
}

// --- drawing ---

let asked = 0;
function draw() {
  asked ||= requestAnimationFrame(() => {
    asked = 0;
    drawNow();
  });
}

function drawNow() {
  const { dense } = screen;
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.globalAlpha = 1;
  pen.clearRect(0, 0, screen.width, screen.height);
  const [left, top] = onScreen(0, 0);
  const [wide, high] = [width * across(), height * view.scale];
  pen.fillStyle = checks();
  pen.fillRect(left, top, wide, high);
  for (const layer of layers) {
    if (!layer.box.checked) continue;
    pen.globalAlpha = layer.slider.value / 100;
    if (layer.id === "polygons" && polygons) drawOutlines();
    if (!layer.picture) continue;
    // Pixels that are larger than those of the screen stay squares.
    pen.imageSmoothingEnabled = wide < layer.picture.width * 1.5;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(layer.picture, left, top, wide, high);
  }
  pen.globalAlpha = 1;
  drawChosen();
  drawScale();
}

let pattern = null;
function checks() {
  if (!pattern) {
    const style = getComputedStyle(document.documentElement);
    const tile = new OffscreenCanvas(16, 16), brush = tile.getContext("2d");
    brush.fillStyle = style.getPropertyValue("--paper");
    brush.fillRect(0, 0, 16, 16);
    brush.fillStyle = style.getPropertyValue("--check");
    brush.fillRect(0, 0, 8, 8);
    brush.fillRect(8, 8, 8, 8);
    pattern = pen.createPattern(tile, "repeat");
  }
  return pattern;
}

// Outlines are drawn on a sheet that reaches beyond the screen. While the map moves, the sheet moves with it, and another is
// drawn, a slice per frame, which takes its place when it is done: however many polygons there are, the map can be moved.
const REACH = 0.25; // of the screen, on each side
const SLICE = 10; // milliseconds
const LEAST = 24; // square pixels of the screen below which a polygon is not drawn: the map shows it
const MOST = 250000; // points that are drawn at most, those of the largest polygons first
const BATCH = 1000; // points of a path: one of all is much slower than many
let sheet = null, drawing = null;

function drawOutlines() {
  if (!covers(sheet) && !(drawing && covers(drawing.sheet))) {
    const next = newSheet();
    drawing = { sheet: next, steps: fill(next) };
    drawSlice(drawing);
  }
  if (!sheet) return;
  const grown = view.scale / sheet.scale, [x, y] = onScreen(sheet.x, sheet.y);
  const [wide, high] = [sheet.width * grown, sheet.height * grown];
  pen.imageSmoothingEnabled = true;
  pen.drawImage(sheet.canvas, x - wide / 2, y - high / 2, wide, high);
}

function drawSlice(work) {
  if (work !== drawing) return; // the map has moved on
  const stop = performance.now() + SLICE;
  while (performance.now() < stop) {
    if (!work.steps.next().done) continue;
    sheet = work.sheet;
    drawing = null;
    return draw();
  }
  requestAnimationFrame(() => drawSlice(work));
}

/** Whether a sheet shows what the screen needs. */
function covers(one) {
  if (!one || one.scale !== view.scale || one.state !== state()) return false;
  return Math.abs(one.x - view.x) * across() < REACH * screen.width && Math.abs(one.y - view.y) * view.scale < REACH * screen.height;
}

const isBare = () => !layers.find((layer) => layer.id === "labels").box.checked;
const state = () => [screen.width, screen.height, screen.dense, isBare(), ...shown].join();

function newSheet() {
  const [wide, high] = [screen.width, screen.height].map((length) => length * (1 + 2 * REACH));
  const canvas = new OffscreenCanvas(Math.round(wide * screen.dense), Math.round(high * screen.dense));
  return { canvas, ...view, width: wide, height: high, state: state() };
}

/** Draws a sheet, batch by batch. */
function* fill({ canvas, width: wide, height: high }) {
  const brush = canvas.getContext("2d"), bare = isBare();
  brush.scale(screen.dense, screen.dense);
  brush.lineJoin = "round";
  brush.lineWidth = bare ? 1.5 : 0.9;
  const frame = { left: wide / 2 - view.x * across(), top: high / 2 - view.y * view.scale, wide, high };
  const stroke = (kind, { path }) => {
    brush.strokeStyle = colorOf(kind, bare ? 1 : 0.45);
    brush.stroke(path);
  };
  const open = new Map();
  let points = 0;
  for (const i of seenIn(frame)) {
    const kind = polygons.kinds[i];
    for (let ring = polygons.firstRing[i]; ring < polygons.firstRing[i + 1]; ring++) {
      if (!open.has(kind)) open.set(kind, { path: new Path2D(), points: 0 });
      const batch = open.get(kind), added = trace(batch.path, ring, frame);
      points += added;
      batch.points += added;
      if (batch.points > BATCH) {
        stroke(kind, batch);
        open.delete(kind);
        yield;
      }
    }
    if (points > MOST) break;
  }
  for (const [kind, batch] of open) stroke(kind, batch);
}

/** Polygons that can be seen, the largest first. */
function* seenIn({ left, top, wide, high }) {
  const { box, size, order, kinds } = polygons, least = LEAST / (across() * view.scale);
  const [west, north] = [-left / across(), -top / view.scale];
  const [east, south] = [west + wide / across(), north + high / view.scale];
  for (const i of order) {
    if (size[i] < least) return; // the others are smaller still
    if (shown[kinds[i]] === false) continue;
    if (box[4 * i] > east || box[4 * i + 2] < west || box[4 * i + 1] > south || box[4 * i + 3] < north) continue;
    yield i;
  }
}

/** Adds a ring to a path: no points within a pixel of the one before, no lines beyond the frame; says how many lines. */
function trace(path, ring, { left, top, wide, high }) {
  const { firstPoint, xy } = polygons, step = across(), down = view.scale, stop = 2 * firstPoint[ring + 1];
  const beyond = (x, y) => (x < -9) | ((x > wide + 9) << 1) | ((y < -9) << 2) | ((y > high + 9) << 3);
  let x0 = xy[stop - 2] * step + left, y0 = xy[stop - 1] * down + top, side0 = beyond(x0, y0), lifted = true, lines = 0;
  for (let at = 2 * firstPoint[ring]; at < stop; at += 2) {
    const x = xy[at] * step + left, y = xy[at + 1] * down + top;
    if (Math.abs(x - x0) + Math.abs(y - y0) < 0.7 && at < stop - 2) continue;
    const side = beyond(x, y);
    if (side & side0) lifted = true;
    else {
      if (lifted) path.moveTo(x0, y0);
      path.lineTo(x, y);
      lifted = false;
      lines++;
    }
    x0 = x, y0 = y, side0 = side;
  }
  return lines;
}

function drawChosen() {
  if (chosen < 0) return;
  const path = new Path2D(), [left, top] = onScreen(0, 0);
  for (let ring = polygons.firstRing[chosen]; ring < polygons.firstRing[chosen + 1]; ring++) {
    trace(path, ring, { left, top, wide: screen.width, high: screen.height });
  }
  pen.lineJoin = pen.lineCap = "round";
  for (const [line, color] of [[4.5, "#000000a0"], [2, "#ffffff"]]) {
    pen.lineWidth = line;
    pen.strokeStyle = color;
    pen.stroke(path);
  }
}

// --- places ---

/** Where a point of the map lies on the unit sphere. */
function spot(x, y) {
  const nodes = facts.nodes, cells = nodes - 1;
  const col = Math.min(cells - 1, Math.max(0, Math.floor(x / width * cells)));
  const row = Math.min(cells - 1, Math.max(0, Math.floor(y / height * cells)));
  const u = x / width * cells - col, v = y / height * cells - row;
  const at = (r, c, axis) => facts.places[3 * (r * nodes + c) + axis];
  return [0, 1, 2].map((axis) =>
    (1 - v) * ((1 - u) * at(row, col, axis) + u * at(row, col + 1, axis)) +
    v * ((1 - u) * at(row + 1, col, axis) + u * at(row + 1, col + 1, axis)));
}

const apart = (one, other) => 6371008.8 * Math.hypot(...one.map((value, axis) => value - other[axis]));
const degrees = ([x, y, z]) => [Math.atan2(y, x), Math.atan2(z, Math.hypot(x, y))].map((angle) => angle * 180 / Math.PI);

function placeText(x, y) {
  if (!facts.places) return `column ${Math.floor(x)}, row ${Math.floor(y)}`;
  const [lon, lat] = degrees(spot(x, y));
  const digits = Math.min(7, Math.max(2, Math.ceil(-Math.log10(facts.metres / 111000))));
  const text = (angle, names) => `${Math.abs(angle).toFixed(digits)}°\u00a0${names[angle < 0 ? 1 : 0]}`;
  return `${text(lat, "NS")}, ${text(lon, "EW")}`;
}

function drawScale() {
  if (!facts.places) {
    by("north").style.display = by("bar").parentElement.style.display = "none";
    return;
  }
  const here = spot(view.x, view.y);
  const metres = apart(here, spot(view.x + 40 / across(), view.y)) / 40; // per pixel of the screen
  const most = 110 * metres, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((step) => step * power).find((each) => each <= most);
  by("bar").style.width = length / metres + "px";
  by("length").textContent = length >= 1000 ? `${length / 1000} km` : `${+length.toPrecision(3)} m`;
  const up = spot(view.x, view.y - 40 / view.scale);
  const [lon, lat] = degrees(here).map((angle) => angle * Math.PI / 180);
  const move = up.map((value, axis) => value - here[axis]);
  const east = -Math.sin(lon) * move[0] + Math.cos(lon) * move[1];
  const north = Math.cos(lat) * move[2] - Math.sin(lat) * (Math.cos(lon) * move[0] + Math.sin(lon) * move[1]);
  by("north").style.rotate = -Math.atan2(east, north) + "rad";
}

// --- what was clicked ---

function classAt(x, y) {
  const { width: cols, height: rows } = facts.labels;
  const [col, row] = [Math.floor(x / width * cols), Math.floor(y / height * rows)];
  return col < 0 || row < 0 || col >= cols || row >= rows ? -1 : labels[row * cols + col] - 1;
}

/** The smallest polygon at a place, among those whose classes are shown. */
function polygonAt(x, y) {
  if (!polygons) return -1;
  const { box, order, kinds } = polygons;
  for (let at = order.length - 1; at >= 0; at--) {
    const i = order[at];
    if (x < box[4 * i] || y < box[4 * i + 1] || x > box[4 * i + 2] || y > box[4 * i + 3]) continue;
    if (shown[kinds[i]] !== false && holds(i, x, y)) return i;
  }
  return -1;
}

function holds(i, x, y) {
  const { firstRing, firstPoint, xy } = polygons;
  let inside = false;
  for (let ring = firstRing[i]; ring < firstRing[i + 1]; ring++) {
    const stop = 2 * firstPoint[ring + 1];
    let x0 = xy[stop - 2], y0 = xy[stop - 1];
    for (let at = 2 * firstPoint[ring]; at < stop; at += 2) {
      const x1 = xy[at], y1 = xy[at + 1];
      if (y0 > y !== y1 > y && x < x0 + (x1 - x0) * (y - y0) / (y1 - y0)) inside = !inside;
      x0 = x1, y0 = y1;
    }
  }
  return inside;
}

function areaText(m2) {
  if (m2 < 1e4) return `${m2.toFixed(m2 < 10 ? 2 : 0)} m²`;
  if (m2 < 1e6) return `${(m2 / 1e4).toFixed(2)} ha`;
  return m2 < 1e8 ? `${(m2 / 1e6).toFixed(2)} km²` : `${Math.round(m2 / 1e6).toLocaleString("en")} km²`;
}

function valueText(name, value) {
  if (typeof value !== "number") return value;
  if (name.startsWith("area")) return areaText(value);
  if (name.startsWith("perimeter")) return value < 1e4 ? `${value.toFixed(0)} m` : `${(value / 1000).toFixed(1)} km`;
  return Number.isInteger(value) ? String(value) : String(+value.toPrecision(4));
}

function attributesOf(i) {
  return Object.entries(polygons.columns)
    .filter(([name, { at }]) => !(facts.unlisted.includes(name) || (facts.told.includes(name) && !at)))
    .map(([name, { numbers, words, at }]) => [name, numbers ? numbers[i] : words[at ? at[i] : 0]])
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [facts.titles[name] ?? name, valueText(name, value)]);
}

function choose(x, y) {
  chosen = polygonAt(x, y);
  const kind = chosen < 0 ? classAt(x, y) : polygons.kinds[chosen];
  draw();
  if (kind < 0 && chosen < 0) return close();
  const rows = chosen < 0 ? [] : attributesOf(chosen);
  rows.push(["Place", placeText(x, y)]);
  by("card-title").textContent = facts.classes[kind]?.title ?? "Polygon";
  by("card-swatch").style.background = colorOf(kind);
  by("card-note").textContent = chosen < 0 ? facts.noPolygon : "";
  by("card-note").hidden = chosen >= 0;
  by("card-facts").replaceChildren(...rows.flatMap(([name, text]) => {
    const [term, told] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    told.textContent = text;
    return [term, told];
  }));
  by("card").hidden = false;
}

function close() {
  chosen = -1;
  by("card").hidden = true;
  draw();
}

// --- moving ---

function keepNear() {
  view.scale = Math.min(64, Math.max(fit / 2, view.scale));
  view.x = Math.min(width, Math.max(0, view.x));
  view.y = Math.min(height, Math.max(0, view.y));
  draw();
}

function showWhole() {
  Object.assign(view, { x: width / 2, y: height / 2, scale: fit });
  draw();
}

/** Zooms about a point of the screen, which stays where it is. */
function zoom(factor, x = screen.width / 2, y = screen.height / 2) {
  const [px, py] = onMap(x, y);
  view.scale = Math.min(64, Math.max(fit / 2, view.scale * factor));
  view.x = px - (x - screen.width / 2) / across();
  view.y = py - (y - screen.height / 2) / view.scale;
  keepNear();
}

function move(x, y) {
  view.x -= x / across();
  view.y -= y / view.scale;
  keepNear();
}

const at = (event) => {
  const box = map.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

const fingers = new Map();
let travelled = 0;

map.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  map.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  if (fingers.size === 1) travelled = 0;
  map.classList.add("moving");
});

map.addEventListener("pointermove", (event) => {
  const now = at(event), before = fingers.get(event.pointerId);
  if (!before) return tellPlace(...now);
  fingers.set(event.pointerId, now);
  travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (fingers.size === 1) {
    if (travelled > 4) move(now[0] - before[0], now[1] - before[1]);
  } else if (fingers.size === 2) {
    const [, other] = [...fingers].find(([id]) => id !== event.pointerId);
    const span = (point) => Math.max(10, Math.hypot(point[0] - other[0], point[1] - other[1]));
    move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    zoom(span(now) / span(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
});

function lift(event) {
  const known = fingers.delete(event.pointerId);
  if (fingers.size === 0) map.classList.remove("moving");
  if (known && fingers.size === 0 && travelled <= 4 && event.type === "pointerup") choose(...onMap(...at(event)));
  if (fingers.size > 0) travelled = Infinity;
}
map.addEventListener("pointerup", lift);
map.addEventListener("pointercancel", lift);
map.addEventListener("pointerleave", () => { by("where").textContent = ""; });
map.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
map.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 18 : 1;
  zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), ...at(event));
}, { passive: false });

function tellPlace(x, y) {
  const [px, py] = onMap(x, y);
  const inside = px >= 0 && py >= 0 && px < width && py < height;
  const kind = inside && labels ? classAt(px, py) : -1;
  by("where").textContent = inside ? placeText(px, py) + (kind < 0 ? "" : ` · ${facts.classes[kind].title}`) : "";
}

const KEYS = {
  ArrowLeft: () => move(80, 0),
  ArrowRight: () => move(-80, 0),
  ArrowUp: () => move(0, 80),
  ArrowDown: () => move(0, -80),
  "+": () => zoom(1.5),
  "=": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  "0": showWhole,
  Enter: () => choose(view.x, view.y),
  " ": () => choose(view.x, view.y),
};
map.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || by("card").hidden) return;
  if (by("card").contains(document.activeElement)) map.focus({ preventScroll: true });
  close();
});

by("nearer").addEventListener("click", () => zoom(1.5));
by("farther").addEventListener("click", () => zoom(1 / 1.5));
by("whole").addEventListener("click", showWhole);
by("close").addEventListener("click", () => {
  close();
  map.focus({ preventScroll: true });
});

// --- layers and classes ---

for (const layer of layers) {
  layer.box.addEventListener("change", () => {
    layer.slider.disabled = !layer.box.checked;
    draw();
  });
  layer.slider.addEventListener("input", draw);
}

function showClasses(places, on) {
  for (const place of places) {
    shown[place] = on;
    buttons.get(place)?.setAttribute("aria-pressed", on);
    for (const bar of document.querySelectorAll(`.chart [data-place="${place}"]`)) bar.classList.toggle("off", !on);
  }
  layers.find((layer) => layer.id === "labels").picture = classPicture();
  if (chosen >= 0 && shown[polygons.kinds[chosen]] === false) close();
  draw();
}
for (const [place, button] of buttons) button.addEventListener("click", () => showClasses([place], !shown[place]));
by("all").addEventListener("click", () => showClasses(shown.keys(), true));
by("none").addEventListener("click", () => showClasses(shown.keys(), false));

// --- begin ---

function resize() {
  const whole = view.scale === fit;
  Object.assign(screen, { width: stage.clientWidth, height: stage.clientHeight, dense: window.devicePixelRatio || 1 });
  map.width = Math.round(screen.width * screen.dense);
  map.height = Math.round(screen.height * screen.dense);
  fit = 0.96 * Math.min(screen.width / (width * facts.aspect), screen.height / height);
  if (whole) view.scale = fit;
  drawNow(); // a canvas that was resized is empty
}

// The address can say how the page opens: view.html#column=120&row=80&scale=6&layers=scene,polygons
function obey() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name, otherwise) => (wanted.has(name) ? Number(wanted.get(name)) || 0 : otherwise);
  Object.assign(view, { x: number("column", view.x), y: number("row", view.y), scale: number("scale", view.scale) });
  const named = wanted.get("layers")?.split(",");
  for (const layer of layers) {
    if (named) layer.box.checked = named.includes(layer.id);
    layer.slider.disabled = !layer.box.checked;
  }
  keepNear();
}

async function begin() {
  view.scale = fit;
  new ResizeObserver(resize).observe(stage);
  resize();
  labels = await readLabels();
  for (const layer of layers) {
    if (layer.id === "labels") layer.picture = classPicture();
    else if (layer.id !== "polygons") layer.picture = await pictureOf(layer.id);
  }
  draw();
  polygons = await readPolygons();
  obey();
  window.addEventListener("hashchange", obey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { pattern = null; draw(); });
  drawNow();
  document.documentElement.dataset.ready = "yes";
}
begin();
