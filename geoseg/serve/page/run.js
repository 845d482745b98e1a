/** The view of one finished run: its layers, classes with areas, facts and files; and of one job. */

import { address, ask, download, hasToken, request } from "./api.js";
import { compareDates } from "./compare.js";
import { PROCESSES, STATES, dismissButton, isOpen } from "./list.js";
import { fit, setLayer, showRun } from "./map.js";
import { alarm, areaText, by, dayText, make, shareText, swatch, timeText } from "./page.js";

const TITLES = {
  labels: "Classes", change: "Change", confidence: "Confidence", change_probability: "Probability of change",
  uncertainty: "Uncertainty", polygons: "Polygons",
};
const SHADES = new Set(["confidence", "change_probability", "uncertainty"]);

/** The run that is shown: its id and classes, for what is clicked. */
export let current = null;

export async function runView(panel, stop, id) {
  const found = await ask(`search?ids=${encodeURIComponent(id)}`);
  const item = found.features[0];
  if (!item) throw Object.assign(new Error("It may have been removed."), { title: "No such map" });
  const names = item.links.filter((link) => link.rel === "tilejson").map((link) => link.title);
  const [report, ...documents] = await Promise.all([
    ask(`jobs/${id}/files/run.json`), ...names.map((name) => ask(`runs/${id}/tiles/${name}/tilejson.json`)),
  ]);
  if (stop.aborted) return;
  const classes = documents.find((json) => json.classes)?.classes ?? [];
  const layers = names.map((name, at) => ({ id: name, json: documents[at], shown: !SHADES.has(name), opacity: 1 }));
  layers.sort((one, other) => SHADES.has(one.id) - SHADES.has(other.id) || (one.id === "polygons") - (other.id === "polygons"));
  layers.sort((one, other) => (one.id === "polygons") - (other.id === "polygons")); // they lie on top
  current = { id, classes };
  const files = Object.values(item.assets).map((asset) => ({ name: asset.href.split("/").pop(), title: asset.title }));
  panel.replaceChildren(
    make("header", {}, back(), make("h1", {}, item.properties.title ?? id)),
    ...(files.some((file) => file.name === "compare.html") ? [comparing(id)] : []),
    layerSection([...layers].reverse()),
    ...areaSection(report.areas ?? [], classes),
    factSection(item),
    fileSection(id, [...files, { name: "item.json", title: "STAC item" }, { name: "run.json", title: "Report" }]),
  );
  stop.addEventListener("abort", () => (current = null));
  showInstead(id, files);
  await showRun({ id, classes, layers });
  fit([item.bbox]);
}

const back = () => make("a.back", { href: "#/" }, "← All maps");

function headed(title, ...children) {
  return make("section", {}, make("h2", {}, title), ...children);
}

function comparing(id) {
  const open = () => compareDates(`jobs/${id}/files/compare.html`).catch(alarm);
  return make("p.row-of-buttons", {}, make("button.button", { type: "button", id: "open-compare", onclick: open }, "Compare both dates"));
}

function layerSection(layers) {
  return headed("Layers", ...layers.map((layer) => {
    const title = TITLES[layer.id] ?? layer.id;
    const change = () => setLayer(layer.id, { shown: box.checked, opacity: slider.value / 100 });
    const box = make("input", { type: "checkbox", id: `show-${layer.id}`, checked: layer.shown, onchange: change });
    const slider = make("input", { type: "range", min: 0, max: 100, step: 5, value: 100, "aria-label": `Opacity: ${title}`, oninput: change });
    return make("div.layer", {}, make("label", {}, box, title), slider);
  }), make("p.faint.keys", {}, "Click a polygon for its attributes; by keys, move the map and press Enter."));
}

function areaSection(areas, classes) {
  if (!areas.length) {
    const rows = classes.map((each) => make("li.class", {}, swatch(each.color), make("span", {}, each.name)));
    return rows.length ? [headed("Classes", make("ul", {}, rows))] : [];
  }
  const total = areas.reduce((sum, area) => sum + area.pixels, 0) || 1;
  const rows = [...areas].sort((one, other) => other.pixels - one.pixels).map((area) => {
    const bar = make("span.bar", { "aria-hidden": "true" });
    bar.style.width = `${(100 * area.pixels) / total}%`;
    bar.style.backgroundColor = `#${area.color}`;
    return make("tr", {}, make("th", { scope: "row" }, make("span.named", {}, swatch(area.color), area.title ?? area.name), make("span.track", {}, bar)),
      make("td", {}, areaText(area.km2)), make("td.faint", {}, shareText(area.pixels / total)));
  });
  const head = ["Class", "Area", "Share"].map((text) => make("th", { scope: "col" }, text));
  return [headed("Classes", make("table", {}, make("thead.hidden", {}, make("tr", {}, head)), make("tbody", {}, rows)))];
}

function factSection(item) {
  const told = item.properties;
  const time = told.start_datetime ? `${dayText(told.start_datetime)} – ${dayText(told.end_datetime)}` : told.datetime && timeText(told.datetime);
  const facts = { Time: time, Scene: told["geoseg:scene"], Model: told["geoseg:model"], CRS: told["proj:code"], Pixels: told["proj:shape"]?.join(" × ") };
  return headed("Facts", factList(facts));
}

export function factList(facts) {
  const told = Object.entries(facts).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return make("dl", {}, told.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

function fileSection(id, files) {
  const rows = files.map(({ name, title }) => {
    const path = `jobs/${id}/files/${name}`;
    const get = (event) => {
      if (!hasToken()) return; // the link does it
      event.preventDefault();
      download(path, name).catch(alarm);
    };
    return make("li", {}, make("a", { href: address(path), download: name, onclick: get }, name), make("span.faint", {}, title ?? ""));
  });
  return headed("Files", make("ul.files", {}, rows));
}

/** Where there is no map, the run's own picture stands in its place. */
async function showInstead(id, files) {
  const place = by("instead"), picture = place.querySelector("img");
  if (place.hidden || !files.some((file) => file.name === "preview.png")) return;
  picture.src = URL.createObjectURL(await (await request(`jobs/${id}/files/preview.png`)).blob());
  picture.alt = "Preview of the map, with its legend";
  picture.hidden = false;
}

export async function jobView(panel, stop, id) {
  let seen = "";
  const look = async () => {
    const job = await ask(`jobs/${id}`), now = JSON.stringify(job);
    if (stop.aborted) return;
    if (isOpen(job)) look.timer = setTimeout(() => look().catch(alarm), 1500);
    if (now === seen) return;
    seen = now;
    if (job.status === "successful" && (job.processID === "segment" || job.processID === "change")) return location.replace(`#/maps/${id}`);
    const results = job.status === "successful" ? await ask(`jobs/${id}/results`) : null;
    const gone = () => (isOpen(job) ? look() : (location.hash = "#/"));
    const facts = { State: STATES[job.status], Asked: timeText(job.created), Started: job.started && timeText(job.started), Ended: job.finished && timeText(job.finished) };
    const held = panel.contains(document.activeElement) && document.activeElement.dataset.key;
    const parts = [
      make("header", {}, back(), make("h1", {}, PROCESSES[job.processID] ?? job.processID)),
      job.status === "running" && make("progress", { max: 100, value: job.progress, "aria-label": "Progress" }),
      job.status === "successful" ? null : make(job.status === "failed" ? "div.problem" : "p.faint", {}, job.message),
      headed("Facts", factList(facts)),
      ...(results ? resultSections(job, results) : []),
      make("p.row-of-buttons", {}, dismissButton(job, isOpen(job) ? "Stop" : "Remove", gone)),
    ];
    panel.replaceChildren(...parts.filter(Boolean));
    if (held) panel.querySelector("[data-key]")?.focus();
  };
  stop.addEventListener("abort", () => clearTimeout(look.timer));
  await look();
}

function resultSections(job, results) {
  if (job.processID === "evaluate") return scoreSections(results.scores ?? results);
  return [fileSection(job.jobID, Object.values(results).map(({ href }) => ({ name: href.split("/").pop() })))];
}

const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "–");

/** Figures of an evaluation: over all, and by class. */
function scoreSections({ overall, classes }) {
  const total = { Accuracy: overall.accuracy, "Mean IoU": overall.miou, Dice: overall.dice, "Boundary F1": overall.boundary_f1 };
  const cells = (each) => [each.iou, each.precision, each.recall].map((value) => make("td", {}, percent(value)));
  const rows = classes.map((each) => make("tr", {}, make("th", { scope: "row" }, each.name), cells(each)));
  const head = ["Class", "IoU", "Precision", "Recall"].map((text) => make("th", { scope: "col" }, text));
  return [
    headed("Scores", factList(Object.fromEntries(Object.entries(total).map(([name, value]) => [name, percent(value)])))),
    headed("Classes", make("table.scores", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows))),
  ];
}
